"""Small modules and data that the tests of ensembles share."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning.pytorch as L
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset


class Classifier(L.LightningModule):
    """Three classes from four numbers; remembers its arguments."""

    def __init__(self, width: int = 8, lr: float = 0.05, norm: bool = False) -> None:
        super().__init__()
        self.save_hyperparameters()
        self.num_classes = 3
        middle = [nn.BatchNorm1d(width)] if norm else []
        self.net = nn.Sequential(nn.Linear(4, width), *middle, nn.ReLU(), nn.Dropout(0.1), nn.Linear(width, 3))

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x)

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        return F.cross_entropy(self(batch[0]), batch[1])

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        logits = self(batch[0])
        self.log("val/loss", F.cross_entropy(logits, batch[1]))
        self.log("val/accuracy", (logits.argmax(1) == batch[1]).float().mean())

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), self.hparams["lr"])


class Data(L.LightningDataModule):
    """Three clouds of points; 120 to train on, 50 to validate, 41 to test, the last batches not full."""

    class_names = ("a", "b", "c")

    def __init__(self, batch_size: int = 16) -> None:
        super().__init__()
        self.batch_size = batch_size

    def setup(self, stage: str) -> None:
        generator = torch.Generator().manual_seed(0)
        labels = torch.arange(211) % 3
        x = torch.randn(211, 4, generator=generator) + F.one_hot(labels, 4) * 1.5
        self.parts = {
            name: TensorDataset(*part)
            for name, part in zip(
                ("train", "val", "test"),
                zip(x.split([120, 50, 41]), labels.split([120, 50, 41]), strict=True),
                strict=True,
            )
        }

    def train_dataloader(self) -> Any:
        return DataLoader(self.parts["train"], batch_size=self.batch_size, shuffle=True)

    def val_dataloader(self) -> Any:
        return DataLoader(self.parts["val"], batch_size=self.batch_size)

    def test_dataloader(self) -> Any:
        return DataLoader(self.parts["test"], batch_size=self.batch_size)

    def predict_dataloader(self) -> Any:
        return DataLoader(self.parts["test"], batch_size=self.batch_size)


@pytest.fixture(scope="session")
def classifier() -> type[Classifier]:
    return Classifier


@pytest.fixture
def data() -> Data:
    return Data()


@pytest.fixture
def trainer() -> Callable[..., L.Trainer]:
    def make(**options: Any) -> L.Trainer:
        quiet = {"enable_progress_bar": False, "enable_model_summary": False, "accelerator": "cpu", "max_epochs": 3}
        return L.Trainer(**{**quiet, "logger": False, "enable_checkpointing": False, **options})

    return make


@pytest.fixture
def members(classifier: type[Classifier]) -> Callable[..., list[str]]:
    """Checkpoints of untrained networks with different weights."""

    def save(*widths: int, **options: Any) -> list[str]:
        paths = []
        for place, width in enumerate(widths):
            torch.manual_seed(place)
            module = classifier(width, **options)
            trainer = L.Trainer(logger=False, enable_progress_bar=False, accelerator="cpu")
            trainer.strategy.connect(module)
            paths.append(f"member{place}.ckpt")
            trainer.save_checkpoint(paths[-1], weights_only=True)
        return paths

    return save


@pytest.fixture
def saved(tmp_path: Path) -> Callable[..., str]:
    """Save a module as a Lightning checkpoint that names its class."""

    def save(module: Any, name: str = "teacher.ckpt") -> str:
        kind = type(module)
        hyper_parameters = {**module.hparams, "_class_path": f"{kind.__module__}.{kind.__qualname__}"}
        torch.save({"state_dict": module.state_dict(), "hyper_parameters": hyper_parameters}, tmp_path / name)
        return str(tmp_path / name)

    return save


@pytest.fixture
def quiet(trainer: Callable[..., L.Trainer]) -> Callable[..., L.Trainer]:
    """The same for two epochs, with callbacks."""
    return lambda *callbacks, **options: trainer(**{"max_epochs": 2, "callbacks": list(callbacks), **options})
