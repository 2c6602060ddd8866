"""Documents of runs as the report card collects them; used by the tests of the page, in files and in a browser."""

import math
import random
from collections.abc import Callable
from pathlib import Path

import pytest

from lightning_rules.exhibit import Bars, Curve, Curves, Exhibit, Listing, Matrix, Panels, Picture, Section
from lightning_rules.finding import Finding, Severity
from lightning_rules.report.document import FINISHED, RUNNING, Document
from lightning_rules.report.score import Score
from lightning_rules.report.series import Series

BLOCKS = [f"backbone.layer{stage}.{block}.conv{conv}" for stage in (1, 2, 3) for block in (0, 1) for conv in (1, 2)]
LAYERS = ["backbone.conv1.0", *BLOCKS, "backbone.fc"]
COST = {"seconds": 51.2, "batch_seconds": 0.0812, "sampled_batch_seconds": 0.103, "monitor_seconds": 1.1}
COST |= {"peak_bytes": 812e6, "joules": 1210.0}
CONFIG = """seed_everything: 42
trainer:
  max_epochs: 12
  precision: 32-true
model:
  class_path: lightning_recipe.models.ImageClassifier
  init_args:
    architecture: test_resnet
    lr: 0.001
    label_smoothing: 0.0
data:
  class_path: lightning_recipe.data.Digits
  init_args:
    batch_size: 32
    image_size: 32
    k: 5
    fold: 0
"""


def series(values: list[float], every: int = 39) -> Series:
    """One value an epoch."""
    return Series([every * (place + 1) for place in range(len(values))], values, 1, len(values))


def watched(kind: str, layers: list[str], of: Callable[[float, float], float], points: int = 30) -> dict[str, Series]:
    """A value for each layer at each look, of its depth and of how far the run is, both from 0 to 1."""
    draw = random.Random(0)
    steps = [16 * step for step in range(points)]
    made = {}
    for place, name in enumerate(layers):
        values = [of(place / len(layers), step / points) * math.exp(0.15 * draw.gauss(0, 1)) for step in range(points)]
        made[f"{kind}/{name}"] = Series(steps, values, 1, points)
    return made


def matrix(classes: int, seed: int = 0) -> Matrix:
    """A good classifier's."""
    draw = random.Random(seed)
    counts = [[0] * classes for _ in range(classes)]
    for row in range(classes):
        counts[row][row] = 30 + draw.randrange(10)
        for _ in range(2):
            counts[row][draw.randrange(classes)] += 1
    return Matrix([str(one) for one in range(classes)], counts)


def lr_finder() -> Exhibit:
    rates = [10 ** (-7 + 8 * place / 119) for place in range(120)]
    falls = [2.35 - 1.6 / (1 + (0.004 / rate) ** 1.5) + (3 * (rate / 0.5) ** 2 if rate > 0.1 else 0) for rate in rates]
    draw = random.Random(1)
    noisy = [value + 0.08 * draw.gauss(0, 1) for value in falls]
    curves = [Curve("each batch", rates, noisy, "train", faint=True), Curve("smoothed", rates, falls, "train")]
    marks = [(1e-3, "before: 1.0e-03"), (4.1e-3, "suggested: 4.1e-03")]
    content = Curves(curves, "learning rate", "loss", log_x=True, marks=marks)
    caption = "The loss while the rate grows from step to step; short runs at constant rates decided."
    return Exhibit("lr_finder", Section.LEARNING_RATE, "Search for a learning rate", caption, content, ["lr-finder"])


