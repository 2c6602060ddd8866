"""What loss-decreases and bias-variance promise under DDP; started by test_loss_ddp.py."""

from __future__ import annotations

from typing import Any

import lightning.pytorch as L
import torch
import torch.nn.functional as F
from scenarios import RANK, WORLD
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from lightning_rules import BiasVariance, LossDecreases

WORLDS = (2,)


def data(seed: int) -> TensorDataset:
    inputs = torch.randn(640, 8, generator=torch.Generator().manual_seed(seed))
    return TensorDataset(inputs, (inputs[:, 0] > 0).long())


class Model(L.LightningModule):
    """With ``broken`` the loss of rank 1 alone is not finite from batch 7 on; gradients stay as they are."""

    def __init__(self, broken: bool) -> None:
        super().__init__()
        self.net, self.broken, self.batches = nn.Linear(8, 2), broken, 0

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        loss = F.cross_entropy(self.net(batch[0]), batch[1])
        if self.broken and RANK == 1 and self.trainer.global_step >= 7:
            loss = loss + torch.tensor(float("inf"))
        return loss

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self.log("val_loss", F.cross_entropy(self.net(batch[0]), batch[1]), sync_dist=True)

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), 0.1)


def run(broken: bool, rules: list[Any]) -> dict[str, Any]:
    L.seed_everything(0, verbose=False)
    quiet = dict.fromkeys(("logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary"), False)
    trainer = L.Trainer(accelerator="cpu", devices=WORLD, strategy="ddp", max_epochs=8, callbacks=rules, **quiet)
    module = Model(broken)
    trainer.fit(module, DataLoader(data(1), 32, shuffle=True), DataLoader(data(2), 32))
    return {
        "found": [[str(one.severity), one.rule, one.message] for rule in rules for one in rule.findings],
        "weights": [float(p.detach().double().sum()) for p in module.parameters()],
        "first": rules[0]._history.first if rules else [],
    }


def healthy() -> Any:
    return run(False, [LossDecreases(), BiasVariance()])


def broken() -> Any:
    return run(True, [LossDecreases()])


def without_rules() -> Any:
    return run(False, [])


SCENARIOS = (healthy, broken, without_rules)
