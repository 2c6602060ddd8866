"""How two ranks share the examples, as small runs; started by test_loader_ddp.py, once a rank."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, ClassVar

import lightning.pytorch as L
import torch
import torch.nn.functional as F
from scenarios import RANK, WORLD
from torch import Tensor, nn
from torch.utils.data import (
    BatchSampler,
    DataLoader,
    DistributedSampler,
    IterableDataset,
    RandomSampler,
    Sampler,
    TensorDataset,
)

from lightning_rules import LabelSuspects
from lightning_rules.audit import Audit, aspects_of
from lightning_rules.data import distributed_sampling, repeated_batches, same_draws, shuffle, validation_passes
from lightning_rules.data.data_seen import DataSeen
from lightning_rules.deadline import Deadline
from lightning_rules.view import View

WORLDS = (2,)


class LoaderAudit(Audit):
    """The parts under test, alone."""

    name, source, kind = "loader-audit", "a test (2026)", "check"
    modules = (shuffle, repeated_batches, validation_passes, same_draws, distributed_sampling)
    parts: ClassVar[Any] = tuple(module.PART for module in modules)
    aspects = aspects_of(parts)

    def read(self, view: View, deadline: Deadline) -> DataSeen:
        return DataSeen(view)


class Model(L.LightningModule):
    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Linear(8, 4)

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        return F.cross_entropy(self.net(batch[0]), batch[1])

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self.training_step(batch, batch_idx)

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), 0.05)


def data(count: int = 300, shuffled: bool = False) -> TensorDataset:
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(count) * 7 % 4
    inputs = torch.randn(count, 8, generator=generator) + 3 * F.one_hot(labels, 8)
    order = torch.randperm(count, generator=generator) if shuffled else torch.arange(count)
    return TensorDataset(inputs, labels[order])


class Stream(IterableDataset):
    """The same on each rank, or each rank's share."""

    def __init__(self, shared_out: bool) -> None:
        self.shared_out = shared_out

    def __iter__(self) -> Iterator[Any]:
        rows = data()
        places = range(RANK, len(rows), WORLD) if self.shared_out else range(len(rows))
        return (rows[place] for place in places)


class Hides(Sampler[Any]):
    """Hands indices on, and the epoch not."""

    def __init__(self, sampler: Any) -> None:
        self.hidden = sampler

    def __iter__(self) -> Any:
        return iter(self.hidden)

    def __len__(self) -> int:
        return len(self.hidden)


def said(loader: Any, rules: list[Any] | None = None, validation: int = 41, **options: Any) -> Any:
    L.seed_everything(3, verbose=False)
    rules = rules or [LoaderAudit(budget=None)]
    quiet = dict.fromkeys(("logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary"), False)
    options = {"max_steps": 1, "num_sanity_val_steps": 0, **quiet, **options}
    trainer = L.Trainer(accelerator="cpu", devices=WORLD, strategy="ddp", callbacks=rules, **options)
    trainer.fit(Model(), loader, DataLoader(data(validation), 16))
    return [[str(found.severity), found.rule, found.message] for rule in rules for found in rule.findings]


def shared_out() -> Any:
    return said(DataLoader(data(), 16, shuffle=True))


def sampler_off() -> Any:
    generator = torch.Generator().manual_seed(RANK)
    sampler = RandomSampler(data(), generator=generator)
    return said(DataLoader(data(), 16, sampler=sampler), use_distributed_sampler=False)


def sampler_off_in_step() -> Any:
    return said(DataLoader(data(), 16, shuffle=False), use_distributed_sampler=False)


def hidden_sampler() -> Any:
    sampler = Hides(DistributedSampler(data(), WORLD, RANK))
    batches = BatchSampler(sampler, 16, False)
    return said(DataLoader(data(), batch_sampler=batches), use_distributed_sampler=False)


def same_stream() -> Any:
    return said(DataLoader(Stream(False), 16))


def shared_stream() -> Any:
    return said(DataLoader(Stream(True), 16))


def shuffled_labels() -> Any:
    return said(DataLoader(data(shuffled=True), 16, shuffle=True), [LabelSuspects(budget=None)], validation=200)


SCENARIOS = (
    shared_out, sampler_off, sampler_off_in_step, hidden_sampler, same_stream, shared_stream,
    shuffled_labels,
)  # fmt: skip
