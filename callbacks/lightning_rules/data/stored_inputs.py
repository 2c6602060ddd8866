"""The inputs of a whole data set where they lie in memory, or the names of the files they lie in."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import ConcatDataset, Subset, TensorDataset

from lightning_rules.batches import INPUTS
from lightning_rules.labels import WRAPPED

NAMES = (*INPUTS, "X", "tensor", "array")
BYTES = 512 * 2**20  # hashing these takes about half a second

Stored = Tensor | np.ndarray[Any, Any] | list[str]


def stored_inputs(dataset: Any) -> Stored | None:
    """What lies underneath each example of a data set, before any transform, without reading one.

    Knows TensorDataset (its first tensor), attributes of the usual names (``data``, ``x``, ``images``, ...), lists of
    files (``samples``, ``imgs``: path and label), Subset, ConcatDataset, and wrappers that hold a data set of the same
    length.

    Returns:
        A tensor or an array with one row an example, or a list of paths; None where none was found, or where it
        takes more than 512 MiB.
    """
    if isinstance(dataset, Subset):
        inner = stored_inputs(dataset.dataset)
        return None if inner is None else rows(inner, torch.as_tensor(list(dataset.indices), dtype=torch.long))
    if isinstance(dataset, ConcatDataset):
        return _joined([stored_inputs(part) for part in dataset.datasets])
    if isinstance(dataset, TensorDataset):
        return _bounded(dataset.tensors[0])
    size = len(dataset)
    for name in NAMES:
        found = _bounded(getattr(dataset, name, None))
        if found is not None and len(found) == size:
            return found
    for name in ("samples", "imgs"):
        listed = getattr(dataset, name, None)
        if isinstance(listed, list) and len(listed) == size and all(_is_file(entry) for entry in listed):
            return [str(entry[0]) for entry in listed]
    for inner in (getattr(dataset, name, None) for name in WRAPPED):
        if inner is not None and hasattr(inner, "__len__") and len(inner) == size:
            return stored_inputs(inner)
    return None


def rows(stored: Stored, indices: Tensor) -> Stored:
    """These rows of it."""
    if isinstance(stored, list):
        return [stored[int(index)] for index in indices]
    return stored[indices] if isinstance(stored, Tensor) else stored[indices.numpy()]


def hashes(stored: Stored) -> list[int]:
    """One hash a row: equal where rows are equal, bit for bit."""
    if isinstance(stored, list):
        return [hash(entry) for entry in stored]
    array = stored.detach().cpu().contiguous() if isinstance(stored, Tensor) else np.ascontiguousarray(stored)
    if isinstance(array, Tensor):
        if array.numel() == 0:
            return [0] * len(array)
        array = array.reshape(len(array), -1).view(torch.uint8).numpy()
    return [hash(row.tobytes()) for row in array]


def positions(dataset: Any) -> tuple[int, Tensor]:
    """Which object a (nested) Subset was taken from, by identity, and where in it each example stands."""
    where = torch.arange(len(dataset))
    while isinstance(dataset, Subset):
        where = torch.as_tensor(list(dataset.indices), dtype=torch.long)[where]
        dataset = dataset.dataset
    return id(dataset), where


def _bounded(values: Any) -> Stored | None:
    if isinstance(values, Tensor):
        fits = values.dim() > 0 and values.layout is torch.strided and values.nbytes <= BYTES
        return values if fits and len(values) else None
    if isinstance(values, np.ndarray):
        return values if values.ndim > 0 and values.dtype != object and 0 < values.nbytes <= BYTES else None
    return None


def _joined(parts: list[Stored | None]) -> Stored | None:
    if any(part is None for part in parts):
        return None
    if all(isinstance(part, list) for part in parts):
        return [entry for part in parts for entry in part]  # type: ignore[union-attr]
    if all(isinstance(part, (Tensor, np.ndarray)) for part in parts):
        tensors = [torch.as_tensor(part) for part in parts]
        return torch.cat(tensors) if len({tensor.shape[1:] for tensor in tensors}) == 1 else None
    return None


def _is_file(entry: Any) -> bool:
    return isinstance(entry, (tuple, list)) and len(entry) == 2 and isinstance(entry[0], str)
