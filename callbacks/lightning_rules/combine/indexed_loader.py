"""Which examples of the data set a training batch holds, for batches that look as they always did."""

from __future__ import annotations

import copy
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from functools import cache, partial
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, IterableDataset

from lightning_rules.stand_ins import stand_in

RECENT = 8  # batches remembered; a loop reads one or two ahead


class Indices:
    """Remembers the batches that loaders gave last, with the numbers of their examples.

    A batch is known by its identity, not by its place in a queue: whoever skips batches, reads ahead, resumes in the
    middle of an epoch or stops early gets the numbers of the very batch that is trained on.
    """

    def __init__(self) -> None:
        self._recent: deque[tuple[Any, Tensor]] = deque(maxlen=RECENT)
        self.current: Tensor | None = None

    def remember(self, batch: Any, indices: Tensor) -> None:
        """Keep the numbers of a batch that is given out."""
        self._recent.append((batch, indices))

    def look(self, batch: Any) -> None:
        """Let ``current`` be the numbers of this batch [N], None where it is unknown."""
        self.current = next((indices for known, indices in self._recent if known is batch), None)

    def forget(self) -> None:
        """Let all batches go."""
        self._recent.clear()
        self.current = None


class IndexedData(Dataset[Any]):
    """A data set that gives each example with its number; in all else it is the one it wraps."""

    def __init__(self, dataset: Any) -> None:
        self.dataset = dataset

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: Any) -> tuple[Any, Any]:
        return index, self.dataset[index]

    def __getitems__(self, indices: Sequence[Any]) -> list[tuple[Any, Any]]:
        return list(zip(indices, items_of(self.dataset, indices), strict=True))

    def __getattr__(self, name: str) -> Any:
        if name == "dataset" or (name.startswith("__") and name.endswith("__")):  # while it is unpickled
            raise AttributeError(name)
        return getattr(self.dataset, name)


def items_of(dataset: Any, indices: Sequence[Any]) -> list[Any]:
    """Examples, read as a DataLoader reads them."""
    several = getattr(dataset, "__getitems__", None)
    return list(several(list(indices)) if several else [dataset[index] for index in indices])


class Collate:
    """Collates examples that have numbers: a tensor of numbers, and the batch."""

    def __init__(self, collate: Callable[[list[Any]], Any]) -> None:
        self.collate = collate

    def __call__(self, pairs: Sequence[tuple[Any, Any]]) -> tuple[Tensor, Any]:
        """The numbers [N], and the batch as it always was."""
        return torch.tensor([int(index) for index, _ in pairs]), self.collate([item for _, item in pairs])


def why_not_indexed(loader: Any) -> str | None:
    """Why the examples of a loader's batches have no numbers; None where they have."""
    if not isinstance(loader, DataLoader):
        return f"the run has {type(loader).__name__} for training, and not one DataLoader"
    if isinstance(loader.dataset, IterableDataset):
        return "an iterable data set does not number its examples"
    return "the data set makes the batches itself" if loader.batch_sampler is None else None


def indexed(loader: DataLoader[Any], indices: Indices) -> DataLoader[Any]:
    """A copy of a loader that gives the same batches in the same order, and tells ``indices`` what is in each."""
    again = copy.copy(loader)
    # DataLoader forbids setting these through attributes once it is built.
    again.__dict__.update(dataset=IndexedData(loader.dataset), _iterator=None, _told=indices)
    again.collate_fn = Collate(loader.collate_fn)
    kind: Any = type(loader)
    again.__class__ = _telling(kind)
    return again


@cache
def _telling(kind: Any) -> type:
    """A loader's class, whose iterators leave the numbers of each batch behind on the way out."""

    def _get_iterator(loader: Any) -> Any:
        iterator = kind._get_iterator(loader)
        iterator._told = loader._told
        known: Any = type(iterator)
        iterator.__class__ = _telling_iterator(known)
        return iterator

    return type(kind.__name__, (kind,), {**_names(kind), "_get_iterator": _get_iterator})


@cache
def _telling_iterator(kind: Any) -> type:
    """The class of a loader's iterator. A wrapper would hide its workers from those who end them."""

    def _next_data(iterator: Any) -> Any:
        indices, batch = kind._next_data(iterator)
        iterator._told.remember(batch, indices)
        return batch

    return type(kind.__name__, (kind,), {**_names(kind), "_next_data": _next_data})


def _names(kind: type) -> dict[str, Any]:
    return {"__module__": kind.__module__, "__qualname__": kind.__qualname__, "__doc__": kind.__doc__}


def index_as_they_come(trainer: Any, indices: Indices, undo: ExitStack) -> None:
    """Index each training loader on its way into the run, until ``undo`` is closed."""

    def index_and_process(process: Callable[[Any], Any], loader: Any) -> Any:
        fits = trainer.training and why_not_indexed(loader) is None
        # first, for rules that follow a loader through the run follow the object that comes out last
        return process(indexed(loader, indices) if fits else loader)

    def look_and_convert(convert: Callable[[Any], Any], batch: Any) -> Any:
        indices.look(batch)
        return convert(batch)

    stand_in(trainer.strategy, "process_dataloader", lambda process: partial(index_and_process, process), undo)
    stand_in(trainer.precision_plugin, "convert_input", lambda convert: partial(look_and_convert, convert), undo)
    undo.callback(indices.forget)


def inner_dataset(loader: DataLoader[Any]) -> tuple[Any, Callable[[list[Any]], Any]]:
    """The data set and the collate function of an indexed loader, without the numbers."""
    dataset, collate = loader.dataset, loader.collate_fn
    assert isinstance(dataset, IndexedData)
    assert isinstance(collate, Collate)
    return dataset.dataset, collate.collate
