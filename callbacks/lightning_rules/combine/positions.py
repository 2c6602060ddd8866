"""Which examples a rank has got, so that each of them counts once."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.utils.data.distributed import DistributedSampler


def positions(loader: Any, batch_idx: int, size: int, world_size: int) -> Tensor | None:
    """Where the examples of a batch stand in the order of the whole evaluation, over all ranks.

    Args:
        loader: This rank's loader.
        batch_idx: The batch's number on this rank.
        size: How many examples the batch has.
        world_size: Number of ranks.

    Returns:
        int64 [N]; -1 for examples that a distributed sampler repeats so that all ranks have as many. None where it
        cannot be known: several ranks, and the loader has no distributed sampler.
    """
    sampler, full = getattr(loader, "sampler", None), getattr(loader, "batch_size", None)
    if isinstance(sampler, DistributedSampler) and isinstance(full, int):
        order = torch.arange(batch_idx * full, batch_idx * full + size) * sampler.num_replicas + sampler.rank
        return torch.where(order < len(sampler.dataset), order, -1)  # type: ignore[arg-type]
    if world_size > 1:
        return None
    return torch.arange(size) + batch_idx * (full if isinstance(full, int) else size)
