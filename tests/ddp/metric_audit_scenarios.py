"""What metric-audit and mode-audit promise under DDP, as small runs; started by test_metric_audit_ddp.py."""

from __future__ import annotations

from functools import partial
from typing import Any

import lightning.pytorch as L
import torch
import torch.nn.functional as F
from lightning.pytorch.callbacks import EarlyStopping
from scenarios import RANK, WORLD
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from lightning_rules import MetricAudit, ModeAudit

QUIET = dict.fromkeys(("logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary"), False)


class Model(L.LightningModule):
    """Logs over the whole set, from the last batch, with or without the other ranks; may train on in eval mode."""

    def __init__(self, last: bool = False, sync: bool = True, forgets: int | None = None) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Linear(8, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Linear(16, 4))
        self.last, self.sync, self.forgets = last, sync, forgets

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        return F.cross_entropy(self.net(batch[0]), batch[1])

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        logits = self.net(batch[0])
        self.accuracy = (logits.argmax(1) == batch[1]).float().mean()
        self.log("val_loss", F.cross_entropy(logits, batch[1]), sync_dist=self.sync)
        if not self.last:
            self.log("val_acc", self.accuracy, sync_dist=self.sync)

    def on_validation_epoch_end(self) -> None:
        if self.last:
            self.log("val_acc", self.accuracy, sync_dist=self.sync)

    def on_train_epoch_end(self) -> None:
        if self.forgets == self.global_rank:
            self.eval()

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), 0.05, momentum=0.9)


def fit(rules: list[Any], **options: Any) -> Model:
    torch.manual_seed(3)
    inputs = torch.randn(231, 8, generator=torch.Generator().manual_seed(0))
    labels = (inputs[:, 0] > 0).long() + 2 * (inputs[:, 1] > 0).long()
    module = Model(**options)
    trainer = L.Trainer(
        accelerator="cpu",
        devices=WORLD,
        strategy="ddp" if WORLD > 1 else "auto",
        max_epochs=3,
        callbacks=[*rules, EarlyStopping("val_loss", patience=9)],
        **QUIET,
    )
    torch.manual_seed(5 + RANK)
    train = DataLoader(TensorDataset(inputs[:128], labels[:128]), 8, shuffle=True)
    trainer.fit(module, train, DataLoader(TensorDataset(inputs[128:], labels[128:]), 16))
    return module


def scenario(**options: Any) -> dict[str, Any]:
    rules = [ModeAudit(), MetricAudit()]
    fit(rules, **options)
    return {"found": [(one.rule, str(one.severity), one.message) for rule in rules for one in rule.findings]}


def no_trace() -> dict[str, Any]:
    ours, ours_rng = fit([ModeAudit(), MetricAudit()]).state_dict(), torch.get_rng_state()
    plain, plain_rng = fit([]).state_dict(), torch.get_rng_state()
    weights = all(torch.equal(ours[name], plain[name]) for name in plain)
    return {"same_weights": weights, "same_rng": torch.equal(ours_rng, plain_rng)}


SCENARIOS = {
    "healthy": scenario,
    "unsynchronised": partial(scenario, sync=False),
    "last_batch": partial(scenario, last=True),
    "last_batch_of_each_rank": partial(scenario, last=True, sync=False),
    "one_rank_forgets": partial(scenario, forgets=WORLD - 1),
    "no_trace": no_trace,
}
