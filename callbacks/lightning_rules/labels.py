"""The labels of a data set without its inputs, and how often a sampler draws each example."""

from __future__ import annotations

from typing import Any, TypeGuard

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import (
    BatchSampler,
    ConcatDataset,
    RandomSampler,
    SequentialSampler,
    Subset,
    TensorDataset,
)
from torch.utils.data.distributed import DistributedSampler
from torch.utils.data.sampler import SubsetRandomSampler, WeightedRandomSampler

from lightning_rules.batches import TARGETS, leaf_at, leaves
from lightning_rules.loaders import copied_sampler
from lightning_rules.untouched import untouched

WRAPPED = ("dataset", "data_set", "base", "base_dataset", "subset", "ds")
ITEMS_COMPARED = 8
INDICES_DRAWN = 1_000_000


def labels_of(dataset: Any, path: tuple[Any, ...] = (1,)) -> Tensor | None:
    """Labels read from where data sets keep them, without reading one input.

    Knows ``targets``, ``labels``, ``y``, ``samples`` and ``imgs`` (path and label), TensorDataset, columns (Hugging
    Face datasets), Subset, ConcatDataset, and wrappers that hold a data set of the same length. What it returns may
    still be changed by a transform on the way: compare with :func:`agree_with_items`.

    Args:
        dataset: A map-style data set.
        path: Where in an example its label stands; ``(1,)`` for pairs of input and label.

    Returns:
        A tensor with one label, or one row of labels, for each example; None where none were found.
    """
    if isinstance(dataset, Subset):
        labels = labels_of(dataset.dataset, path)
        return None if labels is None else labels[torch.as_tensor(list(dataset.indices), dtype=torch.long)]
    if isinstance(dataset, ConcatDataset):
        parts = [labels_of(part, path) for part in dataset.datasets]
        return None if any(part is None for part in parts) else torch.cat(parts)  # type: ignore[arg-type]
    if isinstance(dataset, TensorDataset):
        return dict(leaves(dataset.tensors)).get(path)
    for candidate in _candidates(dataset):
        labels = _as_tensor(candidate)
        if labels is not None and labels.dim() > 0 and len(labels) == len(dataset):
            return labels
    for inner in (getattr(dataset, name, None) for name in WRAPPED):
        if inner is not None and hasattr(inner, "__len__") and len(inner) == len(dataset):
            return labels_of(inner, path)
    return None


def _candidates(dataset: Any) -> list[Any]:
    named = [getattr(dataset, name, None) for name in TARGETS]
    pairs = [getattr(dataset, name, None) for name in ("samples", "imgs")]
    seconds = [[pair[1] for pair in listed] for listed in pairs if _is_list_of_pairs(listed)]
    columns = getattr(dataset, "column_names", None)
    if isinstance(columns, list):
        seconds += [dataset[name] for name in TARGETS if name in columns]
    return [candidate for candidate in (*named, *seconds) if candidate is not None and not callable(candidate)]


def _is_list_of_pairs(listed: Any) -> TypeGuard[list[tuple[Any, Any]]]:
    return isinstance(listed, list) and bool(listed) and all(isinstance(p, tuple) and len(p) == 2 for p in listed[:10])


def _as_tensor(values: Any) -> Tensor | None:
    try:
        return values if isinstance(values, Tensor) else torch.as_tensor(np.asarray(values))
    except (TypeError, ValueError, RuntimeError):
        return None  # strings, ragged lists


def agree_with_items(labels: Tensor, dataset: Any, path: tuple[Any, ...]) -> bool:
    """Whether labels read apart are those that come with the examples, seen on a few of them.

    Args:
        labels: From :func:`labels_of`.
        dataset: The data set that they belong to.
        path: Where in an example its label stands.
    """
    indices = np.unique(np.linspace(0, len(labels) - 1, ITEMS_COMPARED).astype(int)).tolist()
    with untouched(None, dataset):
        for index in indices:
            try:
                item = torch.as_tensor(np.asarray(leaf_at(dataset[index], path)))
            except Exception:
                return False
            label = labels[index]
            if item.numel() != label.numel() or not torch.allclose(
                item.flatten().double(), label.flatten().double(), rtol=1e-6, equal_nan=True
            ):
                return False
    return True


def draws(loader: Any) -> Tensor | None:
    """How often one pass of a loader draws each example, in proportion.

    Args:
        loader: A DataLoader over a map-style data set.

    Returns:
        One weight an example, float64; None where all are drawn alike. A sampler of unknown kind is run for one pass
        of indices (no example is read), at most a million.
    """
    batch_sampler = loader.batch_sampler
    plain = batch_sampler is None or type(batch_sampler) is BatchSampler
    sampler = _undistributed(loader.sampler if batch_sampler is None or not plain else batch_sampler.sampler)
    total = len(loader.dataset)
    if plain and isinstance(sampler, WeightedRandomSampler):
        return torch.as_tensor(sampler.weights, dtype=torch.float64)
    if plain and isinstance(sampler, (RandomSampler, SequentialSampler, DistributedSampler)):
        return None
    if plain and isinstance(sampler, SubsetRandomSampler):
        return torch.bincount(torch.as_tensor(list(sampler.indices)), minlength=total).double()
    drawn: list[int] = []
    with untouched(None, sampler, batch_sampler):
        for indices in copied_sampler(sampler if plain else batch_sampler, loader.dataset):
            drawn += [indices] if isinstance(indices, int) else [int(index) for index in indices]
            if len(drawn) >= INDICES_DRAWN:
                break
    return torch.bincount(torch.as_tensor(drawn, dtype=torch.long), minlength=total).double()


def _undistributed(sampler: Any) -> Any:
    """The user's sampler inside the wrapper that Lightning puts around it under DDP."""
    if type(sampler).__name__ == "DistributedSamplerWrapper":
        return getattr(sampler.dataset, "_sampler", sampler)
    return sampler
