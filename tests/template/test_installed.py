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


KINDS = (("data=digits",), ("task=sequence-classification", "logger=tensorboard", "project_name=Rows of Digits"))


@pytest.mark.slow(seconds=200)
@pytest.mark.usefixtures("_no_settings_of_ours")
def test_a_new_users_way(
    repository: Path,
    command_line: Callable[..., str],
    run: Callable[..., str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """From the template to a trained model; the second project is added to what was installed for the first."""
    for answers, folder in zip(KINDS, ("my-project", "rows-of-digits"), strict=True):
        command_line("--no-input", repository, *answers, cwd=tmp_path)
        project = tmp_path / folder
        make = ("make", f"PYTHON={sys.executable}")
        if folder != "my-project":
            make += (f"VENV={tmp_path / 'my-project' / '.venv'}",)
            monkeypatch.setenv("PYTEST_ADDOPTS", "-k 'not two_processes'")  # sequences on two: tests/configs
        tested = run(*make, "test", cwd=project)
        assert " passed" in tested
        assert "failed" not in tested
        trained = run(*make, "train", "ARGS=--trainer.max_epochs 1", cwd=project)
        assert "Test accuracy" in trained
        (page,) = (project / "logs").rglob("report.html")
        assert "blank-inputs" in page.read_text(encoding="utf-8"), "a rule of one's own stands beside the others"
        assert (project / "logs").is_dir()
        assert run("git", "status", "--porcelain", cwd=project) == ""


@pytest.mark.slow(seconds=50)
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
