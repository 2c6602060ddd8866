"""`crossval` at the command line: every example is predicted once by a model that has not seen it."""

import csv
import json
import os
import re
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
import yaml

from lightning_recipe.cli import RecipeCLI, main
from lightning_recipe.data import DigitsDataModule
from lightning_recipe.runs.fit_record import FitRecord

Command = Callable[..., RecipeCLI | None]
Error = Callable[..., str]
Capture = pytest.CaptureFixture[str]

MODEL = ["--model=SequenceClassifier", "--model.input_size=8", "--model.num_classes=10", "--model.hidden_size=6"]
DATA = ["--data=DigitsDataModule", "--data.form=rows"]
SHORT = ["--trainer.max_epochs=1", "--trainer.limit_train_batches=10", "--trainer.accelerator=cpu"]
KEEP = ["--trainer.callbacks+=ModelCheckpoint", "--trainer.callbacks.monitor=val/accuracy"]
KEEP += ["--trainer.callbacks.mode=max"]
SETTINGS = [*MODEL, *DATA, *SHORT, *KEEP, "--rules=none"]
QUIET = ["--trainer.enable_progress_bar=false", "--trainer.enable_model_summary=false"]
FOLDS = ["crossval", "--folds=3", "--jobs=2", "--retries=0", *SETTINGS, *QUIET, "--trainer.callbacks+=ReportCard"]
FOLDER = Path("logs/run-crossval")


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder in which three folds were trained at two jobs, from a script as users have it."""
    folder = tmp_path_factory.mktemp("crossval")
    shutil.copy(Path(__file__).resolve().parents[2] / "scripts" / "train.py", folder)
    before, words = os.getcwd(), sys.argv
    os.chdir(folder)
    sys.argv = ["train.py", *FOLDS]
    try:
        main()
        yield folder
    finally:
        os.chdir(before)
        sys.argv = words


@pytest.fixture
def in_its_folder(finished: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(finished)
    return finished


def test_each_example_is_predicted_once_by_a_model_that_has_not_seen_it(in_its_folder: Path) -> None:
    data = DigitsDataModule(form="rows")
    data.setup("fit")
    rows = list(csv.DictReader((FOLDER / "out_of_fold.csv").open()))
    indices = [int(row["index"]) for row in rows]
    assert len(set(indices)) == len(indices) == 1618
    by_fold = {fold: {int(row["index"]) for row in rows if row["fold"] == fold} for fold in "123"}
    for fold, held_out in by_fold.items():
        again = DigitsDataModule(form="rows")
        again.setup_fold(int(fold) - 1, 3, 42, nested=True)
        again.setup("fit")
        assert held_out == set(again.held_out.tolist())
        told = json.loads((FOLDER / f"repeat_1_fold_{fold}.json").read_text())
        checkpoint = torch.load(FOLDER / told["checkpoint"]["path"], weights_only=True)
        assert again.normalisation is not None
        mean = checkpoint["DigitsDataModule"]["normalisation"]["mean"]
        assert mean == pytest.approx(again.normalisation.mean), "fitted on the others alone"
    right = sum(row["true"] == row["predicted"] for row in rows) / len(rows)
    told = json.loads((FOLDER / "crossval.json").read_text())
    sizes = [len(by_fold[fold]) for fold in "123"]
    scores = [one["scores"]["test/accuracy"] for one in told["splits"]]
    pooled = sum(size * score for size, score in zip(sizes, scores, strict=True)) / sum(sizes)
    assert right == pytest.approx(pooled), "the table is what the tests have judged"
    assert told["summary"]["test/accuracy"]["mean"] == pytest.approx(sum(scores) / 3)
    assert told["metric"] == "test/accuracy"


def test_fits_are_ordinary_and_of_their_own_seed_and_fold(in_its_folder: Path) -> None:
    configs = [yaml.safe_load((FOLDER / f"repeat_1_fold_{k}.yaml").read_text()) for k in (1, 2, 3)]
    assert [(one["seed_everything"], one["held_out"]) for one in configs] == [
        (42, "1/3@42"),
        (43, "2/3@42"),
        (44, "3/3@42"),
    ]
    assert all(one["test_after_fit"] for one in configs)
    assert not list(FOLDER.glob("*.lock"))
    page = (FOLDER / "report.html").read_text(encoding="utf-8")
    assert re.search(r'class="verdict unknown">.*Tested on the fold that each has not seen: test/accuracy', page)
    assert "Confusion matrix, out of fold" in page
    assert '<a href="repeat_1_fold_2/version_0/rules/report.html">' in page


def test_the_same_command_trains_nothing_twice_and_another_is_compared(
    in_its_folder: Path, command: Command, capfd: Capture, error: Error
) -> None:
    before = [path.stat().st_mtime_ns for path in sorted(FOLDER.rglob("*.ckpt"))]
    command(*FOLDS, f"--against={FOLDER}")
    printed = capfd.readouterr().out
    assert "starts" not in printed
    assert "repeat_1_fold_3 is finished: logs/run-crossval/repeat_1_fold_3/version_0/checkpoints/" in printed
    assert re.search(
        r"^Against run-crossval +\+0.00 points in test/accuracy, .*; p = 1: no more than chance", printed, re.M
    )
    assert re.search(
        r"^test/accuracy +\d+\.\d\d%, 95% interval .* \(Nadeau and Bengio\); folds scatter by", printed, re.M
    )
    assert re.search(r"^Predictions +logs/run-crossval/out_of_fold.csv: 1,618 examples, each by a model", printed, re.M)
    assert [path.stat().st_mtime_ns for path in sorted(FOLDER.rglob("*.ckpt"))] == before
    said = error(*FOLDS, "--model.hidden_size=7")
    assert (
        "repeat_1_fold_1 in logs/run-crossval was trained with other settings (model.init_args.hidden_size was" in said
    )


def test_fits_for_other_machines(command: Command, capfd: Capture, error: Error) -> None:
    command("crossval", "--folds=2", "--repeats=2", "--folder=mine", "--emit=commands", *SETTINGS)
    lines = capfd.readouterr().out.splitlines()
    assert [line.split("/")[-1] for line in lines[:-1]] == [
        f"repeat_{repeat}_fold_{fold}.yaml" for repeat in (1, 2) for fold in (1, 2)
    ]
    assert lines[-1].startswith("# when they have ended: ")
    held_out = [yaml.safe_load(path.read_text())["held_out"] for path in sorted(Path("mine").glob("*.yaml"))]
    assert held_out == ["1/2@42", "2/2@42", "1/2@43", "2/2@43"]
    cli = command(*lines[0].split()[2:], "--trainer.enable_progress_bar=false")
    assert cli is not None
    record = next(one for one in cli.trainer.callbacks if isinstance(one, FitRecord))  # type: ignore[attr-defined]
    assert record.entry.read()["status"] == "finished"
    assert set(record.entry.read()["test"]) == {"test/loss", "test/accuracy"}
    assert Path("mine/repeat_1_fold_1/held_out.csv").is_file()
    command("crossval", "--folds=2", "--repeats=2", "--folder=mine", "--emit=slurm", *SETTINGS)
    assert "names=(repeat_1_fold_2 repeat_2_fold_1 repeat_2_fold_2)" in capfd.readouterr().out


def test_what_cannot_be_cut_is_refused_before_any_training(error: Error) -> None:
    said = error("crossval", "--folds=200", *SETTINGS)
    assert re.search(r"Class '\d' has \d+ .*examples, which is too few for 200 folds: ask for \d+ folds or fewer", said)
    assert "expected a whole number of at least 2, but got '1'" in error("crossval", "--folds=1", *SETTINGS)
    said = error("crossval", *SETTINGS, "--fold=1/2")
    assert said == "error: A cross-validation gives each fit its own share of the data: leave --fold 1/2 out."
    assert "has no method `setup_fold(k, n, seed)`" in error("crossval", "--model=Separable", "--data=Labelled")
    assert "needs data that can be cut, and these settings name none" in error("crossval", *MODEL)
    said = error("crossval", "--against=nowhere", *SETTINGS)
    assert "There is no finished cross-validation in nowhere, for it has no crossval.json" in said
    assert "leave --ckpt_path out" in error("crossval", *SETTINGS, "--ckpt_path=last")
    Path("in_time.csv").write_text("\n".join(["day,x,y", *(f"{day},{day % 7},{day % 2}" for day in range(90))]))
    table = ["--model=TableClassifier", "--model.num_features=1", "--model.num_classes=2", "--data=TableDataModule"]
    table += ["--data.path=in_time.csv", "--data.target=y", "--data.time=day"]
    said = error("crossval", "--repeats=2", *table, *SHORT)
    assert "cut alike whatever the seed, as data in time is, so that --repeats 2 would count the same folds" in said
    assert not Path("logs").exists()
