"""Evenly strided samples of tensors, as views: nothing is copied, whatever the memory format."""

from __future__ import annotations

import math
from functools import cache
from typing import Any

import torch
from torch import Tensor


def strided(tensor: Tensor, most: int) -> Tensor | None:
    """At most so many elements of a tensor, evenly spread over its memory.

    The stride shares no divisor with the number of elements, so that it does not run down the columns of a matrix.

    Args:
        tensor: Contiguous in some order of its dimensions (``channels_last``, a transposed matrix).
        most: Above 0.

    Returns:
        A detached view, ``[up to most]``; None where the memory has gaps, is not the tensor's own, or is none at all.
    """
    if not is_plain(tensor):
        return None
    tensor = tensor.detach()
    if not tensor.is_contiguous():
        order = sorted(range(tensor.dim()), key=tensor.stride, reverse=True)
        tensor = tensor.permute(order)
        if not tensor.is_contiguous():
            return None
    return tensor.view(-1)[:: stride_of(tensor.numel(), most)]


@cache
def stride_of(count: int, most: int) -> int:
    """The smallest stride that takes at most so many of ``count`` elements and shares no divisor with ``count``."""
    stride = max(1, math.ceil(count / most))
    while stride > 1 and math.gcd(stride, count) > 1:
        stride += 1
    return stride


def is_plain(tensor: Any) -> bool:
    """Whether a tensor has numbers of its own in memory: no shard, no lazy parameter, none without elements."""
    return (
        type(tensor) in (Tensor, torch.nn.Parameter, torch.nn.Buffer)
        and tensor.layout == torch.strided
        and tensor.device.type != "meta"
        and tensor.numel() > 0
    )
