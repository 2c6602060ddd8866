"""LightningModules as people write them: with a forward and without, with loaders and with data modules."""

from __future__ import annotations

from typing import Any

import lightning as L
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import DataLoader
from torchmetrics.classification import MulticlassAccuracy

from planted_bugs.datasets import Splits


def mlp(hidden: int = 64, outputs: int = 10, inputs: int = 64) -> nn.Sequential:
    return nn.Sequential(
        nn.Flatten(),
        nn.Linear(inputs, hidden),
        nn.ReLU(),
        nn.Linear(hidden, hidden),
        nn.ReLU(),
        nn.Linear(hidden, outputs),
    )


def cnn(channels: int = 8) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(1, channels, 3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(channels, 2 * channels, 3, padding=1),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(2 * channels * 16, 10),
    )


class LitClassifier(L.LightningModule):
    """No forward; a function for the loss; Adam."""

    def __init__(self, net: nn.Module, lr: float = 2e-3) -> None:
        super().__init__()
        self.net = net
        self.lr = lr

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        x, y = batch
        loss = F.cross_entropy(self.net(x), y)
        self.log("train_loss", loss)
        return loss

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        x, y = batch
        logits = self.net(x)
        self.log("val_loss", F.cross_entropy(logits, y))
        self.log("val_acc", (logits.argmax(1) == y).float().mean())

    def configure_optimizers(self) -> Any:
        return torch.optim.Adam(self.net.parameters(), lr=self.lr)


class ImageModel(L.LightningModule):
    """A forward, a loss module, torchmetrics, one step for both loops, SGD with momentum."""

    def __init__(self, model: nn.Module, learning_rate: float = 0.02, momentum: float = 0.9) -> None:
        super().__init__()
        self.save_hyperparameters(ignore="model")
        self.model = model
        self.criterion = nn.CrossEntropyLoss()
        self.accuracy = MulticlassAccuracy(10, average="micro")

    def forward(self, x: Tensor) -> Tensor:
        return self.model(x)

    def _step(self, batch: Any) -> tuple[Tensor, Tensor, Tensor]:
        images, labels = batch
        logits = self(images)
        return self.criterion(logits, labels), logits, labels

    def training_step(self, batch: Any, batch_idx: int) -> dict[str, Tensor]:
        loss, _, _ = self._step(batch)
        self.log("train/loss", loss, prog_bar=True, on_step=True, on_epoch=True)
        return {"loss": loss}

    def validation_step(self, batch: Any, batch_idx: int) -> Tensor:
        loss, logits, labels = self._step(batch)
        self.accuracy(logits, labels)
        self.log_dict({"val/loss": loss, "val_acc": self.accuracy})
        return loss

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), self.hparams.learning_rate, momentum=self.hparams.momentum)


class DictModel(LitClassifier):
    """Batches are dictionaries."""

    def forward(self, image: Tensor) -> Tensor:
        return self.net(image)

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        return nn.functional.cross_entropy(self(batch["image"]), batch["label"])

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        hits = self(batch["image"]).argmax(-1) == batch["label"]
        self.log("val_acc", hits.float().mean(), prog_bar=True)


class RowReader(nn.Module):
    """An LSTM over the rows of an image; a linear layer on the last output."""

    def __init__(self, hidden: int = 32, batch_first: bool = True) -> None:
        super().__init__()
        self.lstm = nn.LSTM(8, hidden, batch_first=batch_first)
        self.fc = nn.Linear(hidden, 10)

    def forward(self, images: Tensor) -> Tensor:
        out, _ = self.lstm(images.squeeze(1))
        return self.fc(out[:, -1])


class Regressor(L.LightningModule):
    """Mean squared error of one output."""

    def __init__(self, inputs: int = 10, lr: float = 3e-3) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Linear(inputs, 32), nn.ReLU(), nn.Linear(32, 32), nn.ReLU(), nn.Linear(32, 1))
        self.lr = lr

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x)

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        x, y = batch
        loss = F.mse_loss(self(x).squeeze(-1), y)
        self.log("train_loss", loss)
        return loss

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        x, y = batch
        self.log("val_loss", F.mse_loss(self(x).squeeze(-1), y))

    def configure_optimizers(self) -> Any:
        return torch.optim.Adam(self.parameters(), lr=self.lr)


class Binary(Regressor):
    """One logit and binary cross-entropy."""

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        x, y = batch
        return F.binary_cross_entropy_with_logits(self(x).squeeze(1), y)

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        x, y = batch
        logits = self(x).squeeze(1)
        self.log("val_loss", F.binary_cross_entropy_with_logits(logits, y))
        self.log("val_acc", ((logits > 0) == y.bool()).float().mean())


class DigitsData(L.LightningDataModule):
    """Loaders of splits that are ready."""

    def __init__(self, splits: Splits, batch_size: int = 32) -> None:
        super().__init__()
        self.splits, self.batch_size = splits, batch_size

    def train_dataloader(self) -> DataLoader:
        return self.splits.train.loader(self.batch_size, shuffle=True, drop_last=True)

    def val_dataloader(self) -> DataLoader:
        return self.splits.validation.loader(128)
