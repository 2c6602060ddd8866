"""Real git in folders of the test's own, with an identity of the test's own; and small runs to be saved."""

import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning.pytorch as L
import pytest

from lightning_rules import GitTagCheckpoint
from lightning_rules.testing.demo import DemoClassifier

GitCall = Callable[..., str]


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home of the test's own: no identity, configuration or hook of the machine leaks in."""
    folder = tmp_path / "home"
    folder.mkdir()
    monkeypatch.setenv("HOME", str(folder))
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", str(folder / ".gitconfig"))
    monkeypatch.setenv("GIT_CONFIG_NOSYSTEM", "1")
    for name in ("GIT_DIR", "GIT_INDEX_FILE", "GIT_WORK_TREE", "EMAIL"):
        monkeypatch.delenv(name, raising=False)
    for role in ("AUTHOR", "COMMITTER"):
        for what in ("NAME", "EMAIL", "DATE"):
            monkeypatch.delenv(f"GIT_{role}_{what}", raising=False)
    (folder / ".gitconfig").write_text(
        "[user]\n\tname = A Tester\n\temail = tester@example.org\n[init]\n\tdefaultBranch = main\n"
        '[protocol "file"]\n\tallow = always\n[advice]\n\tdetachedHead = false\n'
    )
    return folder


@pytest.fixture
def git(home: Path) -> GitCall:
    """Call git in a folder and return what it prints."""

    def call(folder: Path, *arguments: str) -> str:
        done = subprocess.run(["git", "-C", str(folder), *arguments], capture_output=True, check=False)
        assert done.returncode == 0, done.stderr.decode()
        return done.stdout.decode("utf-8", "surrogateescape")

    return call


@pytest.fixture
def project(git: GitCall, tmp_path: Path) -> Path:
    """A repository with one commit: model.py, src/data.py, and logs/ ignored."""
    root = tmp_path / "project"
    (root / "src").mkdir(parents=True)
    (root / "model.py").write_text("layers = 1\n")
    (root / "src" / "data.py").write_text("size = 8\n")
    (root / ".gitignore").write_text("logs/\n")
    git(root, "init", "--quiet")
    git(root, "add", "--all")
    git(root, "commit", "--quiet", "--message", "first")
    return root


@pytest.fixture
def here(project: Path, git: GitCall, monkeypatch: pytest.MonkeyPatch) -> GitCall:
    """Work in the project, and call git there; what it prints, stripped."""
    monkeypatch.chdir(project)
    return lambda *arguments: git(project, *arguments).strip()


@pytest.fixture
def train() -> Callable[..., L.Trainer]:
    """Fit a small network of 2 steps an epoch with some callbacks; the Trainer."""

    def fit(*callbacks: Any, epochs: int = 2, module: Any = None, ckpt_path: Any = None, **options: Any) -> L.Trainer:
        options = {"logger": False, "limit_train_batches": 2, "limit_val_batches": 1, **options}
        trainer = L.Trainer(
            accelerator="cpu",
            max_epochs=epochs,
            callbacks=list(callbacks),
            enable_progress_bar=False,
            enable_model_summary=False,
            **options,
        )
        trainer.fit(module or DemoClassifier(), ckpt_path=ckpt_path)
        return trainer

    return fit


@pytest.fixture
def keep() -> Callable[..., GitTagCheckpoint]:
    """A GitTagCheckpoint in the folder "kept" that watches the largest score."""

    def make(**options: Any) -> GitTagCheckpoint:
        defaults = {"dirpath": "kept", "filename": "{step}", "monitor": "score", "mode": "max", "save_last": True}
        return GitTagCheckpoint(**{**defaults, **options})

    return make
