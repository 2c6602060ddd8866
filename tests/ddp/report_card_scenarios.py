"""A run on two ranks with a report; started by test_report_card_ddp.py."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import lightning.pytorch as L
import torch
from lightning.pytorch.loggers import CSVLogger
from scenarios import RANK, WORLD
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from lightning_rules import DataAudit, GradientHealth, ReportCard, WorstErrors
from lightning_rules.finding import Finding, Severity
from lightning_rules.monitor import Monitor
from lightning_rules.report import report_card

WORLDS = (2,)


class Model(L.LightningModule):
    """A perceptron that logs what a report takes."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(3)
        self.net = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 3))

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        return nn.functional.cross_entropy(self.net(batch[0]), batch[1])

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        right = (self.net(batch[0]).argmax(1) == batch[1]).float().mean()
        self.log("val/accuracy", right, sync_dist=True)

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), 0.1)


class SeesRankOne(Monitor):
    """Says what only rank 1 has measured."""

    name, source, kind = "sees-rank-one", "a test (2026)", "check"

    def readings(self) -> None:
        """Nothing is on the device."""

    def take(self, readings: Any) -> int:
        return RANK

    def judge(self, ranks: Any) -> list[Finding]:
        return [Finding(self.name, Severity.WARNING, f"Ranks {list(ranks)} were heard.", "Do nothing.")]


def fit(*rules: Any) -> dict[str, Any]:
    labels = torch.arange(600) % 3
    inputs = torch.randn(600, 8, generator=torch.Generator().manual_seed(1)) + labels[:, None]
    trainer = L.Trainer(
        accelerator="cpu",
        devices=WORLD,
        strategy="ddp",
        max_epochs=3,
        logger=CSVLogger("logs", name="run", version=0),
        callbacks=[*rules],
        **dict.fromkeys(("enable_checkpointing", "enable_progress_bar", "enable_model_summary"), False),
    )
    torch.manual_seed(5)
    module = Model()
    sets = TensorDataset(inputs[:450], labels[:450]), TensorDataset(inputs[450:], labels[450:])
    trainer.fit(module, DataLoader(sets[0], 15, shuffle=True), DataLoader(sets[1], 25))
    trainer.strategy.barrier()
    report = Path(trainer.log_dir) / "rules/report.json"
    return {
        "weights": [value.double().sum().item() for value in module.parameters()],
        "files": sorted(str(path) for path in Path("logs").rglob("report.*")),
        "report": report.read_text() if report.is_file() else "",
        "said": [[str(one.severity), one.rule, one.message] for rule in rules for one in rule.findings],
    }


def with_report() -> dict[str, Any]:
    report_card.EVERY = 0.0  # a page at each look
    return fit(DataAudit(), GradientHealth(), WorstErrors(), SeesRankOne(), ReportCard())


def without() -> dict[str, Any]:
    return fit()


SCENARIOS = (with_report, without)
