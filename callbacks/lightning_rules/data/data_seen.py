"""What the parts of a data audit look at: a bounded sample of each split, read once and without a trace."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset

from lightning_rules.batches import leaf_at, leaves, split_batch
from lightning_rules.labels import agree_with_items, draws, labels_of
from lightning_rules.rule import NotApplicable
from lightning_rules.untouched import untouched
from lightning_rules.view import View

EXAMPLES = 4096  # of each split, at most
BYTES = 256 * 2**20  # of each split's sample, at most
SECONDS = 2.0  # for reading each split, about
FIRST = 8  # examples read to see how long one takes
CHUNK = 64  # examples collated at once


@dataclass(eq=False)
class SplitSample:
    """A bounded sample of one split, evenly spread over it.

    Attributes:
        name: ``"training"`` or ``"validation"``.
        loader: The split's loader; the first one where there are several.
        dataset: Its data set; None for a loader that has none.
        size: Examples of the set that the loader can draw; None for a stream.
        indices: Where in the set the examples of the sample stand, ``[n]``; empty for a stream.
        examples: What the set's ``__getitem__`` gave for them; for a stream, its batches taken apart, ``(input,
            target)``.
        inputs: The main input of each example, ``[n, ...]``, float32, after collation; None where shapes differ, or
            where it is no tensor.
        targets: The target of each example, ``[n, ...]``, as collated; None where there is none.
        discrete: Whether the main input holds whole numbers by type (token ids, bytes).
        target_path: Where in a batch the target stands; None where there is none.
        drawn: Which of the set's examples the loader's sampler can draw, indices; None for all of them.
    """

    name: str
    loader: Any
    dataset: Any
    size: int | None
    indices: list[int]
    examples: list[Any]
    inputs: Tensor | None
    targets: Tensor | None
    discrete: bool
    target_path: tuple[Any, ...] | None
    drawn: Tensor | None = None

    @property
    def whole(self) -> bool:
        """Whether the sample is all of the split."""
        return self.size is not None and len(self.examples) >= self.size

    @property
    def says(self) -> str:
        """How much was looked at: ``"1,437 of 1,437 examples"``."""
        of = "a stream's first" if self.size is None else f"{len(self.examples):,} of"
        return f"{of} {len(self.examples) if self.size is None else self.size:,} examples"

    @cached_property
    def labels(self) -> Tensor | None:
        """The targets of the whole split where they can be read without the inputs, else those of the sample."""
        if self.size is None or self.target_path is None or self.dataset is None:
            return self.targets
        labels = labels_of(self.dataset, self.target_path)
        if labels is None or not agree_with_items(labels, self.dataset, self.target_path):
            return self.targets
        labels = labels.detach().cpu()
        return labels if self.drawn is None else labels[self.drawn]

    @cached_property
    def repeats(self) -> bool:
        """Whether reading an example again gives the same: no random augmentation in the set."""
        if self.size is None:
            return False
        with untouched(None, self.dataset):
            _stir()
            again = [self.dataset[index] for index in self.indices[:FIRST]]
        return all(same(one, other) for one, other in zip(self.examples, again, strict=False))


class DataSeen:
    """Both splits of a run, each read when it is first asked for.

    Memory: at most 256 MiB a split.

    Args:
        view: The run.
        seconds: How long the reading of each split may take, about.
    """

    def __init__(self, view: View, seconds: float = SECONDS) -> None:
        self.view = view
        self.seconds = seconds
        self._refusals: dict[str, NotApplicable] = {}

    @cached_property
    def train(self) -> SplitSample:
        """The training split.

        Raises:
            NotApplicable: There is no training loader, or its data can be read only once.
        """
        return self._once("training", lambda: self._read("training", _first_loader(self.view.trainer.train_dataloader)))

    @cached_property
    def validation(self) -> SplitSample | None:
        """The (first) validation split, or None where the run has none, or it cannot be read beside the run."""
        loaders = self.view.validation_loaders
        try:
            return self._once("validation", lambda: self._read("validation", loaders[0])) if loaders else None
        except NotApplicable:
            return None

    def _once(self, name: str, read: Callable[[], SplitSample]) -> SplitSample:
        """Refuse for the same reason when asked again, without trying again."""
        if name in self._refusals:
            raise self._refusals[name]
        try:
            return read()
        except NotApplicable as refusal:
            self._refusals[name] = refusal
            raise

    def _read(self, name: str, loader: Any) -> SplitSample:
        if loader is None:
            raise NotApplicable(f"the run has no {name} loader.")
        return self._items(name, loader) if has_items(loader) else self._stream(name, loader)

    def _items(self, name: str, loader: Any) -> SplitSample:
        """Examples of a set that can be indexed, and what the loader's collation makes of them."""
        dataset, size = loader.dataset, len(loader.dataset)
        drawn = _drawn(loader)
        with untouched(None, loader):
            indices, examples = _spread(dataset, torch.arange(size) if drawn is None else drawn, self.seconds)
            batches = collated(loader, examples)
        size = size if drawn is None else len(drawn)
        inputs, targets, discrete, path = self._columns(batches)
        return SplitSample(name, loader, dataset, size, indices, examples, inputs, targets, discrete, path, drawn)

    def _stream(self, name: str, loader: Any) -> SplitSample:
        """The first examples of what can only be read in order, taken out of its batches."""
        read = self.view.batches if name == "training" else self.view.validation_batches
        first: list[Any] = read(1)
        rows = max(1, _rows(first[0], self.view) or 1)
        several: list[Any] = read(max(1, EXAMPLES // (4 * rows)))
        batches = [(_rows(batch, self.view) or 0, batch) for batch in several]
        inputs, targets, discrete, path = self._columns(batches)
        rows_of = [part for part in (inputs, targets) if part is not None]
        examples = list(zip(*rows_of, strict=True)) if rows_of else []
        dataset = getattr(loader, "dataset", None)
        return SplitSample(name, loader, dataset, None, [], examples, inputs, targets, discrete, path)

    def _columns(self, batches: list[tuple[int, Any]]) -> tuple[Tensor | None, Tensor | None, bool, Any]:
        """Main input and target of all examples, from batches and their numbers of examples."""
        where = _places(batches[0][1], self.view)
        inputs = _column(batches, where[0])
        targets = _column(batches, where[1])
        discrete = inputs is not None and not inputs.is_floating_point()
        return None if inputs is None else inputs.float(), targets, discrete, where[1]


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


def _stir() -> None:
    """Move the shared random streams, so that what draws from them draws otherwise than before."""
    torch.rand(17)
    np.random.rand(17)


def _first_loader(loaders: Any) -> Any:
    loaders = getattr(loaders, "iterables", loaders)  # a CombinedLoader
    several = isinstance(loaders, (list, tuple, dict)) and bool(loaders)
    values = list(loaders.values() if isinstance(loaders, dict) else loaders) if several else []
    return values[0] if values and all(isinstance(value, DataLoader) for value in values) else loaders


def _drawn(loader: Any) -> Tensor | None:
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


def _spread(dataset: Any, among: Tensor, seconds: float) -> tuple[list[int], list[Any]]:
    """Items evenly spread over a set, as many as time and memory allow: their indices, and the items."""
    started = time.monotonic()
    tried = [dataset[int(among[place])] for place in spread(len(among), FIRST)]
    each = (time.monotonic() - started) / len(tried)
    bytes_each = sum(leaf.numel() * leaf.element_size() for item in tried for _, leaf in leaves(item)) / len(tried)
    count = int(max(FIRST, min(EXAMPLES, seconds / max(each, 1e-9), BYTES / max(bytes_each, 1))))
    indices = [int(among[place]) for place in spread(len(among), count)]
    return indices, [dataset[index] for index in indices]


def _places(batch: Any, view: View) -> tuple[tuple[Any, ...] | None, tuple[Any, ...] | None]:
    """Paths in a batch: of the main input (the largest part, floats before others), and of the target."""
    inputs, targets = split_batch(batch, view.module)
    entering = [leaf for _, leaf in leaves(inputs) if leaf.dim() > 0]
    floats = [leaf for leaf in entering if leaf.is_floating_point()] or entering
    main = max(floats, key=lambda leaf: leaf.numel(), default=None)
    target = next((leaf for _, leaf in leaves(targets) if leaf.dim() > 0), None)
    return _path_of(batch, main), _path_of(batch, target)


def _path_of(batch: Any, wanted: Tensor | None) -> tuple[Any, ...] | None:
    return next((path for path, leaf in leaves(batch) if leaf is wanted), None) if wanted is not None else None


def _column(batches: list[tuple[int, Any]], path: tuple[Any, ...] | None) -> Tensor | None:
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


def _rows(batch: Any, view: View) -> int | None:
    """How many examples a batch holds: the length of its target, else of its main input."""
    main, target = _places(batch, view)
    path = target if target is not None else main
    return None if path is None else len(leaf_at(batch, path))


__all__ = ["DataSeen", "SplitSample", "has_items", "same"]
