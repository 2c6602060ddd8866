"""What model-audit promises under DDP, as small runs; started by test_model_audit_ddp.py."""

from __future__ import annotations

from functools import partial
from typing import Any

import lightning.pytorch as L
import torch
import torch.nn.functional as F
from scenarios import RANK, WORLD
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from lightning_rules import ModelAudit

QUIET = dict.fromkeys(("logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary"), False)


class Model(L.LightningModule):
    def __init__(self, softmax: bool = False, nan_on: int | None = None, raises_on: int | None = None) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Linear(8, 32), nn.BatchNorm1d(32), nn.ReLU(), nn.Dropout(0.2), nn.Linear(32, 4))
        self.softmax, self.nan_on, self.raises_on, self.probed = softmax, nan_on, raises_on, True

    def on_train_epoch_start(self) -> None:
        self.probed = False

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        if self.probed and self.raises_on == self.global_rank:
            raise KeyError("only here")
        output = self.net(batch[0])
        if self.probed and self.nan_on == self.global_rank:
            output = output + torch.sqrt((output - output.detach()) ** 2)
        loss = F.cross_entropy(output.softmax(1) if self.softmax else output, batch[1])
        self.log("loss", loss, sync_dist=True)
        return loss

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), 0.05, momentum=0.9)


def fit(rules: list[Any], batch: int = 16, **options: Any) -> Model:
    torch.manual_seed(3)
    inputs = torch.randn(192, 8, generator=torch.Generator().manual_seed(0))
    module = Model(**options)
    trainer = L.Trainer(
        accelerator="cpu",
        devices=WORLD,
        strategy="ddp" if WORLD > 1 else "auto",
        max_epochs=2,
        limit_train_batches=4,
        callbacks=rules,
        **QUIET,
    )
    torch.manual_seed(5 + RANK)
    trainer.fit(module, DataLoader(TensorDataset(inputs, torch.arange(192) % 4), batch, shuffle=True))
    return module


def scenario(**options: Any) -> dict[str, Any]:
    """What was found; the numbers of a rank's own batch are the same on all ranks, since they judge together."""
    rule = ModelAudit(budget=None)
    fit([rule], **options)
    return {"found": [(finding.rule, str(finding.severity), finding.message) for finding in rule.findings]}


def no_trace() -> dict[str, Any]:
    ours, ours_rng = fit([ModelAudit(budget=None)]).state_dict(), torch.get_rng_state()
    plain, plain_rng = fit([]).state_dict(), torch.get_rng_state()
    weights = all(torch.equal(ours[name], plain[name]) for name in plain)
    return {"same_weights": weights, "same_rng": torch.equal(ours_rng, plain_rng)}


SCENARIOS = {
    "healthy": scenario,
    "softmax": partial(scenario, softmax=True),
    "tiny": partial(scenario, batch=2),
    "nan_on_one_rank": partial(scenario, nan_on=WORLD - 1),
    "raises_on_one_rank": partial(scenario, raises_on=WORLD - 1),
    "no_trace": no_trace,
}
