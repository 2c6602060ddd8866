"""Examples of a data set, read by their indices, and what a loader's collation makes of them."""

from __future__ import annotations

import time
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset

from lightning_rules.batches import leaf_at, leaves, split_batch
from lightning_rules.labels import draws
from lightning_rules.view import View

EXAMPLES = 4096  # of each split, at most
BYTES = 128 * 2**20  # of each split's sample, at most
FIRST = 8  # examples read to see how long one takes
CHUNK = 64  # examples collated at once


def has_items(loader: Any) -> bool:
    """Whether a loader puts batches together from a set's items, each of which can be read by its index."""
    return (
        isinstance(loader, DataLoader)
        and not isinstance(loader.dataset, IterableDataset)
        and loader.batch_sampler is not None
        and hasattr(loader.dataset, "__len__")
        and len(loader.dataset) > 0
    )


def same(one: Any, other: Any) -> bool:
    """Whether two examples hold the same, bit for bit."""
    if isinstance(one, (Tensor, np.ndarray)):
        return type(one) is type(other) and one.shape == other.shape and _bytes(one) == _bytes(other)
    if isinstance(one, dict):
        return isinstance(other, dict) and one.keys() == other.keys() and all(same(one[k], other[k]) for k in one)
    if isinstance(one, (list, tuple)):
        return len(one) == len(other) and all(same(a, b) for a, b in zip(one, other, strict=True))
    parts, others = dict(leaves(one)), dict(leaves(other))
    return all(same(parts[path], others.get(path)) for path in parts) if parts else bool(one == other)


def _bytes(values: Any) -> bytes:
    array = values.detach().cpu().contiguous() if isinstance(values, Tensor) else values
    if isinstance(array, Tensor):
        return array.reshape(-1).view(torch.uint8).numpy().tobytes() if array.numel() else b""
    return bytes(np.ascontiguousarray(array).tobytes())


def stir() -> None:
    """Move the shared random streams, so that what draws from them draws otherwise than before."""
    torch.rand(17)
    np.random.rand(17)


def drawn_by(loader: Any) -> Tensor | None:
    """The examples that a sampler can draw, where these are not all: sorted indices."""
    times = draws(loader)
    return None if times is None or bool((times > 0).all()) else (times > 0).nonzero().flatten()


def collated(loader: Any, examples: list[Any]) -> list[tuple[int, Any]]:
    """Examples put together by the loader's own collation: batches, each with its number of examples."""
    chunks = [examples[start : start + CHUNK] for start in range(0, len(examples), CHUNK)]
    return [(len(chunk), loader.collate_fn(list(chunk))) for chunk in chunks]


def spread(size: int, count: int) -> list[int]:
    """At most ``count`` positions evenly spread over ``size``, sorted."""
    return [int(place) for place in np.unique(np.linspace(0, size - 1, min(count, size)).astype(int))]


def read_items(dataset: Any, among: Tensor, seconds: float) -> tuple[list[int], list[Any]]:
    """Items evenly spread over a set, as many as time and memory allow: their indices, and the items."""
    started = time.monotonic()
    tried = [dataset[int(among[place])] for place in spread(len(among), FIRST)]
    each = (time.monotonic() - started) / len(tried)
    bytes_each = sum(leaf.numel() * leaf.element_size() for item in tried for _, leaf in leaves(item)) / len(tried)
    count = int(max(FIRST, min(EXAMPLES, seconds / max(each, 1e-9), BYTES / max(bytes_each, 1))))
    indices = [int(among[place]) for place in spread(len(among), count)]
    return indices, [dataset[index] for index in indices]


def places(batch: Any, view: View) -> tuple[tuple[Any, ...] | None, tuple[Any, ...] | None]:
    """Paths in a batch: of the main input (the largest part, floats before others), and of the target."""
    inputs, targets = split_batch(batch, view.module)
    entering = [leaf for _, leaf in leaves(inputs) if leaf.dim() > 0]
    floats = [leaf for leaf in entering if leaf.is_floating_point()] or entering
    main = max(floats, key=lambda leaf: leaf.numel(), default=None)
    target = next((leaf for _, leaf in leaves(targets) if leaf.dim() > 0), None)
    return _path_of(batch, main), _path_of(batch, target)


def _path_of(batch: Any, wanted: Tensor | None) -> tuple[Any, ...] | None:
    return next((path for path, leaf in leaves(batch) if leaf is wanted), None) if wanted is not None else None


def column(batches: list[tuple[int, Any]], path: tuple[Any, ...] | None) -> Tensor | None:
    """One part of all batches, an example a row; None where examples and rows do not match."""
    if path is None:
        return None
    parts = [leaf_at(batch, path) for _, batch in batches]
    fits = all(
        isinstance(part, Tensor) and part.dim() > 0 and len(part) == count
        for part, (count, _) in zip(parts, batches, strict=True)
    )
    alike = fits and len({part.shape[1:] for part in parts}) == 1
    return torch.cat([part.detach().cpu() for part in parts]) if alike else None


def row_count(batch: Any, view: View) -> int | None:
    """How many examples a batch holds: the length of its target, else of its main input."""
    main, target = places(batch, view)
    path = target if target is not None else main
    return None if path is None else len(leaf_at(batch, path))
