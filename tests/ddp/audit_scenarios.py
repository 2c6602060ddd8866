"""What data-audit promises under DDP; started by test_audit_ddp.py, once a rank, or in one process."""

from __future__ import annotations

from typing import Any

import lightning.pytorch as L
import torch
import torch.nn.functional as F
from scenarios import RANK, WORLD
from torch import Tensor, nn
from torch.utils.data import DataLoader, IterableDataset, TensorDataset

from lightning_rules import DataAudit


def split(count: int, seed: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(count) % 4
    return torch.randn(count, 16, generator=generator) + labels[:, None], labels


class Model(L.LightningModule):
    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Linear(16, 8), nn.BatchNorm1d(8), nn.Linear(8, 4))

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        return F.cross_entropy(self.net(batch[0]), batch[1])

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self.log("loss", F.cross_entropy(self.net(batch[0]), batch[1]), sync_dist=True)

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), 0.05)


class Shard(IterableDataset):
    """Each rank streams classes of its own: none is missing, taken together."""

    def __init__(self, pair: tuple[Tensor, Tensor]) -> None:
        self.pair = pair

    def __iter__(self) -> Any:
        mine = self.pair[1] % WORLD == RANK
        return iter(zip(self.pair[0][mine], self.pair[1][mine], strict=True))


def fit(rules: list[Any], train: Any, held: Any) -> Any:
    L.seed_everything(3, verbose=False)
    trainer = L.Trainer(
        accelerator="cpu", devices=WORLD, strategy="ddp" if WORLD > 1 else "auto", max_epochs=1, logger=False,
        limit_train_batches=4, num_sanity_val_steps=0, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False, callbacks=rules,
    )  # fmt: skip
    shuffle = not isinstance(train, IterableDataset)
    trainer.fit(Model(), DataLoader(train, 32 // WORLD, shuffle=shuffle), DataLoader(held, 32 // WORLD))
    return trainer


def audited(train: Any, held: Any) -> Any:
    rule = DataAudit(budget=None)
    fit([rule], train, held)
    return {"said": [[str(finding.severity), finding.rule, finding.message] for finding in rule.findings]}


def healthy_sets() -> Any:
    return audited(TensorDataset(*split(400, 0)), TensorDataset(*split(100, 1)))


def leaking_sets() -> Any:
    (inputs, labels), held = split(400, 0), split(100, 1)
    train = TensorDataset(torch.cat([inputs, held[0]]), torch.cat([labels, held[1]]))
    return audited(train, TensorDataset(*held))


def sharded_streams() -> Any:
    return audited(Shard(split(400, 0)), Shard(split(100, 1)))


def weights(trainer: Any) -> list[Any]:
    return [value.flatten().tolist() for value in trainer.lightning_module.state_dict().values()]


def trace() -> Any:
    sets = TensorDataset(*split(400, 0)), TensorDataset(*split(100, 1))
    return {"with": weights(fit([DataAudit(budget=None)], *sets)), "without": weights(fit([], *sets))}


SCENARIOS = (healthy_sets, leaking_sets, sharded_streams, trace)
