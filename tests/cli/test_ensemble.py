"""`ensemble` at the command line: several fits, one checkpoint, and what may go wrong in between."""

import os
import re
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import lightning as L
import pytest
import torch
import yaml

from lightning_recipe.cli import RecipeCLI
from lightning_recipe.runs.ensemble_report import write_report
from lightning_recipe.runs.manifest import Entry, file_hash
from lightning_recipe.runs.members import make_members
from lightning_rules.report.document import JSON

Command = Callable[..., RecipeCLI | None]
Error = Callable[..., str]
Capture = pytest.CaptureFixture[str]

FOLDER = Path("logs/ensemble-seeds")
MODEL = ["--model=SequenceClassifier", "--model.input_size=8", "--model.num_classes=10", "--model.hidden_size=6"]
DATA = ["--data=DigitsDataModule", "--data.form=rows"]
QUIET = ["--trainer.enable_progress_bar=false", "--trainer.enable_model_summary=false"]
SHORT = ["--trainer.max_epochs=1", "--trainer.limit_train_batches=5", "--trainer.accelerator=cpu", *QUIET]
SETTINGS = [*MODEL, *DATA, *SHORT, "--rules=none"]


class Crash(L.Callback):
    """Fails the first so many fits whose seed is this."""

    def __init__(self, seed: int, times: int) -> None:
        self.seed, self.times = seed, times

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        tried = Path("tried")
        count = len(tried.read_text()) if tried.exists() else 0
        if os.environ["PL_GLOBAL_SEED"] == str(self.seed) and count < self.times:
            tried.write_text("x" * (count + 1))
            raise RuntimeError("the disk\nis on fire")


def crash(seed: int, times: int) -> list[str]:
    return ["--trainer.callbacks+=Crash", f"--trainer.callbacks.seed={seed}", f"--trainer.callbacks.times={times}"]


def record(member: str, folder: Path = FOLDER) -> dict[str, Any]:
    return Entry(folder / f"{member}.json").read()


def test_members_become_one_checkpoint_and_are_not_trained_again(command: Command, capfd: Capture) -> None:
    arguments = ["ensemble", "--members=2", *SETTINGS, "--trainer.callbacks+=ReportCard"]
    command(*arguments)
    printed = capfd.readouterr().out
    assert re.search(r"^Report +logs/ensemble-seeds/report.html$", printed, re.MULTILINE)
    page = (FOLDER / "report.html").read_text(encoding="utf-8")
    assert "<h1>ensemble-seeds: 2 runs</h1>" in page
    assert '<a href="member_1/version_0/rules/report.html">' in page
    assert re.search(r"<strong>Members and ensemble, test</strong>.*>member_1</text>", page, re.DOTALL)
    assert "member_0, 1 of 2 to train:" in printed
    assert re.search(r"member_1 is finished after \d+\.\d s", printed)
    assert re.search(r"^Fits +2 of 2$", printed, re.MULTILINE)
    seeds = [yaml.safe_load((FOLDER / f"member_{k}.yaml").read_text())["seed_everything"] for k in range(2)]
    assert seeds == [42, 43]
    paths = [Entry(FOLDER / f"member_{k}.json").checkpoint() for k in range(2)]
    assert [path.relative_to(FOLDER).parts[0] for path in paths] == ["member_0", "member_1"]
    weights = [torch.load(path, weights_only=True)["state_dict"] for path in paths]
    assert any(not torch.equal(weights[0][name], weights[1][name]) for name in weights[0])
    assert not list(FOLDER.glob("*.lock"))

    before = [path.stat().st_mtime_ns for path in paths]
    command(*arguments)
    again = capfd.readouterr().out
    assert "to train" not in again
    assert f"member_1 is finished: {paths[1]}" in again
    assert [path.stat().st_mtime_ns for path in paths] == before


def test_a_page_that_cannot_be_made_is_one_line(tmp_path: Path, capfd: Capture) -> None:
    members, trainer = make_members({"trainer": {}}, "seeds", 2, tmp_path, {}), SimpleNamespace(callbacks=[])
    assert write_report(tmp_path, members, trainer) is None
    captured = capfd.readouterr()
    assert captured.err == ""
    assert "No page compares the fits: member_0, member_1 have no report (made with --report none" in captured.out
    for member in members:
        path = tmp_path / member.name / "version_0" / JSON
        path.parent.mkdir(parents=True)
        path.write_text("{}")
    assert write_report(tmp_path, members, trainer) is None
    (said,) = capfd.readouterr().err.splitlines()
    assert said.startswith(f"warning: the page of {tmp_path.name} could not be made (ValueError: ")
    assert "member_0/version_0/rules/report.json is not a report of lightning-rules" in said
    assert write_report(tmp_path, members[:1], None) is None
    (path.parent / "report.html").write_text("")
    assert write_report(tmp_path, members[1:], None) == path.parent / "report.html", "snapshots: that of their fit"


