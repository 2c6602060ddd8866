"""Small data, small networks and one way to look at the start of a run."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import lightning.pytorch as L
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from sklearn.datasets import load_diabetes, load_digits
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from lightning_rules import Finding


class Plain(L.LightningModule):
    """A network, a loss, an optimiser."""

    def __init__(self, net: nn.Module, loss: Any = F.cross_entropy, optimizer: Any = None, step: Any = None) -> None:
        super().__init__()
        self.net, self.loss, self.step = net, loss, step
        self.optimizer = optimizer or (lambda parameters: torch.optim.Adam(parameters, 1e-3))

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        return self.step(self, batch) if self.step else self.loss(self.net(batch[0]), batch[1])

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self.loss(self.net(batch[0]), batch[1])

    def configure_optimizers(self) -> Any:
        return self.optimizer([parameter for parameter in self.parameters() if parameter.requires_grad])


class StopAtStart(L.Callback):
    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        trainer.fit_loop.min_epochs, trainer.fit_loop.epoch_loop.min_steps, trainer.should_stop = 0, None, True


def look(rule: Any, module: Any, data: tuple[Tensor, Tensor], batch: int = 32, seed: int = 0) -> list[Finding]:
    """What a rule finds before the first step."""
    quiet = dict.fromkeys(("logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary"), False)
    callbacks = [rule, StopAtStart()]
    trainer = L.Trainer(accelerator="cpu", max_epochs=1, num_sanity_val_steps=0, callbacks=callbacks, **quiet)
    generator = torch.Generator().manual_seed(seed)
    trainer.fit(module, DataLoader(TensorDataset(*data), batch, shuffle=True, generator=generator))
    return list(rule.findings)


@pytest.fixture
def found() -> Callable[..., list[Finding]]:
    return look


@pytest.fixture
def plain() -> type[Plain]:
    return Plain


@pytest.fixture(scope="session")
def digits() -> tuple[Tensor, Tensor]:
    bunch = load_digits()
    inputs = torch.tensor(bunch.data, dtype=torch.float32)
    return (inputs - inputs.mean()) / inputs.std(), torch.tensor(bunch.target)


@pytest.fixture(scope="session")
def diabetes() -> tuple[Tensor, Tensor]:
    bunch = load_diabetes()
    parts = [np.asarray(part, dtype=np.float32) for part in (bunch.data, bunch.target)]
    return tuple(torch.tensor((part - part.mean(0)) / part.std(0)) for part in parts)  # type: ignore[return-value]


@pytest.fixture
def mlp() -> Callable[..., nn.Sequential]:
    def make(inputs: int = 64, outputs: int = 10, seed: int = 0) -> nn.Sequential:
        torch.manual_seed(seed)
        layers = [nn.Linear(inputs, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, outputs)]
        return nn.Sequential(*layers)

    return make
