"""Random search beside a grid at the same number of trials; see many_runs.py."""

import contextlib
import io
import statistics
import sys
from pathlib import Path

import yaml
from results import origin, quietly

from lightning_recipe.cli import main
from lightning_recipe.runs.manifest import Entry
from lightning_recipe.runs.pool import as_command
from lightning_recipe.runs.resampling import paired

SCRIPT = Path(__file__).resolve().parents[1] / "scripts" / "train.py"
SPACES = {
    "rate, decay, batch size": {
        "model.lr": {"log10": [-5, -1]},
        "model.weight_decay": {"log10": [-7, -1]},
        "data.batch_size": {"int": [16, 128]},
    },
    "rate, decay": {"model.lr": {"log10": [-5, -1]}, "model.weight_decay": {"log10": [-7, -1]}},
}
TRIALS = {"rate, decay, batch size": 8, "rate, decay": 9}
MODEL = ["--model=SequenceClassifier", "--model.input_size=8", "--model.num_classes=10", "--model.hidden_size=32"]
FIT = [*MODEL, "--data=DigitsDataModule", "--data.form=rows", "--trainer.max_epochs=3", "--trainer.accelerator=cpu"]
FIT += ["--trainer.callbacks+=ModelCheckpoint", "--trainer.callbacks.monitor=val/loss", "--rules=none"]
FIT += ["--trainer.enable_progress_bar=false", "--trainer.enable_model_summary=false"]


def best_of(space: str, sampler: str, seed: int) -> float:
    """The least validation loss that a search finds."""
    folder = Path(f"{sampler}-{seed}-{len(SPACES[space])}")
    Path("space.yaml").write_text(yaml.safe_dump(SPACES[space]), encoding="utf-8")
    words = ["search", "--space=space.yaml", f"--trials={TRIALS[space]}", f"--sampler={sampler}", "--jobs=2"]
    words += [f"--folder={folder}", f"--seed_everything={seed}", *FIT]
    with as_command([sys.executable, str(SCRIPT)], words), contextlib.redirect_stdout(io.StringIO()):
        main()
    records = [Entry(path).read() for path in sorted(folder.glob("trial_*.json"))]
    values = [record["best"]["value"] for record in records if record["status"] == "finished" and record["best"]]
    if len(values) < TRIALS[space] - 1:
        raise RuntimeError(f"{folder} has {len(values)} trials with a value.")
    return min(values)


def report(seeds: int) -> str:
    """The table."""
    lines = [
        f"{origin('lightning-rules', 'optuna', 'torch')}; the best validation loss (nats) that a search finds on "
        f"digits, by SequenceClassifier in 3 epochs: mean of {seeds} seeds ± standard deviation; the difference "
        "with its 95% interval (paired by seed).\n",
        "| space | trials | random | grid | random - grid |",
        "| --- | --- | --- | --- | --- |",
    ]
    with quietly():
        for space in SPACES:
            each = {way: [best_of(space, way, seed) for seed in range(seeds)] for way in ("random", "grid")}
            difference = paired(each["random"], each["grid"], 1e-9)  # seeds are independent
            low, high = difference.interval
            told = [f"{statistics.mean(one):.3f} ± {statistics.stdev(one):.3f}" for one in each.values()]
            cells = [space, f"{TRIALS[space]}", *told, f"{difference.mean:+.3f} ({low:+.3f} to {high:+.3f})"]
            lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)