@pytest.fixture
def ensemble(command: Command, capfd: Capture) -> Path:
    command("ensemble", "--members=2", *SETTINGS)
    capfd.readouterr()
    return FOLDER / "ensemble.ckpt"


def test_test_and_predict_take_it_like_any_checkpoint(ensemble: Path, command: Command) -> None:
    def tested(*model: str) -> dict[str, float]:
        cli = command("test", *model, *DATA, *QUIET, f"--ckpt_path={ensemble}")
        assert type(cli.model).__name__ == "EnsembleModule"  # type: ignore[union-attr]
        return {name: float(value) for name, value in cli.trainer.callback_metrics.items()}  # type: ignore[union-attr]

    as_configured = tested(*MODEL)
    assert as_configured == tested(), "the checkpoint names the model"
    assert as_configured == tested("--model=ImageClassifier", "--model.num_classes=3", "--model.backbone=test_resnet")
    assert 0 <= as_configured["test/accuracy"] <= 1
    command("predict", *MODEL, *DATA, *QUIET, "--trainer.callbacks+=PredictionsCSV", f"--ckpt_path={ensemble}")
    assert len(next(Path("logs").rglob("predictions.csv")).read_text().splitlines()) == 1 + 179


def test_other_settings_and_damaged_members_are_refused(ensemble: Path, error: Error) -> None:
    said = error("ensemble", "--members=2", *SETTINGS, "--model.hidden_size=7")
    assert "member_0 in logs/ensemble-seeds was trained with other settings (model.init_args.hidden_size was 6" in said
    made = ensemble.stat().st_mtime_ns
    path = Entry(FOLDER / "member_1.json").checkpoint()
    path.write_bytes(path.read_bytes()[:-9])
    assert f"The checkpoint of member_1, {path}, is damaged" in error("ensemble", "--members=2", *SETTINGS)
    path.unlink()
    assert f"The checkpoint of member_1, {path}, is gone" in error("ensemble", "--members=2", *SETTINGS)
    assert ensemble.stat().st_mtime_ns == made


@pytest.mark.parametrize("logger", ["CSVLogger", "false"])
def test_a_member_that_crashes_is_tried_again(command: Command, capfd: Capture, logger: str) -> None:
    command("ensemble", "--members=2", *SETTINGS, *crash(43, 1), f"--trainer.logger={logger}", "--folder", str(FOLDER))
    captured = capfd.readouterr()
    assert "member_1 failed after" in captured.err
    assert "RuntimeError: the disk is on fire; see logs/ensemble-seeds/member_1/output.log" in captured.err
    assert "member_1, 2 of 2 to train (attempt 2):" in captured.out
    assert record("member_1")["status"] == "finished"
    assert "on_train_start" in (FOLDER / "member_1" / "output.log").read_text(), "the traceback is kept"


def test_a_member_that_cannot_be_trained_is_left_out_and_tried_by_the_next_command(
    command: Command, capfd: Capture, error: Error
) -> None:
    command("ensemble", "--members=3", *SETTINGS, *crash(43, 2))
    captured = capfd.readouterr()
    assert "warning: left out is member_1: RuntimeError: the disk is on fire" in captured.err
    assert re.search(r"^Fits +2 of 3$", captured.out, re.MULTILINE)
    assert len(torch.load(FOLDER / "ensemble.ckpt", weights_only=True)["hyper_parameters"]["members"]) == 2
    command("ensemble", "--members=3", *SETTINGS, *crash(43, 2))
    printed = capfd.readouterr().out
    assert "member_1, 1 of 1 to train:" in printed
    assert re.search(r"^Fits +3 of 3$", printed, re.MULTILINE)
    Path("tried").unlink()
    said = error("ensemble", "--members=2", "--retries=0", "--folder=few", *SETTINGS, *crash(42, 1))
    assert "at least 2 fits, and 1 of 2 came to an end (member_0: RuntimeError: the disk is on fire)" in said
    assert not Path("few/ensemble.ckpt").exists()


