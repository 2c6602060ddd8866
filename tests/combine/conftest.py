"""Shared by the tests of combine: checkpoints of a small module, and quick Trainers."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning.pytorch as L
import pytest
import torch

QUIET = {
    "accelerator": "cpu",
    "logger": False,
    "enable_checkpointing": False,
    "enable_progress_bar": False,
    "enable_model_summary": False,
}


@pytest.fixture
def saved(tmp_path: Path) -> Callable[..., str]:
    """Save a module as a Lightning checkpoint that names its class."""

    def save(module: Any, name: str = "teacher.ckpt", class_path: str | None = None) -> str:
        path = class_path or f"{type(module).__module__}.{type(module).__qualname__}"
        hyper_parameters = {**module.hparams, "_class_path": path}
        torch.save({"state_dict": module.state_dict(), "hyper_parameters": hyper_parameters}, tmp_path / name)
        return str(tmp_path / name)

    return save


@pytest.fixture
def trainer() -> Callable[..., L.Trainer]:
    """A Trainer that writes nothing and says nothing."""

    def make(*callbacks: Any, **options: Any) -> L.Trainer:
        return L.Trainer(**{**QUIET, "max_epochs": 2, "callbacks": list(callbacks), **options})

    return make
