"""With which mean and standard deviation images were normalised, where the data says so, and the way back."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from lightning_rules.untouched import reachable

INSIDE = 0.02  # beyond 0 and 1 that rounding and interpolation may lead
BYTE = 255.0


def normalisation_of(*owners: Any) -> tuple[list[float], list[float]] | None:
    """Mean and std a channel: of a ``normalisation``, or of a transform called Normalize that these objects hold."""
    found = [owner for owner in reachable(*owners) if type(owner).__name__ in ("Normalize", "Normalization")]
    named = [getattr(owner, "normalisation", None) or getattr(owner, "normalization", None) for owner in owners]
    for one in (*named, *found):
        mean, std = _numbers(getattr(one, "mean", None)), _numbers(getattr(one, "std", None))
        if mean and len(mean) == len(std) and all(value > 0 for value in std):
            return mean, std
    return None


def _numbers(value: Any) -> list[float]:
    if isinstance(value, (int, float)):
        return [float(value)]
    if isinstance(value, Tensor):
        return [float(one) for one in value.flatten()]
    if isinstance(value, Sequence) and all(isinstance(one, (int, float)) for one in value):
        return [float(one) for one in value]
    return []


def for_the_eye(images: Tensor, normalisation: tuple[list[float], list[float]] | None) -> tuple[Tensor, str]:
    """Images with values from 0 to 1, and what was done, in words.

    Args:
        images: On the host, [N, channels, height, width].
        normalisation: Mean and std a channel; None where they are not known.
    """
    values = images.float().nan_to_num()
    said = ""
    if normalisation is not None and len(normalisation[0]) in (1, images.shape[1]):
        mean, std = (torch.tensor(part).reshape(1, -1, 1, 1) for part in normalisation)
        back = values * std + mean
        if float(back.min()) > -INSIDE and float(back.max()) < 1 + INSIDE:
            numbers = [", ".join(f"{value:.3g}" for value in part) for part in normalisation]
            return back.clamp(0, 1), f"de-normalised with mean {numbers[0]} and std {numbers[1]}"
        said = f", since the data's mean and std lead to values from {float(back.min()):.3g} to {float(back.max()):.3g}"
    low, high = float(values.min()), float(values.max())
    if low >= 0 and 1 < high <= BYTE and not images.is_floating_point():
        return values / BYTE, "bytes as they are"
    if low > -INSIDE and high < 1 + INSIDE and high > 0.5:
        return values.clamp(0, 1), "as they are"
    return (values - low) / max(high - low, 1e-12), f"stretched from {low:.3g} ... {high:.3g} to 0 ... 1{said}"
