"""Short trainings before the first step, under DDP; started by test_short_training_ddp.py."""

from __future__ import annotations

from typing import Any

import lightning.pytorch as L
import torch
import torch.nn.functional as F
from scenarios import RANK
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from lightning_rules import BatchIndependence, InputIndependentBaseline, OverfitOneBatch


class Model(L.LightningModule):
    def __init__(self, blind: bool) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Linear(8, 32), nn.BatchNorm1d(32), nn.ReLU(), nn.Linear(32, 4))
        self.blind = blind

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        x, y = batch
        return F.cross_entropy(self.net(0 * x if self.blind else x), y)

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), 0.05)


def run(blind: bool, rules: list[Any]) -> dict[str, Any]:
    L.seed_everything(0, verbose=False)
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(640) % 4
    inputs = torch.randn(640, 8, generator=generator) + 2 * F.one_hot(labels, 8)
    module = Model(blind)
    quiet = dict.fromkeys(("logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary"), False)
    trainer = L.Trainer(accelerator="cpu", max_epochs=1, callbacks=rules, use_distributed_sampler=True, **quiet)
    trainer.fit(module, DataLoader(TensorDataset(inputs, labels), 32, shuffle=True))
    return {
        "found": [[str(f.severity), f.message] for rule in rules for f in rule.findings],
        "weights": [float(p.detach().double().sum()) for p in module.parameters()],
        "rank": RANK,
    }


def rules() -> list[Any]:
    return [OverfitOneBatch(None), InputIndependentBaseline(None), BatchIndependence(budget=None)]


def seeing() -> Any:
    return run(False, rules())


def blind() -> Any:
    return run(True, rules())


def without_rules() -> Any:
    return run(False, [])


SCENARIOS = (seeing, blind, without_rules)
