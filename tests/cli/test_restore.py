"""`restore` at the command line: from a run through a changed project back to the same numbers."""

import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from lightning_recipe.cli import RecipeCLI
from lightning_recipe.models.checkpoints import check_checkpoint
from lightning_recipe.restoring import COLUMNS

Command = Callable[..., RecipeCLI | None]
Error = Callable[..., str]
Capture = pytest.CaptureFixture[str]
TAG = "runs/logs/version_0/2"

# The callback saves, records and tags as GitTagCheckpoint does.
NET = """
import hashlib
import json
from pathlib import Path

import lightning as L
import torch
from torch.utils.data import DataLoader, TensorDataset

from lightning_rules.repository.repository import Repository
from lightning_rules.repository.tags import tag_message, tag_name
from lightning_rules.reproduce.run_record import describe_run


class Net(L.LightningModule):
    def __init__(self, width: int = 1) -> None:
        super().__init__()
        self.layer = torch.nn.Linear(width, OUTPUTS)

    def training_step(self, batch, batch_idx):
        return self.layer(batch[0]).square().mean()

    def test_step(self, batch, batch_idx):
        self.log("test/sum", self.layer(batch[0]).sum())

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.01)


class Data(L.LightningDataModule):
    def train_dataloader(self):
        return DataLoader(TensorDataset(torch.arange(32.0).view(8, 4)), batch_size=4)

    test_dataloader = train_dataloader


class Keeper(L.Callback):
    def on_train_start(self, trainer, pl_module):
        self.record = describe_run(trainer, pl_module)

    def on_save_checkpoint(self, trainer, pl_module, checkpoint):
        checkpoint["run_record"] = self.record

    def on_train_end(self, trainer, pl_module):
        path = Path("kept/best.ckpt").absolute()
        trainer.save_checkpoint(path)
        sha256 = hashlib.sha256(path.read_bytes()).hexdigest()
        checkpoint = {"path": str(path), "sha256": sha256, "bytes": path.stat().st_size}
        full = {**self.record, "checkpoint": checkpoint, "step": trainer.global_step, "metrics": {"loss": 0.5}}
        name = tag_name(full, trainer.global_step)
        Repository.find(".").tag(name, full["code"]["snapshot"], tag_message(full))
        Path(f"{path}.json").write_text(json.dumps(full))
"""
SCRIPT = "from lightning_recipe.cli import main\n\nif __name__ == '__main__':\n    main()\n"


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A repository, never committed to, with a script and a model of three outputs; git has no identity."""
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", str(tmp_path / ".gitconfig"))
    monkeypatch.setenv("GIT_CONFIG_NOSYSTEM", "1")
    root = tmp_path / "project"
    (root / "scripts").mkdir(parents=True)
    (root / "scripts" / "train.py").write_text(SCRIPT)
    (root / "scripts" / "net.py").write_text(NET.replace("OUTPUTS", "3"))
    (root / ".gitignore").write_text("logs/\nkept/\n__pycache__/\n")
    subprocess.run(["git", "init", "--quiet", str(root)], check=True)
    monkeypatch.chdir(root)
    return root


@pytest.fixture
def trained(project: Path, command: Command, monkeypatch: pytest.MonkeyPatch, capsys: Capture) -> Path:
    """The project after a run in this process, which looks like one of its script."""
    words = ["fit", "--model=net.Net", "--data=net.Data", "--model.width=4", "--trainer.max_steps=2", "--rules=none"]
    words += [
        "--trainer.enable_progress_bar=false",
        "--trainer.enable_model_summary=false",
        "--trainer.accelerator=cpu",
    ]
    words += ["--trainer.enable_checkpointing=false", "--trainer.callbacks=net.Keeper"]
    monkeypatch.syspath_prepend(str(project / "scripts"))
    monkeypatch.delitem(sys.modules, "net", raising=False)
    monkeypatch.setattr(sys, "orig_argv", ["python", "scripts/train.py", *words])
    command(*words)
    capsys.readouterr()
    return project


def sum_in(printed: str) -> float:
    found = re.search(r"test/sum\W+(-?[\d.]+)", printed)
    assert found, printed
    return float(found[1])


@pytest.mark.slow
def test_the_printed_command_gives_the_numbers_of_the_run(trained: Path, command: Command, capsys: Capture) -> None:
    command("test", "--config=logs/version_0/config.yaml", "--ckpt_path=kept/best.ckpt")
    expected = sum_in(capsys.readouterr().out)
    (trained / "scripts" / "net.py").write_text(NET.replace("OUTPUTS", "5"))
    assert command("restore", "logs/version_0") is None
    lines = capsys.readouterr().out.splitlines()
    shell = lines[lines.index("evaluate:") + 1]
    done = subprocess.run(shell, shell=True, capture_output=True, text=True, cwd=trained.parent)
    assert done.returncode == 0, done.stderr
    assert sum_in(done.stdout) == expected
    resume = lines[lines.index("resume:") + 1].split()
    assert resume[-5:] == ["fit", "--config", "config.yaml", "--ckpt_path", str(trained / "kept" / "best.ckpt")]


def test_another_architecture_names_the_tag_that_fits(trained: Path) -> None:
    checkpoint = torch.load("kept/best.ckpt", weights_only=True)
    fits = f"which `python scripts/train.py restore {TAG}` brings back (tag {TAG})."
    with pytest.raises(ValueError, match=rf"\(2 missing: weight, bias; 2 unexpected.*{re.escape(fits)}"):
        check_checkpoint(torch.nn.Linear(4, 5), checkpoint)
    subprocess.run(["git", "tag", "--delete", TAG], check=True, capture_output=True)
    commit = checkpoint["run_record"]["code"]["snapshot"][:10]
    with pytest.raises(ValueError, match=rf"restore CHECKPOINT` brings back \(commit {commit}\)"):
        check_checkpoint(torch.nn.Linear(4, 5), checkpoint)
    checkpoint["run_record"]["code"] = None
    with pytest.raises(ValueError, match=r"load it with the configuration that it was trained with\.$"):
        check_checkpoint(torch.nn.Linear(4, 5), checkpoint)


def test_list(trained: Path, command: Command, capsys: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    command("restore", "--list")
    header, row = capsys.readouterr().out.splitlines()
    assert header.split("\t") == list(COLUMNS)
    run, step, metrics, tag, started, checkpoint = row.split("\t")
    assert (run, step, metrics, tag) == ("logs/version_0", "2", "loss 0.5", TAG)
    assert re.fullmatch(r"\d{4}-\d\d-\d\d \d\d:\d\d", started)
    assert checkpoint == "kept/best.ckpt (there)"
    (trained / "kept" / "best.ckpt").unlink()
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    command("restore", "--list")
    table = capsys.readouterr().out
    assert "missing" in table
    assert "───" in table


def test_an_empty_list_says_how_to_fill_it(project: Path, command: Command, capsys: Capture) -> None:
    command("restore", "--list")
    assert "No checkpoint is tagged here: GitTagCheckpoint" in capsys.readouterr().out


def test_what_cannot_be_restored_is_one_line(project: Path, error: Error) -> None:
    assert error("restore", "digits/version_3").startswith("error: digits/version_3 is no tag, run or checkpoint that")
    assert error("restore") == "train.py restore: error: name a TAG, CHECKPOINT or RUN, or ask for --list"
    assert "or ask for --list" in error("restore", "digits", "--list")
    assert "unrecognized arguments: --model.lr=1" in error("restore", "digits", "--model.lr=1")


def test_outside_of_a_repository(error: Error, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert error("restore", "a").startswith(f"error: {tmp_path} is in no git repository")
    monkeypatch.setenv("PATH", str(tmp_path))
    assert error("restore", "a") == "error: git is not installed, or not on the PATH: install it."


@pytest.mark.parametrize("arguments", [("--help",), ("restore", "--help")])
def test_help(arguments: tuple[str, ...], command: Command, capsys: Capture) -> None:
    with pytest.raises(SystemExit) as raised:
        command(*arguments)
    assert raised.value.code == 0
    assert "restore" in capsys.readouterr().out
