"""What gradient-health promises under DDP, as small runs; started by test_gradient_health_ddp.py."""

from __future__ import annotations

from typing import Any

import lightning.pytorch as L
import torch
import torch.nn.functional as F
from scenarios import RANK, WORLD
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from lightning_rules import GradientHealth


class Network(L.LightningModule):
    """A net in which the last rank's loss is NaN in one batch."""

    def __init__(self, bad: int = -1) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.net = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 3))
        self.bad = bad

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        bad = batch_idx == self.bad and RANK == WORLD - 1
        return F.cross_entropy(self.net(batch[0]), batch[1]) * (torch.nan if bad else 1)

    def configure_optimizers(self) -> Any:
        return torch.optim.Adam(self.parameters(), 1e-2)


class Local(Network):
    """Steps by hand on gradients that DDP did not average."""

    def __init__(self, bad: int = -1) -> None:
        super().__init__(bad)
        self.automatic_optimization = False

    def training_step(self, batch: Any, batch_idx: int) -> None:
        optimizer = self.optimizers()
        optimizer.zero_grad()
        with optimizer.toggle_model(sync_grad=False):
            self.manual_backward(super().training_step(batch, batch_idx))
            optimizer.step()


def said(model: Network) -> list[Any]:
    torch.manual_seed(0)
    inputs = torch.randn(384, 8)
    rule = GradientHealth(overhead=0.9)  # every step is looked at, however busy the machine is
    trainer = L.Trainer(
        accelerator="cpu",
        devices=WORLD,
        strategy="ddp" if WORLD > 1 else "auto",
        max_epochs=2,
        callbacks=[rule],
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(model, DataLoader(TensorDataset(inputs, inputs[:, :3].argmax(1)), 4))
    return [[str(finding.severity), finding.rule, finding.message] for finding in rule.findings]


def healthy() -> list[Any]:
    return said(Network())


def bad_batch_on_one_rank() -> list[Any]:
    return said(Network(bad=9))


def bad_batch_on_one_rank_without_synchronisation() -> list[Any]:
    return said(Local(bad=9))


SCENARIOS = (healthy, bad_batch_on_one_rank, bad_batch_on_one_rank_without_synchronisation)