def test_a_member_may_be_trained_by_hand(command: Command, error: Error, capfd: Capture) -> None:
    arguments = ["ensemble", "--members=2", "--how=folds", "--folder=mine", *SETTINGS]
    command(*arguments, "--emit=commands")
    first, second, comment = capfd.readouterr().out.splitlines()
    assert comment.startswith("# when they have ended: ")
    assert "--emit" not in comment
    cli = command(*first.split()[2:])
    assert cli.datamodule.fold.k == 0  # type: ignore[union-attr]
    assert record("member_0", Path("mine"))["status"] == "finished"
    assert f"member_0 is finished ({record('member_0', Path('mine'))['checkpoint']['path']})" in error(
        *first.split()[2:]
    )
    capfd.readouterr()
    command(*arguments, "--emit", "slurm")
    captured = capfd.readouterr()
    assert "names=(member_1)\n" in captured.out
    assert captured.out.startswith("#!/bin/bash\n"), "what is finished is told apart"
    assert "member_0 is finished: mine/" in captured.err
    assert second.endswith("fit --config mine/member_1.yaml")


def test_bagging_trains_each_on_a_sample_of_its_own(command: Command, capfd: Capture) -> None:
    command("ensemble", "--members=2", "--how=bagging", *SETTINGS)
    folder = Path("logs/ensemble-bagging")
    configs = [yaml.safe_load((folder / f"member_{k}.yaml").read_text()) for k in range(2)]
    assert [config["bootstrap"] for config in configs] == [42, 43]
    assert (folder / "ensemble.ckpt").is_file()


def test_snapshots_come_from_one_fit(command: Command, capfd: Capture) -> None:
    more = ["--trainer.max_epochs=2", "--trainer.limit_train_batches=10"]
    command("ensemble", "--members=2", "--how=snapshots", *SETTINGS, *more)
    folder = Path("logs/ensemble-snapshots")
    assert len(torch.load(folder / "ensemble.ckpt", weights_only=True)["hyper_parameters"]["members"]) == 2
    assert re.search(r"^Fits +1 of 1$", capfd.readouterr().out, re.MULTILINE)


def test_wrong_arguments_are_refused_before_anything_is_written(error: Error) -> None:
    assert "expected a whole number of at least 2, but got '1'" in error("ensemble", "--members=1", *SETTINGS)
    assert "invalid choice: 'luck'" in error("ensemble", "--how=luck", *SETTINGS)
    assert "--memberz" in error("ensemble", "--memberz=3", *SETTINGS)
    assert "hidden_sizes" in error("ensemble", *SETTINGS, "--model.hidden_sizes=3")
    assert "No model is named: add --model CLASS, or" in error("ensemble", *DATA)
    assert "leave --ckpt_path out" in error("ensemble", *SETTINGS, "--ckpt_path=last")
    assert "these settings keep none" in error("ensemble", *SETTINGS, "--trainer.enable_checkpointing=false")
    said = error("ensemble", "--how=folds", *SETTINGS, "--fold=1/2")
    assert said == "error: --how folds gives each member a --fold of its own: leave --fold 1/2 out."
    assert not Path("logs").exists()


# `fit`, as far as the command that waits for it can tell: the checkpoint of another fit stands for a trained one.
FIT = """
import json, shutil, sys
from pathlib import Path
place = Path(sys.argv[3]).with_suffix("")
shutil.copy("trained.ckpt", place / "best.ckpt")
checkpoint = {"path": f"{place.name}/best.ckpt", "sha256": "SHA256"}
place.with_suffix(".json").write_text(json.dumps({"status": "finished", "checkpoint": checkpoint}))
"""


def test_several_at_once_in_processes_of_their_own(command: Command, capfd: Capture) -> None:
    command("fit", *SETTINGS, "--trainer.logger=false")
    next(Path("checkpoints").glob("*.ckpt")).rename("trained.ckpt")
    Path("train.py").write_text(FIT.replace("SHA256", file_hash(Path("trained.ckpt"))))
    command("ensemble", "--members=3", "--jobs=2", *SETTINGS)
    printed = capfd.readouterr().out
    assert "member_2 starts; it prints to logs/ensemble-seeds/member_2/output.log" in printed
    assert re.search(r"^Fits +3 of 3$", printed, re.MULTILINE)
    assert (FOLDER / "ensemble.ckpt").is_file()
