"""Two small modules that rules are run on, and a fit that says what it left behind."""

from __future__ import annotations

import logging
import random
import tempfile
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import Checkpoint
from lightning.pytorch.demos.boring_classes import BoringModel
from lightning.pytorch.utilities.seed import isolate_rng
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from lightning_rules import record

SEED = 7
BATCHES = 4


class DemoClassifier(LightningModule):
    """A healthy classifier of 3 classes on 4 features, with what a probe could disturb.

    Batch norm (buffers), dropout and a shuffled loader (random numbers), momentum (state of the optimiser), a running
    sum of losses (a plain attribute).
    """

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Dropout(0.2), nn.Linear(8, 3))
        self.losses: list[float] = []

    def forward(self, inputs: Tensor) -> Tensor:
        """Logits ``[batch, 3]`` for features ``[batch, 4]``."""
        logits: Tensor = self.net(inputs)
        return logits

    def training_step(self, batch: Sequence[Tensor], batch_idx: int) -> Tensor:
        """Cross-entropy, logged and remembered."""
        loss = F.cross_entropy(self(batch[0]), batch[1])
        self.losses.append(float(loss.detach()))
        self.log("train_loss", loss)
        return loss

    def validation_step(self, batch: Sequence[Tensor], batch_idx: int) -> None:
        """Cross-entropy, logged."""
        self.log("val_loss", F.cross_entropy(self(batch[0]), batch[1]))

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """SGD with momentum."""
        return torch.optim.SGD(self.parameters(), lr=0.05, momentum=0.9)

    def train_dataloader(self) -> DataLoader[Any]:
        """64 examples in shuffled batches of 8."""
        return DataLoader(_examples(64), batch_size=8, shuffle=True)

    def val_dataloader(self) -> DataLoader[Any]:
        """16 examples."""
        return DataLoader(_examples(16), batch_size=8)


def _examples(count: int) -> TensorDataset:
    """Normally distributed features, whose first says the class; half of the examples are of class 0."""
    features = torch.randn(count, 4, generator=torch.Generator().manual_seed(count))
    labels = (features[:, 0] > 0).long() + (features[:, 0] > 0.7).long()
    return TensorDataset(features, labels)


MODULES: tuple[type[LightningModule], ...] = (DemoClassifier, BoringModel)


@contextmanager
def quiet_and_seeded() -> Iterator[str]:
    """A folder for a fit that prints nothing, warns of nothing, and leaves the caller's random numbers alone."""
    log = logging.getLogger("lightning.pytorch")
    level = log.level
    with isolate_rng(), record.silence(), warnings.catch_warnings(), tempfile.TemporaryDirectory() as folder:
        log.setLevel(logging.ERROR)
        warnings.simplefilter("ignore")
        random.seed(SEED)
        np.random.seed(SEED)
        torch.manual_seed(SEED)
        try:
            yield folder
        finally:
            log.setLevel(level)


def fit(module_class: type[LightningModule], callbacks: list[Callback]) -> dict[str, Any]:
    """Train for two epochs of 4 steps on the CPU, then validate; the same seed each time.

    Returns:
        What the run left behind, by name: weights, state of the optimiser, random number generators, attributes.
    """
    with quiet_and_seeded() as folder:
        module = module_class()
        trainer = Trainer(
            accelerator="cpu",
            devices=1,
            max_epochs=2,
            limit_train_batches=BATCHES,
            limit_val_batches=1,
            logger=False,
            enable_checkpointing=any(isinstance(callback, Checkpoint) for callback in callbacks),
            enable_progress_bar=False,
            enable_model_summary=False,
            default_root_dir=folder,
            callbacks=callbacks,
        )
        trainer.fit(module)
        left = {
            "weights or buffers": module.state_dict(),
            "losses": list(getattr(module, "losses", [])),
            "state of the optimiser": trainer.optimizers[0].state_dict()["state"],
            "modes (training or evaluation)": [part.training for part in module.modules()],
            "metrics": dict(trainer.callback_metrics),
            "random numbers of torch": torch.get_rng_state(),
            "random numbers of NumPy": np.random.get_state(legacy=False)["state"]["key"].tolist(),
            "random numbers of Python": random.getstate(),
        }
        trainer.validate(module, verbose=False)
        return left
