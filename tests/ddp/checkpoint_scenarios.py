"""What git-tag-checkpoint promises under DDP, as small runs; started by test_checkpoint_ddp.py, or alone."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning.pytorch as L
import torch
import torch.nn.functional as F
from scenarios import RANK, WORLD
from torch import Tensor, nn
from torch.utils.data import DataLoader, DistributedSampler, TensorDataset

from lightning_rules import GitTagCheckpoint

IDENTITY = {f"GIT_{who}_{what}": "a@localhost" for who in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")}


class Model(L.LightningModule):
    """Its score is that of rank 0's epoch, alike on all ranks."""

    def __init__(self, *scores: float, fails_on_rank: int | None = None) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.net, self.scores, self.fails_on_rank = nn.Linear(4, 2), scores, fails_on_rank

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        return F.mse_loss(self.net(batch[0]), batch[1])

    def on_train_epoch_end(self) -> None:
        self.log("score", self.scores[self.current_epoch], sync_dist=True)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        if self.fails_on_rank == RANK:
            raise KeyError("only here")

    def configure_optimizers(self) -> Any:
        return torch.optim.AdamW(self.parameters(), 0.01)


class Removes(L.Callback):
    """Rank 0 loses the folder of the checkpoints in the second epoch."""

    def on_train_epoch_start(self, trainer: Any, pl_module: Any) -> None:
        if trainer.current_epoch == 1 and RANK == 0:
            shutil.rmtree("kept")


def fit(model: Any, *callbacks: Any, epochs: int = 3, ckpt_path: Any = None, **options: Any) -> Any:
    generator = torch.Generator().manual_seed(0)
    data = TensorDataset(torch.randn(16, 4, generator=generator), torch.randn(16, 2, generator=generator))
    options = {"dirpath": "kept", "filename": "{step}", "monitor": "score", "mode": "max", "save_last": True} | options
    keep = GitTagCheckpoint(**options)
    trainer = L.Trainer(
        accelerator="cpu",
        devices=WORLD,
        strategy="ddp" if WORLD > 1 else "auto",
        max_epochs=epochs,
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        use_distributed_sampler=False,  # Lightning's shuffles
        callbacks=[keep, *callbacks],
    )
    sampler = DistributedSampler(data, WORLD, RANK, shuffle=False)
    trainer.fit(model, DataLoader(data, 8 // WORLD, sampler=sampler), ckpt_path=ckpt_path)
    return told(keep)


def told(keep: Any) -> dict[str, Any]:
    last = torch.load("kept/last.ckpt", weights_only=True)
    return {
        "id": keep.run_record["id"],
        "best": [os.path.basename(path) for path in (keep.best_model_path, *keep.best_k_models)],
        "score": float(keep.best_model_score),
        "said": [finding.message for finding in keep.findings],
        "files": sorted(os.listdir("kept")),
        "state": sorted(last),
        "moments": sorted(last["optimizer_states"][0]["state"][0]),
        "weight": last["state_dict"]["net.weight"].flatten().tolist(),
        "step": json.loads(Path("kept/last.ckpt.json").read_text())["step"],
    }


def kept() -> Any:
    return fit(Model(1, 3, 2), save_top_k=2)


def tagged() -> Any:
    def git(*arguments: str) -> str:
        return subprocess.run(["git", *arguments], check=True, capture_output=True, text=True).stdout

    os.environ.update(IDENTITY)
    if RANK == 0:
        git("init", "-q")
        git("commit", "-q", "--allow-empty", "-m", "first")
    result = fit(Model(1, 3, 2))
    return {**result, "tags": [tag.rpartition("/")[2] for tag in git("tag").split()]}


def raised(run: Callable[[], Any]) -> Any:
    try:
        run()
    except Exception as error:
        return [type(error).__name__, str(error)]
    finally:
        if torch.distributed.is_initialized():  # all ranks are here: none hangs, none is ahead
            torch.distributed.barrier()
    return None


def rank_0_loses_the_folder() -> Any:
    return raised(lambda: fit(Model(1, 2, 3), Removes()))


def the_last_rank_cannot_dump() -> Any:
    return raised(lambda: fit(Model(1, 2, 3, fails_on_rank=WORLD - 1)))


def code_is_not_clean() -> Any:
    return raised(lambda: fit(Model(1, 2, 3), require_clean=True))


def resumed() -> Any:
    before = fit(Model(1, 3, 2), save_top_k=2)
    if RANK == 0:
        os.unlink("kept/step=4.ckpt")
    if WORLD > 1:
        torch.distributed.barrier()
    after = fit(Model(1, 3, 2, 0, 4), save_top_k=2, epochs=5, ckpt_path="last")
    return {**after, "same": before["id"] == after["id"]}


SCENARIOS: list[Callable[[], Any]] = [
    kept, tagged, rank_0_loses_the_folder, the_last_rank_cannot_dump, code_is_not_clean, resumed,
]  # fmt: skip
