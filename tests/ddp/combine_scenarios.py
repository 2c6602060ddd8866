"""What ensembles promise under DDP, as small runs; started by test_combine_ddp.py, once a rank."""

from __future__ import annotations

from typing import Any

import distillation_scenarios
import lightning.pytorch as L
import torch
import torch.nn.functional as F
from lightning.pytorch.callbacks import ModelCheckpoint
from scenarios import RANK, WORLD
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from lightning_rules import Ensemble, EnsembleModule


class Net(L.LightningModule):
    def __init__(self, seed: int = 0) -> None:
        super().__init__()
        self.save_hyperparameters()
        torch.manual_seed(seed)
        self.net = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 3))

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x)

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        return F.cross_entropy(self(batch[0]), batch[1])

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self.log("val/loss", F.cross_entropy(self(batch[0]), batch[1]), sync_dist=True)

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), 0.1)


class Data(L.LightningDataModule):
    """53 examples to validate and 41 to test: neither divides by two ranks or by the batch."""

    def __init__(self) -> None:
        super().__init__()
        labels = torch.arange(158) % 3
        x = torch.randn(158, 4, generator=torch.Generator().manual_seed(0)) + F.one_hot(labels, 4)
        self.parts = [
            TensorDataset(*part) for part in zip(x.split([64, 53, 41]), labels.split([64, 53, 41]), strict=True)
        ]

    def train_dataloader(self) -> Any:
        return DataLoader(self.parts[0], batch_size=16 // WORLD)

    def val_dataloader(self) -> Any:
        return DataLoader(self.parts[1], batch_size=8)

    def test_dataloader(self) -> Any:
        return DataLoader(self.parts[2], batch_size=8)


def trainer(*callbacks: Any, **options: Any) -> L.Trainer:
    return L.Trainer(
        accelerator="cpu",
        devices=WORLD,
        strategy="ddp" if WORLD > 1 else "auto",
        logger=False,
        default_root_dir=".",
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=list(callbacks),
        **{"max_epochs": 3, **options},
    )


def numbers(rule: Ensemble) -> Any:
    comparison = rule.comparison
    assert comparison is not None, rule.findings
    rows = {row.name: {split: scores.to_dict() for split, scores in row.scores.items()} for row in comparison.rows}
    return {"rows": rows, "weights": list(comparison.weights), "winner": comparison.winner, "differ": comparison.differ}


MEMBERS = [f"member{seed}.ckpt" for seed in range(3)]


class SaveMembers(L.Callback):
    """Untrained networks, the same for one process and for two ranks, saved by the first rank before others look."""

    def setup(self, trainer: Any, pl_module: Any, stage: str) -> None:
        if RANK == 0:
            for seed, path in enumerate(MEMBERS):
                net = Net(seed)
                kept = {"state_dict": net.state_dict(), "hyper_parameters": dict(net.hparams)}
                torch.save({**kept, "pytorch-lightning_version": L.__version__}, path)
        trainer.strategy.barrier()


def of_a_list() -> Any:
    """Members from files: the same networks in one process and in two, so that all numbers agree."""
    rule = Ensemble(MEMBERS, weighting="fitted", folder="out")
    trainer(SaveMembers(), rule).validate(Net(), datamodule=Data(), verbose=False)
    return numbers(rule)


def of_a_run() -> Any:
    """The best checkpoints of a run under DDP."""
    rule = Ensemble()
    keep = ModelCheckpoint(monitor="val/loss", save_top_k=2)
    trainer(keep, rule).fit(Net(), datamodule=Data())
    return numbers(rule)


def of_snapshots() -> Any:
    """Snapshots under DDP."""
    rule = Ensemble("snapshots", cycles=2)
    trainer(rule, enable_checkpointing=False).fit(Net(), datamodule=Data())
    return numbers(rule)


def as_one_model() -> Any:
    """The module tested like any other, with Lightning's padding sampler."""
    ensemble = EnsembleModule([Net(seed) for seed in range(3)])
    return trainer().test(ensemble, datamodule=Data(), verbose=False)[0]


SCENARIOS = (of_a_list, of_a_run, of_snapshots, as_one_model, *distillation_scenarios.SCENARIOS)
