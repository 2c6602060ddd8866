"""Generated projects in an environment of their own: their `make test`, and one epoch with `make train`."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path

import pytest


@pytest.fixture
def _no_settings_of_ours(monkeypatch: pytest.MonkeyPatch) -> None:
    """What pytest's own run has set, a new user has not."""
    for name in [name for name in os.environ if name.startswith(("PYTEST", "COV_", "VIRTUAL_ENV", "PYTHONPATH"))]:
        monkeypatch.delenv(name)


@pytest.mark.slow
@pytest.mark.usefixtures("_no_settings_of_ours")
@pytest.mark.parametrize(
    "answers",
    [("data=digits",), ("task=sequence-classification", "logger=tensorboard", "project_name=Rows of Digits")],
    ids=["images", "sequences"],
)
def test_a_new_users_way(
    answers: tuple[str, ...],
    repository: Path,
    command_line: Callable[..., str],
    run: Callable[..., str],
    tmp_path: Path,
) -> None:
    command_line("--no-input", repository, *answers, cwd=tmp_path)
    project = next(path.parent for path in tmp_path.glob("*/README.md") if path.parent != repository)
    python = f"PYTHON={sys.executable}"
    tested = run("make", "test", python, cwd=project)
    assert " passed" in tested
    assert "failed" not in tested
    trained = run("make", "train", python, "ARGS=--trainer.max_epochs 1", cwd=project)
    assert "Test accuracy" in trained
    assert "blank-inputs" in trained
    assert (project / "logs").is_dir()
    assert run("git", "status", "--porcelain", cwd=project) == ""


@pytest.mark.slow
@pytest.mark.usefixtures("_no_settings_of_ours")
def test_images_of_ones_own(
    make_project: Callable[..., Path], run: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The third kind of project, in this environment; and what it says while there are no images."""
    project = make_project(data="image-folder", backbone="test_resnet", image_size="32", num_classes="3")
    monkeypatch.setenv("PYTHONPATH", str(project / "src"))
    assert " passed" in run(sys.executable, "-m", "pytest", "-k", "not two_processes", cwd=project)
    train = ("scripts/train.py", "fit", "--config", "configs/base.yaml", "--config", "configs/baseline.yaml")
    said = run(sys.executable, *train, cwd=project, status=2)
    assert "data/images" in said.splitlines()[-1]
    assert said.splitlines()[-1].startswith("error: ")
    assert "Traceback" not in said
