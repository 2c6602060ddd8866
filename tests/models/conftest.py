"""Shared by the tests of models: a small data module and a quiet trainer."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
from torch.utils.data import DataLoader, TensorDataset


class Blobs(L.LightningDataModule):
    """Images of noise whose brightness is their class: 3 classes, an uneven last batch."""

    num_classes = 3
    class_names = ("low", "middle", "high")

    def __init__(self, count: int = 22, batch_size: int = 8, size: int = 32) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(1)
        self.y = torch.arange(count) % 3
        noise = torch.randn(count, 1, size, size, generator=generator)
        self.x = (noise + (self.y - 1).float()[:, None, None, None]).clamp(-3, 3)
        self.batch_size = batch_size

    def labels(self, split: str) -> torch.Tensor:
        return self.y

    def train_dataloader(self) -> DataLoader[Any]:
        return DataLoader(TensorDataset(self.x, self.y), batch_size=self.batch_size)

    val_dataloader = test_dataloader = predict_dataloader = train_dataloader


@pytest.fixture
def blobs() -> type[Blobs]:
    return Blobs


@pytest.fixture
def make_trainer(tmp_path: Path) -> Callable[..., L.Trainer]:
    """Return what makes a trainer that prints nothing and keeps no files but what the test asks for."""

    def make(**options: Any) -> L.Trainer:
        defaults: dict[str, Any] = {
            "accelerator": "cpu",
            "devices": 1,
            "logger": False,
            "enable_checkpointing": False,
            "enable_progress_bar": False,
            "enable_model_summary": False,
            "default_root_dir": tmp_path,
        }
        return L.Trainer(**{**defaults, **options})

    return make
