"""`distill`, and a cascade from YAML: what a person at the command line gets."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

Command = Callable[..., Any]
Capture = pytest.CaptureFixture[str]

TRAINER = {"accelerator": "cpu", "enable_progress_bar": False, "enable_model_summary": False}
DATA = {"class_path": "DigitsDataModule", "init_args": {"image_size": 32, "batch_size": 32}}


@pytest.fixture
def config(tmp_path: Path) -> Path:
    """A short fit of a small network."""
    model = {
        "class_path": "ImageClassifier",
        "init_args": {"backbone": "test_resnet", "num_classes": 10, "in_chans": 1},
    }
    model["init_args"]["lr"] = 3e-3  # type: ignore[index]
    trainer = {**TRAINER, "max_epochs": 1, "limit_train_batches": 25}
    path = tmp_path / "digits.yaml"
    path.write_text(yaml.safe_dump({"model": model, "data": DATA, "trainer": trainer}))
    return path


@pytest.fixture
def teacher(command: Command, config: Path, tmp_path: Path) -> str:
    """A checkpoint of a short fit."""
    cli = command("fit", f"--config={config}", "--rules=none")
    cli.trainer.save_checkpoint(tmp_path / "teacher.ckpt")
    return str(tmp_path / "teacher.ckpt")


def test_distill_then_cascade(command: Command, capsys: Capture, config: Path, teacher: str, tmp_path: Path) -> None:
    short = "--trainer.limit_train_batches=4"
    plain = command("fit", f"--config={config}", short, "--rules=none", "--seed_everything=1")
    plain.trainer.save_checkpoint("plain.ckpt")
    capsys.readouterr()
    cli = command("distill", f"--config={config}", f"--teacher={teacher}", "--plain=plain.ckpt", short, "--mixing=0.5")
    printed = capsys.readouterr().out
    rows = {line.partition("  ")[0]: line for line in printed.splitlines()}
    for name in ("Student", "Teacher", "Without a teacher"):
        assert re.search(r"\d+\.\d\d%, 95% interval .* of 179, negative log-likelihood \d", rows[name]), printed
    assert "in accuracy, on the same examples" in rows["Student - teacher"]
    assert re.search(r"the teacher's gain of \+0\.\d+ \(95% interval", rows["Kept of likelihood"])
    kept = re.search(r"^Checkpoint +(\S+)$", printed, re.MULTILINE)
    assert kept is not None
    assert "distillation_loss" in cli.trainer.callback_metrics or Path(kept[1]).is_file()
    (values,) = Path(f"{teacher}.soft-targets").rglob("targets.bin")
    assert values.stat().st_size == 1259 * 10 * 2

    stages = {"class_path": "lightning_rules.Cascade", "init_args": {"stages": [kept[1], teacher], "accuracy": 0.5}}
    Path("cascade.yaml").write_text(yaml.safe_dump({"model": stages, "data": DATA, "trainer": TRAINER}))
    command("validate", "--config=cascade.yaml")
    printed = capsys.readouterr().out
    assert re.search(r"^0 +\d+\.\d% +\S+ +0\.\d{4}", printed, re.MULTILINE), printed
    assert "On new examples expect an accuracy of" in printed
    (file,) = Path("logs").rglob("cascade.ckpt")
    tested = [
        command("test", *options, f"--ckpt_path={file}").trainer.callback_metrics
        for options in (
            ["--config=cascade.yaml"],
            ["--model=lightning_rules.Cascade", "--data=DigitsDataModule", "--data.image_size=32"],
        )
    ]
    assert float(tested[0]["test/accuracy"]) == float(tested[1]["test/accuracy"])
    assert "Test accuracy  " in capsys.readouterr().out


def test_what_cannot_be_distilled(error: Callable[..., str], config: Path, teacher: str) -> None:
    said = error("distill", f"--config={config}", "--teacher=nowhere.ckpt")
    assert said == "error: There is no checkpoint nowhere.ckpt: name a .ckpt file that a fit has written."
    said = error("distill", f"--config={config}", f"--teacher={teacher}", "--temperature=0")
    assert said == "error: Expected `temperature` to be above 0, but got 0.0; 1 to 20 are usual."
    said = error("distill", f"--config={config}", f"--teacher={teacher}", "--model.num_classes=12", "--rules=none")
    assert "10" in said
