"""What importing costs: `lightning_rules` beside `lightning`, and the help of the command line.

    python benchmarks/import_time.py            print a table
    python benchmarks/import_time.py --record   also write it to benchmarks/RESULTS.md

Each measurement is a fresh interpreter; the statements take turns, so that a change in the machine's load
hits all of them; the median of `--rounds` turns counts. CPU seconds (user + system) say more than
wall-clock seconds on a machine that is doing other things.
"""

import os
import statistics
import subprocess
import sys
import time
from pathlib import Path

from results import command_line, origin

HEADING = "Import time"
BASE = "import lightning"
HELP = "scripts/train.py --help"
COMMANDS = {
    "python -c pass": ["-c", "pass"],
    "import torch": ["-c", "import torch"],
    BASE: ["-c", "import lightning"],
    "import lightning_rules": ["-c", "import lightning_rules"],
    "import lightning.pytorch.cli": ["-c", "import lightning.pytorch.cli"],
    "import lightning_recipe.cli": ["-c", "import lightning_recipe.cli"],
    HELP: [str(Path(__file__).parents[1] / "scripts" / "train.py"), "--help"],
}
# Heavy packages of the training application: neither the rules nor `--help` should load them.
# (torchvision and scipy are loaded by torchmetrics, and that by Lightning, whatever we do.)
HEAVY = ("timm", "sklearn", "wandb", "tensorboard", "matplotlib")


def measure(arguments: list[str]) -> tuple[float, float]:
    """CPU and wall-clock seconds of one fresh interpreter."""
    before, start = os.times(), time.perf_counter()
    subprocess.run([sys.executable, *arguments], check=True, stdout=subprocess.DEVNULL)
    wall, after = time.perf_counter() - start, os.times()
    cpu = after.children_user - before.children_user + after.children_system - before.children_system
    return cpu, wall


def in_turns(rounds: int) -> dict[str, tuple[float, float]]:
    """Median CPU and wall-clock seconds of each command; a first turn, not counted, fills the caches."""
    seconds: dict[str, list[tuple[float, float]]] = {name: [] for name in COMMANDS}
    for turn in range(rounds + 1):
        for name, arguments in COMMANDS.items():
            result = measure(arguments)
            if turn:
                seconds[name].append(result)
    return {
        name: (statistics.median(cpu for cpu, _ in pairs), statistics.median(wall for _, wall in pairs))
        for name, pairs in seconds.items()
    }


def heavy_imports(statement: str) -> str:
    """The heavy packages that a statement loads, for a person's eye."""
    code = f"{statement}\nimport sys\nprint(*(name for name in {HEAVY!r} if name in sys.modules), sep=', ')"
    loaded = subprocess.check_output([sys.executable, "-c", code], text=True).strip()
    return f"`{statement}` loads of {', '.join(HEAVY)}: {loaded or 'none'}."


def report(rounds: int) -> str:
    """Measure, and lay the medians out as Markdown."""
    medians = in_turns(rounds)
    base = medians[BASE][0]
    lines = [
        f"{origin('torch', 'lightning', 'torchmetrics')}; medians of {rounds} fresh interpreters each, taken in turns.",
        "",
        f"| what | CPU s | wall s | CPU / `{BASE}` |",
        "| --- | ---: | ---: | ---: |",
    ]
    lines += [f"| `{name}` | {cpu:.2f} | {wall:.2f} | {cpu / base:.2f} |" for name, (cpu, wall) in medians.items()]
    lines += [
        "",
        *(heavy_imports(name) for name in ("import lightning_rules", "import lightning_recipe.cli")),
    ]
    return "\n".join(lines)


if __name__ == "__main__":
    command_line(__doc__, HEADING, report, rounds=5)
