"""What the tests of checkpoints share: a small run, and a repository to run it in."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from lightning_rules import GitTagCheckpoint
from lightning_rules.testing.demo import DemoClassifier


class Rising(DemoClassifier):
    """Logs a score that the test chooses, by epoch."""

    def __init__(self, scores: list[float] | None = None) -> None:
        super().__init__()
        self.scores = scores or [1.0, 2.0, 3.0, 4.0, 5.0, 6.0]

    def on_train_epoch_end(self) -> None:
        self.log("score", self.scores[self.current_epoch])


@pytest.fixture
def train() -> Callable[..., Any]:
    """Fit a small network of 2 steps an epoch with some callbacks; the Trainer."""
    import lightning.pytorch as L

    def fit(*callbacks: Any, epochs: int = 2, module: Any = None, ckpt_path: Any = None, **options: Any) -> Any:
        options = {"logger": False, "limit_train_batches": 2, "limit_val_batches": 1, **options}
        trainer = L.Trainer(
            accelerator="cpu",
            max_epochs=epochs,
            callbacks=list(callbacks),
            enable_progress_bar=False,
            enable_model_summary=False,
            **options,
        )
        trainer.fit(module or Rising(), ckpt_path=ckpt_path)
        return trainer

    return fit


@pytest.fixture
def keep() -> Callable[..., GitTagCheckpoint]:
    """A GitTagCheckpoint in the folder "kept" that watches the largest score."""

    def make(**options: Any) -> GitTagCheckpoint:
        defaults = {"dirpath": "kept", "filename": "{step}", "monitor": "score", "mode": "max", "save_last": True}
        return GitTagCheckpoint(**{**defaults, **options})

    return make


@pytest.fixture
def git(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., str]:
    """Call git in the test's folder, a repository with one commit; settings of this machine are kept out."""
    settings = tmp_path.with_name(f"{tmp_path.name}.gitconfig")
    settings.write_text("[user]\nname = Test\nemail = test@localhost\n")
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", str(settings))
    monkeypatch.setenv("GIT_CONFIG_SYSTEM", os.devnull)

    def call(*arguments: str) -> str:
        done = subprocess.run(["git", "-C", str(tmp_path), *arguments], capture_output=True, text=True, check=True)
        return done.stdout.strip()

    call("init", "-q", "-b", "main")
    (tmp_path / "train.py").write_text("lr = 0.1\n")
    call("add", ".")
    call("commit", "-qm", "first")
    return call
