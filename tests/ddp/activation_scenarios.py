"""What activation-health promises under DDP; started by test_activation_ddp.py, once a rank."""

from __future__ import annotations

from typing import Any

import lightning.pytorch as L
import torch
import torch.nn.functional as F
from scenarios import RANK, WORLD
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from lightning_rules import ActivationHealth

WORLDS = (2,)


class Model(L.LightningModule):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.net = nn.Sequential(nn.ReLU(), nn.Linear(16, 4))

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        return F.cross_entropy(self.net(batch[0]), batch[1])

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), 0.1)


def fit(dead: bool, refused: bool = False) -> Any:
    """On a rank that is dead no input is above zero; on one that is refused there is something compiled."""
    inputs, labels = torch.rand(1024, 16, generator=torch.Generator().manual_seed(0)), torch.arange(1024) % 4
    model, rule = Model(), ActivationHealth()
    if refused:
        model.other = torch.compile(lambda x: x)
    trainer = L.Trainer(
        accelerator="cpu",
        devices=WORLD,
        strategy="ddp",
        max_epochs=2,
        callbacks=[rule],
        use_distributed_sampler=False,
        **dict.fromkeys(("logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary"), False),
    )
    trainer.fit(model, DataLoader(TensorDataset(-inputs if dead else inputs, labels), 16))
    return [[str(found.severity), found.rule, found.message] for found in rule.findings]


def dead_on_both() -> Any:
    return fit(dead=True)


def dead_on_one() -> Any:
    return fit(dead=RANK == 0)


def refused_on_one() -> Any:
    return fit(dead=True, refused=RANK == 1)


SCENARIOS = (dead_on_both, dead_on_one, refused_on_one)
