"""Reading batches beside a run, without moving the run's own loader."""

from __future__ import annotations

import copy
import itertools
from collections.abc import Callable, Generator, Iterator, Mapping
from itertools import islice
from typing import Any, TypeVar

import numpy as np
from lightning.pytorch.utilities.combined_loader import CombinedLoader
from torch import Tensor
from torch.utils._pytree import tree_leaves, tree_map_only
from torch.utils.data import DataLoader, IterableDataset

from lightning_rules.rule import NotApplicable
from lightning_rules.untouched import untouched

T = TypeVar("T")


def peek(loaders: Any, count: int, pick: Callable[[Any], T] = lambda batch: batch) -> list[T]:
    """What ``pick`` takes from the first batches that one more pass over the training data would give.

    Reads in this process, whatever ``num_workers`` says, from copies of the samplers; the loader's own iterators and
    workers, and all random number generators, stay as they are. An iterable data set is copied before it is read.

    Args:
        loaders: What ``trainer.train_dataloader`` holds: a DataLoader, another iterable, or a list, tuple, dict or
            CombinedLoader of these.
        count: How many batches at most.
        pick: What to keep of each batch, so that memory holds one batch at a time; by default all of it.

    Returns:
        One item a batch, in order; batches are on the host, as the loader gives them.

    Raises:
        NotApplicable: There is no batch, or the data can be read only once.
    """
    with untouched(None, loaders):
        picked = [pick(batch) for batch in islice(_batches(loaders), count)]
    if not picked:
        raise NotApplicable("the training loader gave no batch.")
    return picked


def are_several(loaders: Any) -> bool:
    """Whether these are loaders in a container, whose batches a step is given together, and not one loader.

    Args:
        loaders: One loader, a list, tuple or dict of loaders, or a CombinedLoader of these. A plain list that holds
            batches is one loader.
    """
    inside = getattr(loaders, "iterables", loaders)
    if not isinstance(inside, (list, tuple, Mapping)) or not inside:
        return False
    return all(hasattr(loader, "dataset") for loader in (inside.values() if isinstance(inside, Mapping) else inside))


def first_of(loaders: Any) -> Any:
    """The first loader in these; None where there is none. As :func:`are_several`."""
    return next(iter(each_loader(loaders)), None)


def each_loader(loaders: Any) -> list[Any]:
    """The loaders in these, in order; none where there are none. As :func:`are_several`."""
    inside = getattr(loaders, "iterables", loaders)
    if not are_several(loaders):
        return [] if inside is None else [inside]
    return list(inside.values()) if isinstance(inside, Mapping) else list(inside)


def endless(loaders: Any) -> Generator[Any, None, None]:
    """Training batches without end, pass after pass, read beside the run's own loader by as many workers.

    For use inside :func:`untouched`, which puts random number generators back. An iterable data set that can be read
    only once ends the stream.

    Args:
        loaders: As for :func:`peek`.

    Raises:
        NotApplicable: The data can be read only once.
    """
    again = _again(loaders, workers=True)
    for number in itertools.count():
        _set_epoch(again, number)
        empty = True
        for batch in _without_place(again):
            empty = False
            yield batch
        if empty:
            return


def _set_epoch(loaders: Any, number: int) -> None:
    """Tell the samplers of the copies which pass begins, as the Trainer does: DistributedSampler shuffles by it."""
    for loader in tree_leaves(getattr(loaders, "iterables", loaders)):
        batch_sampler = getattr(loader, "batch_sampler", None)
        for sampler in (getattr(loader, "sampler", None), batch_sampler, getattr(batch_sampler, "sampler", None)):
            set_epoch = getattr(sampler, "set_epoch", None)
            if callable(set_epoch):
                set_epoch(number)


def _batches(loaders: Any) -> Iterator[Any]:
    return _without_place(_again(loaders))


def _without_place(again: Any) -> Iterator[Any]:
    """Batches alone; a CombinedLoader gives each with its index and its loader's."""
    combined = type(again).__name__ == "CombinedLoader"
    return (batch for batch, _, _ in again) if combined else iter(again)


def _again(loaders: Any, workers: bool = False) -> Any:
    """Copies of loaders, combined as the originals are."""
    if type(loaders).__name__ == "CombinedLoader":  # of either namespace
        return type(loaders)(_each(loaders.iterables, workers), loaders._mode)
    if isinstance(loaders, (dict, list, tuple)) and _holds_loaders(loaders):
        return CombinedLoader(_each(loaders, workers), "max_size_cycle")
    return copy_of(loaders, workers)


def _each(loaders: Any, workers: bool) -> Any:
    if isinstance(loaders, dict):
        return {name: copy_of(loader, workers) for name, loader in loaders.items()}
    if isinstance(loaders, (list, tuple)):
        return [copy_of(loader, workers) for loader in loaders]
    return copy_of(loaders, workers)


def _holds_loaders(loaders: Any) -> bool:
    """Several loaders, and not a plain list of batches."""
    values = loaders.values() if isinstance(loaders, dict) else loaders
    return len(loaders) > 0 and all(isinstance(value, DataLoader) for value in values)


def copy_of(loader: Any, workers: bool = False) -> Any:
    """A loader over the same data that shares no position with the original.

    Args:
        loader: A DataLoader or another iterable.
        workers: Whether the copy reads in as many worker processes as the original, which live as long as it does;
            else it reads in this process.

    Raises:
        NotApplicable: The loader or its iterable data set cannot be copied, so that reading it would use it up.
    """
    if isinstance(loader, (list, tuple)):
        return loader
    if not isinstance(loader, DataLoader):
        return _copied(loader, "the training loader")
    again = copy.copy(loader)
    alone = {
        "num_workers": 0,
        "prefetch_factor": None,
        "persistent_workers": False,
        "timeout": 0,
        "pin_memory": False,
    }
    # DataLoader forbids setting these through attributes once it is built.
    if workers and loader.num_workers > 0:
        again.__dict__.update(_iterator=None, persistent_workers=True)
    else:
        again.__dict__.update(alone, _iterator=None, _DataLoader__multiprocessing_context=None)
    if isinstance(loader.dataset, IterableDataset):
        again.__dict__["dataset"] = _copied(loader.dataset, "the iterable data set")
        return again
    for name in ("sampler", "batch_sampler"):
        again.__dict__[name] = copied_sampler(getattr(loader, name), loader.dataset)
    return again


def copied_sampler(sampler: Any, dataset: Any) -> Any:
    """A copy of a sampler that can be iterated in the original's place; the data set in it is shared, not copied."""
    try:
        return copy.deepcopy(sampler, {id(dataset): dataset})
    except Exception:
        return sampler  # its generators are put back by `untouched`


def _copied(source: Any, what: str) -> Any:
    """A deep copy; arrays and tensors are shared, since copying them is dear and nobody writes to data."""
    shared: dict[int, Any] = {}
    tree_map_only(
        (Tensor, np.ndarray),
        lambda array: shared.setdefault(id(array), array),
        dict(vars(source)) if hasattr(source, "__dict__") else {},
    )
    try:
        return copy.deepcopy(source, shared)
    except Exception as error:
        raise NotApplicable(
            f"{what} ({type(source).__name__}) can be read only once, and is left to the run."
        ) from error
