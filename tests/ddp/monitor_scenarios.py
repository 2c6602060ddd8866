"""What the base of monitors promises under DDP; started by test_monitor_ddp.py."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import lightning.pytorch as L
import torch
from lightning.pytorch.demos.boring_classes import BoringModel, RandomDataset
from scenarios import RANK, WORLD
from torch.utils.data import DataLoader

from lightning_rules.finding import Finding, Severity
from lightning_rules.monitor import Monitor, Sample

WORLDS = (2,)


class Slow(Monitor):
    """Takes its time on rank 1 alone, and remembers which batches it sampled."""

    name, source, kind = "slow", "a test (2026)", "check"

    def _forget(self) -> None:
        super()._forget()
        self.sampled: list[int] = []

    def before(self, sample: Sample) -> None:
        time.sleep(0.002 * RANK)
        self.sampled.append(sample.batch_number)

    def readings(self) -> list[int]:
        return self.sampled

    def take(self, readings: list[int]) -> list[int]:
        return list(readings)

    def judge(self, ranks: Sequence[list[int]]) -> list[Finding]:
        same = all(rank == ranks[0] for rank in ranks)
        return [Finding(self.name, Severity.OK, f"{len(ranks)} ranks, the same samples: {same}.")]


class FailsOnRank1(Slow):
    """Cannot measure on rank 1."""

    name = "fails-on-rank-1"

    def before(self, sample: Sample) -> None:
        if RANK == 1 and sample.batch_number > 0:
            raise KeyError("nothing there")
        super().before(sample)


def fit(*rules: Monitor) -> dict[str, Any]:
    trainer = L.Trainer(
        accelerator="cpu",
        devices=WORLD,
        strategy="ddp",
        max_epochs=1,
        limit_val_batches=0,
        callbacks=[*rules],
        **dict.fromkeys(("logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary"), False),
    )
    torch.manual_seed(5)
    module = BoringModel()
    trainer.fit(module, DataLoader(RandomDataset(32, 3000), batch_size=1))
    return {
        "sampled": [getattr(rule, "sampled", []) for rule in rules],
        "said": [[str(f.severity), f.rule, f.message] for rule in rules for f in rule.findings],
        "weights": [value.double().sum().item() for value in module.parameters()],
    }


def watched() -> dict[str, Any]:
    return fit(Slow(), FailsOnRank1())


def without() -> dict[str, Any]:
    return fit()


SCENARIOS = (watched, without)
