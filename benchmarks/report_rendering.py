"""What the page of a run costs: time and memory to draw the report of 100 epochs of a network of 100 layers.

    python benchmarks/report_rendering.py               print the table (about a minute)
    python benchmarks/report_rendering.py --record      also write it to benchmarks/RESULTS.md

The page is drawn in a process of its own, as it is beside training, which imports what drawing needs alone; and by
``python -m lightning_rules.report FOLDER``, which imports torch and Lightning first. The system tells time and peak
memory of both. The PNG files of the same figures, which are drawn once at the end of a run, are timed apart. There is
no peer: neither Lightning nor fastai, Composer or timm draw such a page; SageMaker Debugger draws its own on AWS.
"""

import json
import math
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from statistics import median

from results import command_line, origin

from lightning_rules.exhibit import Bars, Curve, Curves, Exhibit, Listing, Matrix, Picture, Section
from lightning_rules.finding import Finding, Severity
from lightning_rules.report import draw_alone
from lightning_rules.report.document import FINISHED, HTML, JSON, Document
from lightning_rules.report.score import Score
from lightning_rules.report.series import Series

HEADING = "Rendering of a report"
EPOCHS, LAYERS, BATCHES, CLASSES, LOOKS = 100, 100, 400, 100, 1000
LIMITS = "targets: 5 s and 300 MB"
KINDS = ("gradient_norm", "update_ratio", "activation_dead", "activation_saturated", "activation_rms")
ALARMS = 12
DRAW = Path(draw_alone.__file__)
# In a small process between: the system counts the memory of whoever starts a process as that process's own.
MEASURE = """
import json, resource, subprocess, sys, time
began = time.perf_counter()
subprocess.run(sys.argv[1:], check=True, stdout=subprocess.DEVNULL)
used = resource.getrusage(resource.RUSAGE_CHILDREN)
print(json.dumps([time.perf_counter() - began, used.ru_utime + used.ru_stime, used.ru_maxrss / 1024]))
"""


