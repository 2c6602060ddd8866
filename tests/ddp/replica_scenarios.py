"""What replica-drift and update-ratio promise on two ranks, as small runs; started by test_replica_ddp.py."""

from __future__ import annotations

from typing import Any

import lightning.pytorch as L
import torch
import torch.nn.functional as F
from scenarios import RANK, WORLD
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from lightning_rules import ReplicaDrift, UpdateRatio

WORLDS = (2,)


class Model(L.LightningModule):
    """Batch norm, whose running statistics are each rank's own."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.net = nn.Sequential(nn.Linear(8, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Linear(16, 3))

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        return F.cross_entropy(self.net(batch[0]), batch[1])

    def configure_optimizers(self) -> Any:
        return torch.optim.Adam(self.parameters(), 1e-2)


class Reset(Model):
    """Its weights are drawn anew on each rank, once it is wrapped."""

    def on_train_start(self) -> None:
        torch.manual_seed(RANK)
        self.net[0].reset_parameters()


class DrawnAnew(Model):
    """Its weights are drawn anew in each epoch, alike on all ranks."""

    def on_train_epoch_start(self) -> None:
        torch.manual_seed(self.current_epoch)
        self.net[0].reset_parameters()
        self.net[3].reset_parameters()


class Alone(Model):
    """From step 20 on it steps on gradients that are not averaged."""

    def __init__(self) -> None:
        super().__init__()
        self.automatic_optimization = False

    def training_step(self, batch: Any, batch_idx: int) -> None:  # type: ignore[override]
        optimizer = self.optimizers()
        with optimizer.toggle_model(sync_grad=self.global_step < 20):
            optimizer.zero_grad()
            self.manual_backward(super().training_step(batch, batch_idx))
            optimizer.step()


def fit(model: Any, shared: bool = False, **options: Any) -> Any:
    rules = [ReplicaDrift(overhead=0.9, **options), UpdateRatio()]
    trainer = L.Trainer(
        accelerator="cpu",
        devices=WORLD,
        strategy="ddp",
        max_epochs=4,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        use_distributed_sampler=not shared,
        callbacks=rules,
    )
    inputs, targets = torch.randn(256, 8, generator=torch.Generator().manual_seed(0)), torch.arange(256) % 3
    raised = ""
    try:
        trainer.fit(model, DataLoader(TensorDataset(inputs, targets), 8 if not shared else 16, shuffle=not shared))
    except RuntimeError as error:
        raised = str(error)
    return {
        "said": [[f.rule, str(f.severity), f.message] for f in rules[0].findings],
        "updates": [[f.rule, str(f.severity)] for f in rules[1].findings],
        "evidence": {f.rule: dict(f.evidence) for f in rules[0].findings},
        "raised": raised,
        "steps": trainer.global_step,
    }


def healthy() -> Any:
    return fit(Model())


def reset() -> Any:
    return fit(Reset())


def reset_raises() -> Any:
    return fit(Reset(), on_error="raise")


def alone() -> Any:
    return fit(Alone())


def drawn_anew() -> Any:
    return fit(DrawnAnew())


def shared_batches() -> Any:
    return fit(Model(), shared=True)


SCENARIOS = (healthy, reset, reset_raises, alone, drawn_anew, shared_batches)