def shown() -> list[Exhibit]:
    """One of each kind, as rules show them."""
    classes = [str(one) for one in range(10)]
    share = [place / 20 for place in range(21)]
    risk = Curves(
        [Curve("error among the answered", share, [0.02 * x**4 for x in share], "validation")],
        "share of examples that are answered",
        "error (share)",
    )
    ensemble = Panels(
        ["accuracy", "loss"],
        [
            Curves(
                [Curve("member", [1, 2, 3], [0.95, 0.97, 0.98]), Curve("ensemble", [1, 2, 3], [0.95, 0.975, 0.985])],
                "members",
                "value",
            )
        ]
        * 2,
    )
    rows = [["1103", "9", "7", "0.4%"], ["97", "8", "1", "1.2%"], ["1089", "8", "1", "1.9%"]]
    return [
        Exhibit(
            "class_balance",
            Section.DATA,
            "Training examples of each class",
            "Equal bars need no weighting.",
            Bars(classes, [125, 127, 124, 128, 126, 128, 123, 127, 122, 129], "examples", ["train"] * 10),
        ),
        Exhibit(
            "label_suspects",
            Section.DATA,
            "Labels that look wrong",
            "The most suspect first: look at them.",
            Listing(["example", "label", "looks like", "probability of its label"], rows),
            ["label-suspects"],
        ),
        Exhibit(
            "loss_at_start",
            Section.INITIALISATION,
            "Loss at the start",
            "It should start at the prior's.",
            Bars(["as it starts", "prior of the labels"], [2.39, 2.30], "loss (nats)", ["train", "other"]),
        ),
        lr_finder(),
        Exhibit(
            "worst_errors",
            Section.ERRORS,
            "Most confident mistakes",
            "The surest first.",
            Picture("worst_errors.png", "Four digits with the answered and the right class."),
            ["worst-errors"],
        ),
        Exhibit("confusion", Section.ERRORS, "Confusion matrix", "Blue is right; orange is a mistake.", matrix(10)),
        Exhibit(
            "risk_coverage", Section.CALIBRATION, "Risk and coverage", "Error if the least sure are left out.", risk
        ),
        Exhibit("members", Section.ENSEMBLE, "Members and ensemble", "More members help less and less.", ensemble),
    ]


def record() -> dict:
    return {
        "command": ["python", "scripts/train.py", "fit", "--config", "configs/digits.yaml", "--model.lr=1e-3"],
        "folder": ".",
        "config": CONFIG,
        "seed": 42,
        "versions": {"Python": "3.11.7", "torch": "2.15.0", "lightning": "2.6.6", "timm": "1.0.31", "numpy": "2.3.1"},
        "code": {"commit": "8f612fc0a1b2c3d4e5f60718293a4b5c6d7e8f90", "branch": "main", "dirty": False},
        "tag": "runs/digits/version_3/408-val-accuracy=0.9833",
        "data": {
            "datamodule": "lightning_recipe.data.Digits",
            "datasets": [
                {"class": "torch.utils.data.Subset", "length": 1259, "fingerprint": "0f1e2d3c4b5a6978", "of": "indices"}
            ],
        },
    }


def rules(names: list[str]) -> list[dict[str, str]]:
    source = "Goodfellow et al. (2016), section 11.5"
    return [{"name": name, "kind": "check", "says": f"What {name} says.", "source": source} for name in names]


def healthy() -> Document:
    epochs = range(12)
    train = [2.1 * math.exp(-0.5 * one) + 0.02 for one in epochs]
    validation = [2.0 * math.exp(-0.45 * one) + 0.09 for one in epochs]
    accuracy = [0.62, 0.81, 0.9, 0.93, 0.953, 0.964, 0.967, 0.975, 0.978, 0.981, 0.9833, 0.9805]
    findings = [
        Finding(
            "loss-at-init",
            Severity.OK,
            "cross_entropy starts at 2.39; the prior of the labels alone reaches 2.3.",
            evidence={"loss": 2.389},
        ),
        Finding("shuffle", Severity.OK, "Labels come well mixed: 32 examples of a step hold 9.7 classes on average."),
        Finding("no-leak", Severity.OK, "No validation example is in training (all examples)."),
        Finding("gradient-clipping", Severity.INFO, "Does not apply: the module has no recurrent layers."),
        Finding("step-size", Severity.INFO, "Ignored, measured by hand: the loss fell slowly."),
        Finding(
            "lr-finder",
            Severity.INFO,
            "Set the learning rate to 4.10e-03 (it was 1.00e-03): of 5 rates tried, 4.10e-03 is best after 100 steps.",
            evidence={"rate": 0.0041, "rate_before": 0.001, "steps": 620},
        ),
        Finding(
            "label-suspects",
            Severity.INFO,
            "3 of 1,259 training labels look wrong to a quick probe, which may err: "
            "1103 is labelled 9 and looks like 7.",
            "Look at these examples beside their labels.",
            {"suspects": 3, "examples": 1259, "indices": "1103 97 1089"},
        ),
        Finding("bias-variance", Severity.INFO, "Neither bias nor variance stands out.", step=468),
    ]
    return Document(
        run="digits/version_3",
        state=FINISHED,
        started="2026-11-21T14:05:11+00:00",
        updated="2026-11-21T14:06:02+00:00",
        progress={"epoch": 12, "epochs": 12, "step": 468, "steps": None},
        findings=findings,
        rules=rules([one.rule for one in findings]),
        score=Score("val/accuracy", "max", 0.9833, 429, 359, 0.964, 0.9923, 0.1058, 0.995, 0.975, "digits/version_2"),
        metrics={"train/loss": series(train), "val/loss": series(validation), "val/accuracy": series(accuracy)},
        series={
            **watched("gradient_norm", LAYERS, lambda x, t: 2 * math.exp(-3 * t) + 0.05),
            **watched("update_ratio", [f"{name}.weight" for name in LAYERS], lambda x, t: 4e-3 * (1 - 0.9 * t)),
            **watched("activation_dead", LAYERS[:6], lambda x, t: 0.02 * t),
            **watched("activation_rms", LAYERS[:6], lambda x, t: 0.8 + x),
            "learning_rate/0.0": Series(
                [16 * one for one in range(30)],
                [0.0041 * min(1, (one + 1) / 4) * (0.5 + 0.5 * math.cos(math.pi * one / 30)) for one in range(30)],
                1,
                30,
            ),
        },
        exhibits=shown(),
        tested={"test/accuracy": 0.9721, "test/loss": 0.1033},
        cost=COST,
        record=record(),
    )


