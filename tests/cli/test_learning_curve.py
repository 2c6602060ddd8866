"""`learning-curve` at the command line: real fits in processes of their own, and what comes of them."""

import csv
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from lightning_recipe.cli import RecipeCLI

Command = Callable[..., RecipeCLI | None]
Error = Callable[..., str]
Capture = pytest.CaptureFixture[str]

FOLDER = Path("logs/learning-curve")
SETTINGS = [
    *["--model=SequenceClassifier", "--model.input_size=8", "--model.num_classes=10", "--model.hidden_size=6"],
    *["--model.lr=0.01", "--data=DigitsDataModule", "--data.form=rows", "--trainer.max_epochs=1", "--rules=none"],
    *["--trainer.accelerator=cpu", "--trainer.enable_progress_bar=false", "--trainer.enable_model_summary=false"],
]
CURVE = ["learning-curve", "--sizes=2", "--repeats=2", "--metric=val/accuracy", *SETTINGS]


@pytest.mark.slow(seconds=20)
def test_fits_on_parts_of_the_data_end_in_numbers_and_a_page(command: Command, capfd: Capture, error: Error) -> None:
    Path("train.py").write_text("from lightning_recipe.cli import main\n\nif __name__ == '__main__':\n    main()\n")
    command(*CURVE, "--jobs=2", "--trainer.callbacks+=ReportCard")
    printed = capfd.readouterr().out
    settings = [yaml.safe_load(path.read_text()) for path in sorted(FOLDER.glob("examples_*.yaml"))]
    assert [one["subset"] for one in settings] == ["1259@42", "1259@43", "40@42", "40@43"]
    assert [one["seed_everything"] for one in settings] == [42, 43, 42, 43]
    assert [one["trainer"]["max_epochs"] for one in settings] == [1, 1, 31, 31], "as many examples are seen"
    records: list[Any] = [json.loads(path.read_text()) for path in sorted(FOLDER.glob("examples_*.json"))]
    with (FOLDER / "learning_curve.csv").open() as file:
        rows = {row["fit"]: row for row in csv.DictReader(file)}
    assert len(rows) == 4
    for name, record in zip(sorted(rows), records, strict=True):
        assert float(rows[name]["error"]) == pytest.approx(1 - record["best"]["value"])
        assert float(rows[name]["training"]) == pytest.approx(1 - record["training"]["val/accuracy"])
    told = json.loads((FOLDER / "learning_curve.json").read_text())
    assert told["law"] is None
    assert told["says"][0] == "No law can be fitted to 2 sizes: how much more data would help is not known."
    assert "limits: the error is " in told["headline"]
    assert re.search(r"^ +40 +2 +\d", printed, re.MULTILINE)
    assert re.search(r"^ +1,259 +2 +\d", printed, re.MULTILINE)
    page = (FOLDER / "report.html").read_text(encoding="utf-8")
    assert "Error by the number of training examples" in page
    assert "No law can be fitted to 2 sizes" in page

    before = {path: path.stat().st_mtime_ns for path in FOLDER.rglob("*.ckpt")}
    command(*CURVE, "--trainer.callbacks+=ReportCard")
    assert "starts" not in capfd.readouterr().out
    assert {path: path.stat().st_mtime_ns for path in FOLDER.rglob("*.ckpt")} == before
    assert "was trained with other settings (model.init_args.lr was" in error(
        *CURVE, "--model.lr=0.1", "--trainer.callbacks+=ReportCard"
    )


def test_what_gives_no_curve_is_refused_before_anything_is_written(error: Error) -> None:
    def said(*arguments: str) -> str:
        return error("learning-curve", *SETTINGS, *arguments)

    assert "name the one that fits are judged by, as in --metric val/accuracy" in said()
    assert "Whether high or low is good is not known of val/luck: add --mode max" in said("--metric=val/luck")
    many = said("--metric=val/loss", "--sizes=4000")
    assert "--sizes 4000 was given, but of 1259 training examples the smallest part that has 2 of each" in many
    assert "expected a whole number of at least 2, but got '1'" in said("--metric=val/loss", "--repeats=1")
    part = said("--metric=val/loss", "--fold=1/5")
    assert part == "error: A learning curve gives each fit its own share of the data: leave --fold 1/5 out."
    assert "these settings keep none" in said("--metric=val/loss", "--trainer.fast_dev_run=true")
    alone = error("learning-curve", "--metric=val/accuracy", "--model=Separable", "--data=Many")
    assert "needs training and validation data whose examples can be counted" in alone
    assert not Path("logs").exists()
