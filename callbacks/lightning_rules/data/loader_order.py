"""Which examples a loader gives, and in which order, told by its samplers alone: no example is read."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import islice
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset

from lightning_rules.batches import fields_of
from lightning_rules.loaders import copied_sampler
from lightning_rules.untouched import untouched

INDICES = 1_000_000  # that are drawn of one pass, at most


def has_indices(loader: Any) -> bool:
    """Whether a loader reads a set by indices that a sampler draws."""
    return isinstance(loader, DataLoader) and not isinstance(loader.dataset, IterableDataset)


def index_batches(loader: Any, most: int = INDICES, epoch: int | None = None) -> list[list[Any]]:
    """The indices of the batches of one pass, in order, as a copy of the loader's sampler draws them.

    Args:
        loader: A DataLoader over a set with indices.
        most: End the pass after so many indices.
        epoch: Told to the samplers that Lightning tells it, as it does when an epoch begins; None for none.

    Returns:
        One list a batch; a sampler that makes no batches gives lists of one, or of what it gave at once.
    """
    name = "sampler" if loader.batch_sampler is None else "batch_sampler"
    with untouched(None, loader):
        again = copied_sampler(getattr(loader, name), loader.dataset)
        if epoch is not None:
            torch.rand(epoch + 1)  # what draws from the shared stream draws otherwise in another epoch
            _tell(again.sampler if hasattr(again, "sampler") else again, epoch, loader)
        size = max(1, loader.batch_size or 1)
        drawn = islice(again, max(1, most // size))
        return [list(indices) if isinstance(indices, (list, tuple, Tensor)) else [indices] for indices in drawn]


def _tell(sampler: Any, epoch: int, loader: Any) -> None:
    """Tell a copied sampler the epoch, where Lightning would tell the original."""
    told = (loader.sampler, getattr(loader.batch_sampler, "sampler", None))
    if callable(getattr(sampler, "set_epoch", None)) and any(type(sampler) is type(one) for one in told):
        sampler.set_epoch(epoch)


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Random streams that begin at a seed; put back when the block ends."""
    with untouched():
        random.seed(seed)
        np.random.seed(seed)
        torch.manual_seed(seed)
        yield


def digest(example: Any) -> str:
    """The same for the same contents: tensors, arrays, numbers, strings, pictures, and what holds these."""
    found = hashlib.sha1(usedforsecurity=False)
    _add(example, found)
    return found.hexdigest()


def _add(value: Any, found: Any) -> None:
    if isinstance(value, Tensor):
        value = value.detach().cpu()
        value = value.float().numpy() if value.dtype is torch.bfloat16 else value.numpy()
    fields = None if isinstance(value, np.ndarray) else fields_of(value)
    if fields is not None:
        value = list(fields.items())
    if isinstance(value, (list, tuple)):
        found.update(b"(")
        for part in value:
            _add(part, found)
    elif isinstance(value, (str, bytes)):
        found.update(value.encode() if isinstance(value, str) else value)
    elif value is not None:
        array = np.asarray(value)
        found.update(array.tobytes() if array.dtype != object else type(value).__name__.encode())
