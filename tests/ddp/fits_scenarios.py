"""What fits of a procedure promise under DDP, as small runs; started by test_fits_ddp.py, once a rank."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning.pytorch as L
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from scenarios import RANK, WORLD
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from lightning_recipe.runs.fit_record import FitRecord
from lightning_recipe.runs.held_out import use_held_out
from lightning_recipe.runs.held_out_predictions import HeldOutPredictions
from lightning_recipe.runs.subset import use_subset


class Reader(L.LightningModule):
    """Keeps the numbers of the examples that it is trained, validated and tested on."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(1, 2)
        self.seen: dict[str, set[int]] = {"train": set(), "val": set(), "test": set()}

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x)

    def _loss(self, split: str, batch: Any) -> Tensor:
        self.seen[split].update(batch[0][:, 0].long().tolist())
        return nn.functional.cross_entropy(self(batch[0] / 128), batch[1])

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        return self._loss("train", batch)

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self.log("val/loss", self._loss("val", batch), sync_dist=True)

    def test_step(self, batch: Any, batch_idx: int) -> None:
        self.log("test/loss", self._loss("test", batch), sync_dist=True)

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), 0.1)


class Foreign(L.LightningDataModule):
    """128 numbered examples that can be cut into folds, and nothing else."""

    def __init__(self) -> None:
        super().__init__()
        self.parts = list(range(96)), list(range(96, 128))

    def setup_fold(self, k: int, n: int, seed: int) -> None:
        held_out = list(range(k, 128, n))
        self.parts = sorted(set(range(128)) - set(held_out)), held_out

    def _loader(self, part: list[int], shuffle: bool) -> DataLoader[Any]:
        numbers = torch.tensor(part)
        return DataLoader(TensorDataset(numbers[:, None].float(), numbers % 2), 16 // WORLD, shuffle=shuffle)

    def train_dataloader(self) -> DataLoader[Any]:
        return self._loader(self.parts[0], True)

    def val_dataloader(self) -> DataLoader[Any]:
        return self._loader(self.parts[1], False)


def trainer_with(*callbacks: L.Callback, epochs: int = 1) -> L.Trainer:
    quiet = dict.fromkeys(("logger", "enable_progress_bar", "enable_model_summary"), False)
    strategy = "ddp" if WORLD > 1 else "auto"
    return L.Trainer(
        accelerator="cpu", devices=WORLD, strategy=strategy, max_epochs=epochs, callbacks=list(callbacks), **quiet
    )


def shared(reader: Reader) -> dict[str, list[int]]:
    """What all ranks have seen together."""
    shares: list[Any] = [reader.seen] * WORLD
    if WORLD > 1:
        torch.distributed.all_gather_object(shares, reader.seen)
    return {split: sorted(set().union(*(share[split] for share in shares))) for split in reader.seen}


class Ask(L.Callback):
    """The file that asks a fit to end is there, for rank 0 alone, from the second epoch on."""

    def __init__(self, record: FitRecord) -> None:
        self.record = record

    def on_train_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if trainer.current_epoch == 1 and RANK == 0:
            self.record.entry.path.with_suffix(".stop").touch()


def stopped() -> Any:
    path = Path.cwd() / f"of-rank-{RANK}.json"  # others could not see the file
    record = FitRecord(str(path), stoppable=True)
    trainer = trainer_with(record, Ask(record), ModelCheckpoint("kept", monitor="val/loss"), epochs=5)
    trainer.fit(Reader(), datamodule=Foreign())
    told = json.loads(path.read_text()) if path.exists() else None
    lock = path.with_suffix(".lock").exists()
    return {"epochs": trainer.current_epoch, "status": told and told["status"], "lock": lock, "is_main": RANK == 0}


def held_out() -> Any:
    reader, data = Reader(), Foreign()
    use_held_out("2/4@5", data)
    trainer = trainer_with(HeldOutPredictions("held_out"))
    trainer.fit(reader, datamodule=data)
    in_fit = shared(reader)
    trainer.test(reader, datamodule=data, verbose=False)
    table = Path("held_out.csv")
    told = [line.split(",")[:2] for line in table.read_text().splitlines()[1:]] if RANK == 0 else []
    return {"seen": {**in_fit, "test": shared(reader)["test"]}, "told": told}


def subset() -> Any:
    reader, data = Reader(), Foreign()
    use_subset("32@3", data, reader)
    trainer_with().fit(reader, datamodule=data)
    return shared(reader)


SCENARIOS: list[Callable[[], Any]] = [stopped, held_out, subset]
