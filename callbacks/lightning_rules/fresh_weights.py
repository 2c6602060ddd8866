"""Whether a layer still holds the weights that torch drew when it was made, and random numbers that ranks agree on."""

from __future__ import annotations

import math
import zlib
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

SPREAD = (0.85, 1.15)  # of the standard deviation of a uniform distribution, for 1,000 weights or more


def is_as_drawn(tensors: Iterable[Tensor], bound: float) -> bool:
    """Whether values look like torch's uniform draws from (-bound, bound).

    Training moves the values near the bound across it: after one step of a usual size a layer of some hundred weights
    no longer passes. Values drawn by another scheme, or read from a checkpoint, do not pass either.

    Args:
        tensors: The parameters of one layer that torch draws alike.
        bound: For a linear or convolutional layer 1/√(fan in), for a recurrent one 1/√(hidden size).
    """
    parts = [tensor.detach() for tensor in tensors]
    values = torch.cat([part.flatten().float() for part in parts])
    slack = max(torch.finfo(part.dtype).eps for part in parts)
    if values.numel() == 0 or float(values.abs().max()) > bound * (1 + slack):
        return False
    low, high = SPREAD
    widen = max(1.0, math.sqrt(1000 / values.numel()))
    spread: float = float(values.square().mean().sqrt()) / (bound / 3**0.5)
    return max(0.3, 1 - (1 - low) * widen) <= spread <= 1 + (high - 1) * widen


def seed_of(tensor: Tensor) -> int:
    """A number that the values of a tensor determine.

    Weights that torch drew are random already: a generator seeded by them follows the user's seed, differs from layer
    to layer, and leaves the global generators where they were.
    """
    return zlib.crc32(tensor.detach().float().cpu().contiguous().numpy().tobytes())


def is_plain(layer: nn.Module, names: Iterable[str]) -> bool:
    """Whether these are the layer's own trainable parameters, neither frozen nor computed from others."""
    own: dict[str, Any] = layer._parameters
    return all(own.get(name) is not None and own[name].requires_grad for name in names)


def named_layers(module: nn.Module, names: Iterable[str] | None, kinds: tuple[type[nn.Module], ...]) -> dict[str, Any]:
    """The layers of some kinds, by name; all of them, or those that the user named.

    Raises:
        ValueError: A name is not a layer of these kinds.
    """
    found = {name: layer for name, layer in module.named_modules() if isinstance(layer, kinds)}
    if names is None:
        return found
    for name in names:
        if name not in found:
            known = ", ".join(repr(known) for known in list(found)[:8]) or "none"
            wanted = ", ".join(kind.__name__ for kind in kinds)
            raise ValueError(f"There is no layer {name!r} of the kinds {wanted} in this module; it has {known}.")
    return {name: found[name] for name in names}
