"""A run of two ranks, saved in a hook with gradients in flight, and resumed by others."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import lightning as L
import torch
import torch.nn.functional as F
from lightning.pytorch.callbacks import Checkpoint
from scenarios import RANK, WORLD
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from lightning_rules import ExactResume, GradientClipping, SeedEverything


class Augmented(Dataset[Any]):
    def __len__(self) -> int:
        return 48

    def __getitem__(self, index: int) -> Tensor:
        return torch.full((4,), float(index)) / 48 + random.gauss(0, 0.1) + 0.1 * torch.randn(4)


class Module(L.LightningModule):
    """Batch norm whose statistics differ between ranks, and a schedule that looks at what they give."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Dropout(0.3), nn.Linear(8, 1))
        self.seen: list[float] = []

    def training_step(self, batch: Tensor, batch_idx: int) -> Tensor:
        self.seen.append(float(batch.sum()))
        return F.mse_loss(self.net(batch), batch.sum(1, keepdim=True))

    def validation_step(self, batch: Tensor, batch_idx: int) -> None:
        self.log("val_loss", F.mse_loss(self.net(batch), batch.sum(1, keepdim=True)), sync_dist=True)

    def configure_optimizers(self) -> Any:
        optimizer = torch.optim.AdamW(self.parameters(), lr=0.01)
        scheduler = torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer, patience=0, factor=0.7)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "monitor": "val_loss"}}

    def train_dataloader(self) -> DataLoader[Any]:
        return DataLoader(Augmented(), batch_size=2, shuffle=True)

    def val_dataloader(self) -> DataLoader[Any]:
        return DataLoader(Augmented(), batch_size=8)


class SaveAfter(Checkpoint):
    def __init__(self, batches: int, path: Path) -> None:
        self.batches, self.path = batches, path

    def on_train_batch_end(self, trainer: L.Trainer, *_: Any) -> None:
        if trainer.fit_loop.total_batch_idx + 1 == self.batches:
            trainer.save_checkpoint(self.path)


def fit(callbacks: list[Any], ckpt_path: Path | None = None, seed: int = 1) -> L.Trainer:
    L.seed_everything(seed, verbose=False)
    trainer = L.Trainer(
        accelerator="cpu",
        strategy="ddp" if WORLD > 1 else "auto",
        devices=WORLD,
        max_epochs=3,
        accumulate_grad_batches=3,
        val_check_interval=4,
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=callbacks,
    )
    trainer.fit(Module(), ckpt_path=ckpt_path, weights_only=True if ckpt_path else None)
    return trainer


def left_by(trainer: L.Trainer) -> list[float]:
    weights = [value.double().sum().item() for value in trainer.lightning_module.state_dict().values()]
    rate = trainer.optimizers[0].param_groups[0]["lr"]
    return [*weights, rate, float(trainer.callback_metrics["val_loss"]), torch.rand(1).item()]


def in_flight(rules: Any = lambda: [ExactResume()]) -> dict[str, Any]:
    path = Path("saved.ckpt").absolute()
    per_epoch = 48 // 2 // WORLD
    whole = fit([*rules(), SaveAfter(per_epoch + 7, path)])
    left = left_by(whole)
    rest = fit([*rules(), SaveAfter(-1, path)], path, seed=2)
    state = torch.load(path, weights_only=True)["exact_resume"]
    seen = whole.lightning_module.seen, rest.lightning_module.seen
    return {
        "same": left == left_by(rest),
        "same_batches": seen[0][per_epoch + 7 :] == seen[1],
        "left": len(seen[1]),
        "gradients": [sum(float(g.abs().sum()) for g in rank["gradients"].values()) for rank in state["ranks"]],
        "buffers": [len(rank["buffers"]) for rank in state["ranks"]],
        "finding": [f.message for rule in rest.callbacks for f in getattr(rule, "findings", [])],
    }


def beside_other_rules() -> dict[str, Any]:
    return in_flight(lambda: [SeedEverything(4), GradientClipping(max_norm=0.5), ExactResume()])


def other_ranks() -> dict[str, Any]:
    """Saved by as many ranks as there are, resumed by what claims to be another number."""
    path = Path("saved.ckpt").absolute()
    fit([ExactResume(), SaveAfter(5, path)])
    other = Path(f"other-{RANK}.ckpt").absolute()
    checkpoint = torch.load(path, weights_only=True)
    checkpoint["exact_resume"]["world_size"] = 7
    torch.save(checkpoint, other)
    rest = fit([ExactResume()], other)
    return {"finding": [str(f.severity) + f.message for rule in rest.callbacks for f in getattr(rule, "findings", [])]}


SCENARIOS = (in_flight, beside_other_rules, other_ranks)