def document() -> Document:
    """A long run of a deep network, with every kind of exhibit and a dozen alarms."""
    draw = random.Random(0)
    names = [f"backbone.stages.{layer // 10}.blocks.{layer % 10}.conv.weight" for layer in range(LAYERS)]
    steps = [BATCHES * (epoch + 1) for epoch in range(EPOCHS)]
    metrics = {
        f"{split}/{metric}": series(steps, [draw.gauss(1, 0.05) * math.exp(-epoch / 30) for epoch in range(EPOCHS)])
        for split in ("train", "val")
        for metric in ("loss", "accuracy", "top5", "calibration_error")
    }
    looks = [BATCHES * EPOCHS * look // LOOKS for look in range(LOOKS)]
    watched = {f"{kind}/{name}": series(looks, noise(draw)) for kind in KINDS for name in names}
    return Document(
        run="synthetic/version_0",
        state=FINISHED,
        started="2026-01-01T00:00:00+00:00",
        updated="2026-01-01T08:00:00+00:00",
        progress={"epoch": EPOCHS, "epochs": EPOCHS, "step": EPOCHS * BATCHES, "steps": None},
        findings=[finding(place) for place in range(ALARMS + 60)],
        rules=[{"name": f"rule-{place}", "kind": "check", "says": "Says.", "source": "Text."} for place in range(36)],
        score=Score("val/accuracy", "max", 0.8, steps[-1], 10_000, 0.79, 0.81, 0.01, 0.9, 0.78, "version_1"),
        metrics=metrics,
        series={**watched, "learning_rate/0.0": series(looks, noise(draw))},
        exhibits=exhibits(draw),
        cost={"seconds": 28_800.0, "batch_seconds": 0.7, "monitor_seconds": 500.0, "peak_bytes": 4e9},
        record={"command": ["python", "train.py"], "config": "model: {}\n" * 300, "seed": 1},
    )


def series(steps: Sequence[int], values: Sequence[float]) -> Series:
    made = Series()
    for step, value in zip(steps, values, strict=True):
        made.add(step, value)
    return made


def noise(draw: random.Random) -> list[float]:
    return [math.exp(draw.gauss(0, 0.3)) for _ in range(LOOKS)]


def finding(place: int) -> Finding:
    severity = Severity.WARNING if place < ALARMS else Severity.OK
    return Finding(f"rule-{place}", severity, f"Number {place} was seen.", "Do.", {"value": 1.0 * place}, place)


def exhibits(draw: random.Random) -> list[Exhibit]:
    """The kinds that rules show, each a few times."""
    curve = Curve("validation", list(range(200)), noise(draw)[:200], "validation")
    counts = [[draw.randrange(3) + 40 * (row == column) for column in range(CLASSES)] for row in range(CLASSES)]
    labels = [f"class {place}" for place in range(CLASSES)]
    contents = [
        *[Curves([curve], "optimiser step", "value")] * 8,
        *[Bars(labels[:14], noise(draw)[:14], "share (%)")] * 3,
        Matrix(labels, counts),
        Listing(["example", "label"], [[str(place), "cat"] for place in range(100)]),
        *[Picture(f"gallery_{place}.png", "Examples.") for place in range(3)],
    ]
    sections = [section for section in Section if section is not Section.ENSEMBLE]
    return [
        Exhibit(f"exhibit_{place}", sections[place % len(sections)], f"Exhibit {place}", "How to read it.", content)
        for place, content in enumerate(contents)
    ]


def write(folder: Path) -> None:
    """The files of a finished run: its document, and three galleries of a megabyte or so."""
    from PIL import Image

    (folder / "rules").mkdir()
    (folder / JSON).write_text(document().to_json(), encoding="utf-8")
    for place in range(3):
        pixels = random.Random(place).randbytes(3 * 600 * 600)
        Image.frombytes("RGB", (600, 600), pixels).save(folder / "rules" / f"gallery_{place}.png")


def run(words: Sequence[str]) -> tuple[float, float, float]:
    """Wall-clock and CPU seconds of a process, and its peak memory in MB."""
    told = subprocess.run(
        [sys.executable, "-S", "-c", MEASURE, sys.executable, *words], check=True, stdout=subprocess.PIPE
    )
    wall, cpu, memory = json.loads(told.stdout)
    return wall, cpu, memory


def report(rounds: int) -> str:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write(folder)
        contestants = {
            "beside training": ["-P", str(DRAW), name],
            "`python -c 'import lightning_rules'`": ["-c", "import lightning_rules"],
            "`python -m lightning_rules.report FOLDER`": ["-m", "lightning_rules.report", name],
        }
        taken = {who: [run(words) for _ in range(rounds)] for who, words in contestants.items()}
        pages = (folder / HTML).stat().st_size
        files = [pngs(folder) for _ in range(rounds)]
        figures, seconds = len(files[0]), median(map(sum, files))
    versions = origin("torch", "matplotlib", "jinja2")
    return "\n".join(
        [
            f"{versions}; {EPOCHS} epochs, {LAYERS} layers, {LIMITS}; medians of {rounds}.\n",
            "| process | seconds | CPU seconds | peak MB |",
            "| --- | ---: | ---: | ---: |",
            *(f"| {who} | {' | '.join(cells(one))} |" for who, one in taken.items()),
            f"\nThe page has {pages / 1e6:.2f} MB. {figures} PNG files of its figures take {seconds:.1f} s more, once.",
        ]
    )


def pngs(folder: Path) -> list[float]:
    """Seconds that each PNG file takes, in this process."""
    from lightning_rules.report.draw import png_of
    from lightning_rules.report.hand_out import figures_of

    seconds = []
    for _, exhibit in figures_of(Document.read(folder)):
        began = time.perf_counter()
        png_of(exhibit.content)
        seconds.append(time.perf_counter() - began)
    return seconds


def medians(taken: Sequence[tuple[float, float, float]]) -> tuple[float, ...]:
    return tuple(median(column) for column in zip(*taken, strict=True))


def cells(taken: Sequence[tuple[float, float, float]]) -> list[str]:
    wall, cpu, memory = medians(taken)
    return [f"{wall:.1f}", f"{cpu:.1f}", f"{memory:.0f}"]


if __name__ == "__main__":
    command_line(__doc__, HEADING, report, rounds=5)
