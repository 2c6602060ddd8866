"""Which examples a rank has got, so that each of them counts once."""

from __future__ import annotations

from typing import Any

from torch import Tensor
from torch.utils.data.distributed import DistributedSampler


def is_divided(loader: Any) -> bool:
    """Whether a distributed sampler gives this rank its share."""
    return _distributed(loader) is not None


def positions(loader: Any, rows: Tensor) -> Tensor:
    """Where examples stand in the order of the whole evaluation, over all ranks.

    Args:
        loader: This rank's loader.
        rows: Their numbers in the order in which this rank gets them, int64 [N].

    Returns:
        int64 [N]; -1 for examples that a distributed sampler repeats so that all ranks have as many. Without such a
        sampler the numbers themselves.
    """
    sampler = _distributed(loader)
    if sampler is None:
        return rows
    places = rows * sampler.num_replicas + sampler.rank
    return places.where(places < len(sampler.dataset), -1)  # type: ignore[arg-type]


def _distributed(loader: Any) -> DistributedSampler[Any] | None:
    samplers = (getattr(loader, "sampler", None), getattr(getattr(loader, "batch_sampler", None), "sampler", None))
    return next((one for one in samplers if isinstance(one, DistributedSampler)), None)
