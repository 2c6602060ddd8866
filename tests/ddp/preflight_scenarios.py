"""What gradient-check, capacity-check and random-features promise under DDP; started by test_preflight_ddp.py."""

from __future__ import annotations

from typing import Any

import lightning.pytorch as L
import torch
import torch.nn.functional as F
from scenarios import RANK, WORLD
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from lightning_rules import CapacityCheck, GradientCheck, RandomFeatures, Rule

WORLDS = (2,)


class Network(L.LightningModule):
    """A loss whose penalty loses its gradient on one rank, if it is told so."""

    def __init__(self, width: int = 8, cut_on_rank: int = -1) -> None:
        super().__init__()
        self.save_hyperparameters()
        torch.manual_seed(1)
        self.net = nn.Sequential(nn.Linear(10, width), nn.BatchNorm1d(width), nn.ReLU(), nn.Linear(width, 4))
        self.cut = cut_on_rank == RANK

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        penalty = 0.01 * self.net[0].weight.square().sum()
        return F.cross_entropy(self.net(batch[0]), batch[1]) + (penalty.detach() if self.cut else penalty)

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        pass

    def configure_optimizers(self) -> Any:
        return torch.optim.Adam(self.parameters(), lr=1e-3)


def loader(shuffle: bool) -> DataLoader[Any]:
    inputs = torch.randn(256, 10, generator=torch.Generator().manual_seed(0))
    return DataLoader(TensorDataset(inputs, inputs[:, :4].argmax(1)), 16, shuffle=shuffle)


def fit(rules: list[Rule], **model: Any) -> dict[str, Any]:
    network = Network(**model)
    trainer = L.Trainer(
        accelerator="cpu",
        devices=WORLD,
        strategy="ddp",
        max_epochs=1,
        callbacks=[*rules],
        **dict.fromkeys(("logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary"), False),
    )
    torch.manual_seed(5)
    trainer.fit(network, loader(True), loader(False))
    return {
        "said": [[str(f.severity), f.rule, f.message] for rule in rules for f in rule.findings],
        "weights": [value.double().sum().item() for value in network.parameters()],
    }


def rules() -> list[Rule]:
    return [GradientCheck(budget=None), CapacityCheck(steps=30, budget=None), RandomFeatures(budget=None)]


def healthy() -> dict[str, Any]:
    return fit(rules())


def without() -> dict[str, Any]:
    return fit([])


def wrong_on_rank_1() -> dict[str, Any]:
    return fit([GradientCheck(budget=None)], cut_on_rank=1)


SCENARIOS = (healthy, without, wrong_on_rank_1)