def sick() -> Document:
    document = healthy()
    document.run, document.progress = "digits/version_7", {"epoch": 3, "epochs": 12, "step": 131, "steps": None}
    document.state = "failed: ValueError: loss is not finite at step 131"
    document.findings += [
        Finding(
            "dying-units",
            Severity.WARNING,
            "64% of the units of `backbone.layer2.0.act1` are off for all of 512 examples, and were on at the start.",
            "Lower the learning rate, or initialise the layer anew.",
            {"share": 0.64, "layer": "backbone.layer2.0.act1"},
            112,
        ),
        Finding(
            "non-finite-gradients",
            Severity.ERROR,
            "Gradients of 14 of 47 parameters are not finite at step 128, "
            "the first in `backbone.layer3.1.conv2.weight`; the loss was 41.7.",
            "Clip gradients to a norm of 1, lower the learning rate, or leave out half precision.",
            {"parameters": 14, "first": "backbone.layer3.1.conv2.weight", "loss": 41.7},
            128,
        ),
        Finding(
            "diverging-loss",
            Severity.ERROR,
            "The loss rose from 2.3 to 41.7 in 60 steps.",
            "Lower the learning rate by a factor of ten.",
            {"loss": 41.7},
            128,
        ),
    ]
    for name, one in document.series.items():
        if name.startswith("gradient_norm"):
            one.values = [
                value * 10 ** (place / 4) if place < 20 else math.nan for place, value in enumerate(one.values)
            ]
    document.metrics = {
        "train/loss": series([2.3, 4.1, 41.7, math.nan]),
        "val/loss": series([2.31, 5.2, 60.2, math.nan]),
    }
    document.score, document.tested = Score("val/loss", "min", 2.31, 39), {}
    return document


def unfinished() -> Document:
    document = healthy()
    document.state, document.tested = RUNNING, {}
    document.progress = {"epoch": 4, "epochs": 12, "step": 171, "steps": None}
    document.metrics = {name: series(one.values[:4]) for name, one in document.metrics.items()}
    document.score = Score("val/accuracy", "max", 0.93, 156)
    return document


def picture(folder: Path, name: str = "worst_errors.png", width: int = 320, noisy: bool = False) -> None:
    """A PNG file where a rule would have left it."""
    from PIL import Image

    (folder / "rules").mkdir(parents=True, exist_ok=True)
    size = (width, width // 2)
    image = (
        Image.frombytes("RGB", size, random.Random(0).randbytes(3 * size[0] * size[1]))
        if noisy
        else Image.new("RGB", size, "#ddd")
    )
    image.save(folder / "rules" / name)


@pytest.fixture(scope="session")
def documents() -> dict[str, Document]:
    """A healthy run, a sick one, one that goes on, and one of which nothing is known. Not to be changed."""
    return {"healthy": healthy(), "sick": sick(), "unfinished": unfinished(), "bare": Document()}


@pytest.fixture(scope="session")
def run_picture() -> Callable[..., None]:
    """Writes a PNG file into a run's folder."""
    return picture
