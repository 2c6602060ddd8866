"""`refit` at the command line: a real run, trained again on all of its data in both ways."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from lightning_recipe.cli import RecipeCLI

Command = Callable[..., RecipeCLI | None]
Error = Callable[..., str]
Capture = pytest.CaptureFixture[str]

RUN = Path("logs/version_0")
FOLDER = Path("logs/run-refit/version_0")
SETTINGS = [
    *["--model=SequenceClassifier", "--model.input_size=8", "--model.num_classes=10", "--model.hidden_size=24"],
    *["--model.lr=4e-3", "--model.scheduler=cosine", "--data=DigitsDataModule", "--data.form=rows"],
    *["--trainer.max_epochs=3", "--trainer.accelerator=cpu", "--rules=none", "--trainer.enable_progress_bar=false"],
    *["--trainer.enable_model_summary=false", "--trainer.callbacks+=ModelCheckpoint"],
    *["--trainer.callbacks.monitor=val/accuracy", "--trainer.callbacks.mode=max", "--trainer.callbacks+=EarlyStopping"],
    *["--trainer.callbacks.monitor=val/accuracy", "--trainer.callbacks.mode=max"],
    *["--trainer.callbacks+=ReportCard", "--trainer.callbacks.form=json"],
]
STEPS = 39  # of an epoch: 1,259 training examples in batches of 32


@pytest.fixture
def run(command: Command, capfd: Capture) -> Path:
    command("fit", *SETTINGS)
    capfd.readouterr()
    return RUN


def record(name: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((FOLDER / f"{name}.json").read_text())
    return found


def scores(folder: Path) -> list[str | None]:
    """Names of those that reports tell of."""
    found = [json.loads(path.read_text())["score"] for path in folder.rglob("report.json")]
    return [score and score["name"] for score in found]


def saved(name: str) -> tuple[Path, dict[str, Any]]:
    path = FOLDER / record(name)["checkpoint"]["path"]
    return path, torch.load(path, weights_only=True)


def test_both_strategies_train_on_all_data_and_are_not_made_again(run: Path, command: Command, capfd: Capture) -> None:
    then = torch.load(next(run.rglob("*.ckpt")), weights_only=True)
    step = then["global_step"]
    command("refit", f"--run={run}")
    printed = capfd.readouterr().out
    assert (
        f"restart: anew on 1,259 training and 359 validation examples for {step} optimiser steps, as many as" in printed
    )
    assert re.search(r"^Score +none: all validation examples were trained on", printed, re.MULTILINE)
    assert re.search(rf"^Trained +{step} steps on training and validation data$", printed, re.MULTILINE)
    path, anew = saved("restart")
    assert (path.name, anew["global_step"]) == (f"refitted-{step}.ckpt", step)
    assert not [name for name in record("restart")["metrics"] if name.startswith("val/")]
    config = yaml.safe_load((FOLDER / "restart.yaml").read_text())
    assert (config["all_data"], config["trainer"]["limit_train_batches"]) == ("anew", STEPS)
    assert anew["lr_schedulers"] == then["lr_schedulers"], "the schedule stands where it stood"
    assert anew["DigitsDataModule"]["normalisation"] != then["DigitsDataModule"]["normalisation"]

    command("refit", f"--run={run}", "--strategy=continue", "--cap=4")
    printed = capfd.readouterr().out
    told = re.search(r"val/loss on the old validation part falls from (\S+) under the (\S+) of the training", printed)
    assert told is not None
    assert float(told[1]) > float(told[2])
    _, further = saved("continue")
    assert further["DigitsDataModule"]["normalisation"] == then["DigitsDataModule"]["normalisation"]
    rate = then["optimizer_states"][0]["param_groups"][0]["lr"]
    assert further["optimizer_states"][0]["param_groups"][0]["lr"] == rate
    assert further["optimizer_states"][0]["state"][0]["step"] == step + record("continue")["step"]
    last = record("continue")["metrics"]["val/loss"]
    ended = "threshold" if last < float(told[2]) else "cap"
    assert re.search(rf"^Ended by +the {ended}: val/loss ", printed, re.MULTILINE)

    assert not Path("config.yaml").exists(), "everything is in its folder"
    assert scores(run) == ["val/accuracy"]
    assert scores(FOLDER) == [None, None], "what was measured on examples that were trained on is none"
    before = [path.stat().st_mtime_ns for path in FOLDER.rglob("*.ckpt")]
    for strategy in (["restart"], ["continue", "--cap=4"]):
        command("refit", f"--run={run}", "--strategy", *strategy)
        again = capfd.readouterr().out
        assert f"{strategy[0]} is finished: " in again
        assert "to train" not in again
    assert [path.stat().st_mtime_ns for path in FOLDER.rglob("*.ckpt")] == before


def test_passes_are_matched_and_what_cannot_be_refitted_is_refused(
    run: Path, command: Command, capfd: Capture, error: Error
) -> None:
    step = torch.load(next(run.rglob("*.ckpt")), weights_only=True)["global_step"]
    command("refit", f"--run={run}", "--match=passes", "--emit=commands")
    captured = capfd.readouterr()
    more = round(step * (1259 + 359) / 1259)
    assert f"for {more} optimiser steps, 1.29 times as many as the run had at its best" in captured.err
    assert captured.out.splitlines()[0].endswith("fit --config logs/run-refit/version_0/restart.yaml")
    config = yaml.safe_load((FOLDER / "restart.yaml").read_text())
    assert config["trainer"]["limit_train_batches"] is None
    names = [one["class_path"].rpartition(".")[2] for one in config["trainer"]["callbacks"]]
    assert names == ["ModelCheckpoint", "ReportCard", "StopAtStep", "FitRecord"], "early stopping is left out"

    assert "There is no folder gone: give the log folder of a run" in error("refit", "--run=gone")
    assert "the following arguments are required: --run" in error("refit")
    said = error("refit", f"--run={run}", "--bootstrap=3")
    assert "The run has the option --bootstrap 3, by which it was trained on data of its own" in said
    assert "There is no checkpoint gone.ckpt" in error("refit", f"--run={run}", "--ckpt_path=gone.ckpt")
    said = error("refit", f"--run={run}", "--strategy=continue", "--loss=val/lost")
    assert "No finite val/lost was logged on both training and validation data (logged were val/" in said
    said = error("refit", f"--run={run}", "--data=Many")
    assert said == "error: The run has no validation examples, so that a refit would train on what it was trained on."
    assert not list(FOLDER.rglob("*.ckpt"))
