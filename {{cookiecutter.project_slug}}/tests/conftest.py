"""Shared by the tests: each runs in a folder of its own, without network."""

import os
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("WANDB_MODE", "offline")
os.environ.setdefault("JSONARGPARSE_DEPRECATION_WARNINGS", "off")  # they are about LightningCLI's own code

import pytest
{% if cookiecutter.data == 'image-folder' %}
from PIL import Image
{% endif %}

PROJECT = Path(__file__).resolve().parents[1]


@pytest.fixture(autouse=True)
def _in_a_folder_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.argv", ["train.py"])  # LightningCLI warns of pytest's own arguments


@pytest.fixture
def options(tmp_path: Path) -> list[str]:
{% if cookiecutter.data == 'image-folder' %}
    """What makes a run small: images of two classes made here, no fetched weights, one CPU process, quick checks."""
    for name, brightness in {"dark": 0, "bright": 255}.items():
        folder = tmp_path / "images" / name
        folder.mkdir(parents=True)
        for number in range(20):
            noise = Image.effect_noise((32, 32), sigma=20)
            Image.blend(noise, Image.new("L", noise.size, brightness), 0.5).save(folder / f"{number}.png")
    data = ["--data.root", str(tmp_path / "images"), "--data.num_workers", "0", "--data.batch_size", "4"]
    model = ["--model.num_classes", "2", "--model.pretrained", "false", "--data.normalise_for", "null"]
    return [*data, *model, "--trainer.accelerator", "cpu", "--check_budget", "1", "--report", "json"]
{% elif cookiecutter.task == 'sequence-classification' %}
    """What makes a run small: one CPU process, a second for the checks before it, no page after it."""
    return ["--trainer.accelerator", "cpu", "--check_budget", "1", "--report", "json"]
{% else %}
    """What makes a run small: no fetched weights, one CPU process, quick checks, no page."""
    return ["--model.pretrained", "false", "--trainer.accelerator", "cpu", "--check_budget", "1", "--report", "json"]
{% endif %}


@pytest.fixture
def stage(options: list[str]):
    """The arguments of a run, by the name of its stage."""

    def arguments(name: str) -> list[str]:
        files = [PROJECT / "configs" / "base.yaml", PROJECT / "configs" / f"{name}.yaml"]
        return [*(word for file in files for word in ("--config", str(file))), *options]

    return arguments
