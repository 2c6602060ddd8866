"""Reports on validation under DDP, as small runs; started by test_answers_ddp.py, once a rank, or alone."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

import lightning.pytorch as L
import torch
import torch.nn.functional as F
from scenarios import WORLD
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from lightning_rules import InputGallery, PredictionDynamics, SelectivePrediction, WorstErrors

EXAMPLES = 64


class Fixed(L.LightningModule):
    """Its answers follow from the inputs, and training changes nothing."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.head = nn.Linear(6, 3)

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        return F.cross_entropy(self.head(batch[0]), batch[1])

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self.head(batch[0])

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), 0.0)


class Compared(Fixed):
    """As above, and the loss is computed in validation too."""

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self.log("loss", self.training_step(batch, batch_idx), sync_dist=True)


def fit(module: Any, epochs: int) -> dict[str, Any]:
    generator = torch.Generator().manual_seed(1)
    data = TensorDataset(torch.randn(EXAMPLES, 6, generator=generator), torch.arange(EXAMPLES) % 3)
    rules = [WorstErrors(), SelectivePrediction(accuracy=0.6), PredictionDynamics(), InputGallery()]
    trainer = L.Trainer(
        accelerator="cpu",
        devices=WORLD,
        strategy="ddp" if WORLD > 1 else "auto",
        max_epochs=epochs,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=rules,
    )
    loader = DataLoader(data, 16 // WORLD)
    trainer.fit(module, loader, loader)
    errors = rules[0].errors  # type: ignore[attr-defined]
    return {
        "found": {rule.name: [one.message for one in rule.findings] for rule in rules},
        "evidence": {rule.name: dict(rule.findings[0].evidence) for rule in rules if rule.findings},
        "errors": None if errors is None else asdict(errors),
        "drawn": sorted(path.name for path in Path("rules").glob("*.png")),
    }


def one_epoch() -> dict[str, Any]:
    return fit(Compared(), 1)


def four_epochs() -> dict[str, Any]:
    return fit(Fixed(), 4)


SCENARIOS = (one_epoch, four_epochs)
