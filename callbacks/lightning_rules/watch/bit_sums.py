"""Sums over the raw bits of tensors, on their device: equal for equal tensors, and for next to no others."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from lightning_rules.watch.strided import is_plain, strided

SAMPLED = 4096  # elements whose place counts too
WORDS = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}  # by bytes an element


def bits_of(tensor: Tensor) -> Tensor | None:
    """The tensor's memory as integers, a view of the same shape; None where it has none of its own."""
    if not is_plain(tensor):
        return None
    tensor = torch.view_as_real(tensor.detach()) if tensor.is_complex() else tensor.detach()
    return tensor.view(WORDS[tensor.dtype.itemsize])


def place_weights(count: int, device: torch.device) -> Tensor:
    """Odd integers that no short pattern repeats, ``[count]``."""
    return torch.arange(1, count + 1, device=device).mul_(0x9E3779B97F4A7C1).bitwise_or_(1)


def bit_sum(tensor: Tensor, weights: Tensor) -> Tensor | None:
    """A number for the content of a tensor: a sample of its bits, each times a number for its place.

    Args:
        tensor: Of any type.
        weights: From :func:`place_weights`, at least 4,096, on the tensor's device.

    Returns:
        An integer on the device, modulo 2^64; None where the tensor has no memory of its own.
    """
    bits = bits_of(tensor)
    sample = None if bits is None else strided(bits, SAMPLED)
    if bits is not None and sample is None:
        sample = bits.reshape(-1)[:SAMPLED]  # a slice of something larger
    return None if sample is None else (sample * weights[: len(sample)]).sum()


def content_of(tensors: Sequence[Tensor], weights: Tensor) -> Tensor:
    """Two numbers for each tensor, ``[tensors, 2]``: of all its bits, wherever they are, and of a sample in its place.

    Reads each tensor once. The types of :func:`bit_sum`; all on one device.
    """
    rows = []
    for tensor in tensors:
        bits, placed = bits_of(tensor), bit_sum(tensor, weights)
        if bits is None or placed is None:
            raise ValueError("a parameter has no memory of its own any more.")
        rows += [bits.sum(), placed]
    return torch.stack(rows).view(-1, 2)
