"""Every stage in configs/ parses, and trains two batches of this project's model on its data."""

from pathlib import Path

import pytest

from lightning_recipe.cli import main

CONFIGS = Path(__file__).resolve().parents[1] / "configs"
STAGES = sorted(path.stem for path in CONFIGS.glob("*.yaml") if path.stem != "base")


@pytest.mark.parametrize("name", STAGES)
def test_stage_trains_two_batches(name: str, stage) -> None:
    cli = main(["fit", *stage(name), "--trainer.fast_dev_run", "2"])
    assert cli.trainer.global_step == 2
    assert type(cli.model).__module__ == "{{ cookiecutter.package }}.models.{{ cookiecutter.__model }}"
    assert type(cli.datamodule).__module__ == "{{ cookiecutter.package }}.data.{{ cookiecutter.__data }}"
