"""Rates, schedules and the parameters of optimisers under DDP, as small runs; started by test_step_size_ddp.py."""

from __future__ import annotations

from typing import Any

import lightning.pytorch as L
import torch
import torch.nn.functional as F
from scenarios import RANK, WORLD
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from lightning_rules import ScheduleAudit, StepSize
from lightning_rules.audit import Audit, aspects_of
from lightning_rules.deadline import Deadline
from lightning_rules.preflight import gradient_reset, modes, optimiser_settings, parameter_use
from lightning_rules.preflight.model_seen import ModelSeen
from lightning_rules.view import View

PARTS = (parameter_use.PART, modes.PART, gradient_reset.PART, optimiser_settings.PART)


class Parts(Audit):
    """Parts of the model's audit, as an audit of their own."""

    name, source, kind = "parts-under-test", "a test (2026)", "check"
    parts, aspects = PARTS, aspects_of(PARTS)

    def read(self, view: View, deadline: Deadline) -> ModelSeen:
        return ModelSeen(view)


class Model(L.LightningModule):
    def __init__(self, rate: float = 0.05, gamma: float = 0.95, clears: bool | None = None) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Linear(8, 32), nn.BatchNorm1d(32), nn.ReLU(), nn.Dropout(0.1))
        self.head, self.rate, self.gamma, self.clears = nn.Linear(32, 4), rate, gamma, clears
        self.automatic_optimization = clears is None

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        loss = F.cross_entropy(self.head(self.body(batch[0])), batch[1])
        if self.clears is not None:
            optimizer = self.optimizers()
            if self.clears:
                optimizer.zero_grad()
            self.manual_backward(loss)
            optimizer.step()
        return loss

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self.head(self.body(batch[0]))

    def configure_optimizers(self) -> Any:
        optimizer = torch.optim.SGD(self.parameters(), self.rate, momentum=0.9)
        return [optimizer], [torch.optim.lr_scheduler.ExponentialLR(optimizer, self.gamma)]


def data() -> DataLoader[Any]:
    generator = torch.Generator().manual_seed(0)
    labels = torch.randint(4, (320,), generator=generator)
    inputs = torch.randn(320, 8, generator=generator) + labels[:, None]
    return DataLoader(TensorDataset(inputs, labels), 16 // WORLD, shuffle=True)


def fit(callbacks: list[Any], model: Model) -> Any:
    L.seed_everything(3, verbose=False)
    quiet = dict.fromkeys(("logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary"), False)
    trainer = L.Trainer(
        accelerator="cpu",
        devices=WORLD,
        strategy="ddp" if WORLD > 1 else "auto",
        max_epochs=4,
        callbacks=callbacks,
        **quiet,
    )
    trainer.fit(model, data(), data())
    return trainer


def said(model: Model) -> list[Any]:
    rules = [Parts(budget=None), ScheduleAudit(budget=None), StepSize(budget=None)]
    fit(rules, model)
    return [[str(finding.severity), finding.rule, finding.message] for rule in rules for finding in rule.findings]


def healthy() -> Any:
    return said(Model())


def rate_too_high() -> Any:
    return said(Model(rate=1000.0))


def decays_early() -> Any:
    return said(Model(gamma=0.001))


def never_cleared() -> Any:
    return said(Model(clears=False))


def cleared() -> Any:
    return said(Model(clears=True))


def trace() -> Any:
    ends = []
    for rules in ([], [Parts(budget=None), ScheduleAudit(budget=None), StepSize(budget=None)]):
        torch.manual_seed(RANK)
        model = Model()
        fit(rules, model)
        ends.append([value.double().flatten().tolist() for value in model.state_dict().values()])
    return ends


SCENARIOS = (healthy, rate_too_high, decays_early, never_cleared, cleared, trace)
