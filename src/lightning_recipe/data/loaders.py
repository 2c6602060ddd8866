"""Data loaders with seeded workers, pinned memory beside a GPU, and exact evaluation under DDP."""

import os
from collections.abc import Sized
from typing import Any

import lightning as L
import torch
from lightning.fabric.utilities.seed import pl_worker_init_function
from lightning.pytorch.overrides.distributed import UnrepeatedDistributedSampler
from torch.utils.data import DataLoader, Dataset
from torch.utils.data.distributed import DistributedSampler


def training_loader(
    dataset: Dataset[Any], trainer: L.Trainer | None, *, batch_size: int, num_workers: int
) -> DataLoader[Any]:
    """Return a shuffled loader; Lightning gives each rank its share.

    The order follows from the run's seed and the epoch alone. It is the one that Lightning draws for several
    ranks, so that one process and several see the same examples in each step at the same global batch.

    The last batch is left out if it is not full (it would weigh its examples more than the others, and
    batch norm fails on a single one), unless it is the only one.

    Args:
        dataset: The training examples.
        trainer: The trainer, if there is one yet.
        batch_size: Examples a batch and rank.
        num_workers: Worker processes of each rank; 0 loads in the main process.
    """
    ranks = trainer.world_size if trainer is not None else 1
    share = _length(dataset) // ranks
    order: DistributedSampler[Any] | None = None
    if trainer is not None and ranks == 1:  # the Trainer tells it the epoch
        order = DistributedSampler(dataset, num_replicas=1, rank=0, seed=int(os.environ.get("PL_GLOBAL_SEED", 0)))
    return DataLoader(
        dataset,
        batch_size=batch_size,
        sampler=order,
        shuffle=order is None,
        drop_last=share >= batch_size,
        **_settings(num_workers),
    )


def evaluation_loader(
    dataset: Dataset[Any], trainer: L.Trainer | None, *, batch_size: int, num_workers: int
) -> DataLoader[Any]:
    """Return a loader of every example once, in order.

    Under DDP Lightning's own sampler repeats examples until every rank has the same number, which shifts
    the metrics. This one does not, so one process and several measure the same.

    Args:
        dataset: The examples, at least one for each rank.
        trainer: The trainer, if there is one yet.
        batch_size: Examples a batch and rank.
        num_workers: Worker processes of each rank; 0 loads in the main process.
    """
    sampler = None
    if trainer is not None and trainer.world_size > 1:
        sampler = UnrepeatedDistributedSampler(
            dataset, num_replicas=trainer.world_size, rank=trainer.global_rank, shuffle=False
        )
    return DataLoader(dataset, batch_size=batch_size, sampler=sampler, **_settings(num_workers))


def _settings(num_workers: int) -> dict[str, Any]:
    return {
        "num_workers": num_workers,
        # Seeds torch, numpy and random in each worker of each rank, from the run's seed.
        "worker_init_fn": pl_worker_init_function,
        "persistent_workers": num_workers > 0,
        "pin_memory": torch.cuda.is_available(),
    }


def _length(dataset: Dataset[Any]) -> int:
    assert isinstance(dataset, Sized)
    return len(dataset)
