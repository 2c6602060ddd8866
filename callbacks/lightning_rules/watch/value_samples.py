"""Small samples of large tensors, and what they say; nothing here waits for the device."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

VALUES = 1 << 15  # of a tensor looked at
BINS = 64


def is_dense_float(value: Any) -> bool:
    """Whether a value can be measured here: dense, of floating point, not empty, none of torch's wrappers."""
    return (
        type(value) is Tensor
        and value.layout is torch.strided
        and value.is_floating_point()
        and value.numel() > 0
        and value.dim() > 0
        and not value.is_meta
        and not torch._C._functorch.is_functorch_wrapped_tensor(value)
    )


def thinned(value: Tensor, most: int, turn: int, keep: int = 0) -> Tensor:
    """About so many values at most, spread evenly over the first dimensions; a view.

    Args:
        value: Of any shape.
        most: How many values.
        turn: Which of the values each stride begins with.
        keep: How many of the last dimensions stay whole.
    """
    for dim in reversed(range(value.dim() - keep)):
        excess = value.numel() // most
        if excess < 2:
            break
        step = min(value.shape[dim], max(2, round(excess ** (1 / max(dim, 1)))))
        value = value[(slice(None),) * dim + (slice(turn % step, None, step),)]
    return value


def by_unit(value: Tensor, unit_dim: int, turn: int) -> Tensor:
    """A sample of the values, ``[units, values]``."""
    dim = unit_dim if -value.dim() <= unit_dim < value.dim() else -1
    moved = value.movedim(dim, -1)
    return thinned(moved, VALUES, turn, keep=1).movedim(-1, 0).flatten(1)


def value_range(value: Tensor, unit_dim: int, turn: int) -> Tensor:
    """How far values of one unit lie apart over the examples; that of the unit where it is largest."""
    few = by_unit(value, unit_dim, turn) if value.dim() > 1 and unit_dim != -1 else value.reshape(1, -1)[:, :VALUES]
    return (few.amax(1) - few.amin(1)).amax().float()


def counted(values: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """How many values lie in each of the bins between the least and the largest; nothing waits for the device."""
    values = values.flatten().float()
    low, high = values.amin(), values.amax()
    places = ((values - low) / (high - low) * BINS).long().clamp_(0, BINS - 1)
    return torch.zeros_like(low).expand(BINS).clone().scatter_add_(0, places, torch.ones_like(values)), low, high
