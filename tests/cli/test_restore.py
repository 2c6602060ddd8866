"""`restore` at the command line: from a run through a changed project back to the same numbers."""

import hashlib
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch

from lightning_recipe import restoring
from lightning_recipe.cli import RecipeCLI
from lightning_rules.reproduce.repository import Repository
from lightning_rules.reproduce.run_record import describe_run, tag_message, tag_name

Command = Callable[..., RecipeCLI | None]
Error = Callable[..., str]
Capture = pytest.CaptureFixture[str]
ROOT = Path(__file__).resolve().parents[2]

MODEL = """
import lightning as L
import torch
from torch.utils.data import DataLoader, TensorDataset


class Net(L.LightningModule):
    def __init__(self, width: int = 1) -> None:
        super().__init__()
        self.layer = torch.nn.Linear(width, {outputs})

    def training_step(self, batch, batch_idx):
        return self.layer(batch[0]).square().mean()

    def test_step(self, batch, batch_idx):
        self.log("test/sum", self.layer(batch[0]).sum().double())

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.01)


class Data(L.LightningDataModule):
    def train_dataloader(self):
        return DataLoader(TensorDataset(torch.arange(32.0).view(8, 4)), batch_size=4)

    test_dataloader = train_dataloader
"""
SCRIPT = "from lightning_recipe.cli import main\n\nif __name__ == '__main__':\n    import net\n\n    main()\n"


class Keeper(L.Callback):
    """Saves, records and tags as GitTagCheckpoint does."""

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self.record = describe_run(trainer, pl_module)

    def on_save_checkpoint(self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]) -> None:
        checkpoint["run_record"] = self.record

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        path = Path("kept/best.ckpt").absolute()
        trainer.save_checkpoint(path)
        sha256 = hashlib.sha256(path.read_bytes()).hexdigest()
        checkpoint = {"path": str(path), "sha256": sha256, "bytes": path.stat().st_size}
        full = {**self.record, "checkpoint": checkpoint, "step": trainer.global_step, "metrics": {"loss": 0.5}}
        name = tag_name(full, trainer.global_step)
        Repository.find(".").tag(name, full["code"]["snapshot"], tag_message(full))
        Path(f"{path}.json").write_text(json.dumps(full))


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A repository with a script, a model with three outputs, and no identity."""
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", str(tmp_path / ".gitconfig"))
    monkeypatch.setenv("GIT_CONFIG_NOSYSTEM", "1")
    root = tmp_path / "project"
    (root / "scripts").mkdir(parents=True)
    (root / "scripts" / "train.py").write_text(SCRIPT)
    (root / "scripts" / "net.py").write_text(MODEL.format(outputs=3))
    (root / ".gitignore").write_text("logs/\nkept/\n")
    subprocess.run(["git", "init", "--quiet", str(root)], check=True)
    monkeypatch.chdir(root)
    return root


def fit(command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    """Train with the project's model in this process, as `scripts/train.py` would."""
    monkeypatch.syspath_prepend(str(Path("scripts").resolve()))
    monkeypatch.delitem(sys.modules, "net", raising=False)
    words = ["fit", "--model=net.Net", "--data=net.Data", "--model.width=4", "--trainer.max_steps=2", "--rules=none"]
    words += [
        "--trainer.enable_progress_bar=false",
        "--trainer.enable_model_summary=false",
        "--trainer.accelerator=cpu",
    ]
    words += ["--trainer.enable_checkpointing=false", f"--trainer.callbacks={__name__}.Keeper"]
    monkeypatch.setitem(sys.modules, __name__, sys.modules.get(__name__) or sys.modules[Keeper.__module__])
    monkeypatch.setattr(sys, "orig_argv", ["python", "scripts/train.py", *words])
    command(*words)


def tested(printed: str) -> str:
    return next(line for line in printed.splitlines() if "test/sum" in line)


@pytest.mark.slow
def test_the_printed_command_gives_the_numbers_of_the_run(
    project: Path, command: Command, error: Error, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    fit(command, monkeypatch)
    command("test", "--config=logs/version_0/config.yaml", "--ckpt_path=kept/best.ckpt", "--trainer.callbacks=null")
    expected = tested(capsys.readouterr().out)
    (project / "scripts" / "net.py").write_text(MODEL.format(outputs=5))
    monkeypatch.setattr(sys.modules["net"].Net, "__init__", _wider)
    said = error(
        "test", "--config=logs/version_0/config.yaml", "--ckpt_path=kept/best.ckpt", "--trainer.callbacks=null"
    )
    assert "size mismatch" in said or "another architecture" in said
    capsys.readouterr()

    assert command("restore", "logs/version_0") is None
    lines = capsys.readouterr().out.splitlines()
    shell = lines[lines.index("evaluate:") + 1].strip().replace("--ckpt_path", "--trainer.callbacks=null --ckpt_path")
    done = subprocess.run(shell, shell=True, capture_output=True, text=True, cwd=project.parent)
    assert done.returncode == 0, done.stderr
    assert tested(done.stdout) == expected
