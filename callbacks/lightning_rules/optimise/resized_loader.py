"""A training loader with another batch size and everything else as it was."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from functools import partial
from itertools import islice
from typing import Any

from torch import Tensor
from torch.utils.data import BatchSampler, DataLoader, IterableDataset

from lightning_rules.batches import leaves
from lightning_rules.loaders import copied_sampler, peek
from lightning_rules.rule import NotApplicable
from lightning_rules.stand_ins import stand_in

LOOKED_AT = 512  # examples among which the largest are sought


def refuse_other_loaders(loader: Any) -> None:
    """Refuse what is not one DataLoader that makes batches by number.

    Raises:
        NotApplicable: There are several loaders, or the batches are made elsewhere.
    """
    if not isinstance(loader, DataLoader):
        raise NotApplicable(f"it needs one DataLoader for training, and the run has {type(loader).__name__}.")
    if type(loader.batch_sampler) is not BatchSampler:
        maker = "the data set" if loader.batch_sampler is None else type(loader.batch_sampler).__name__
        raise NotApplicable(f"{maker} makes the batches, and alone knows how large they are.")


def resized(loader: DataLoader[Any], batch_size: int) -> DataLoader[Any]:
    """A copy with this batch size: data, order, workers, collate function and generator are the original's."""
    again = copy.copy(loader)
    sampler = BatchSampler(loader.batch_sampler.sampler, batch_size, loader.drop_last)  # type: ignore[union-attr]
    # DataLoader forbids setting these through attributes once it is built.
    again.__dict__.update(batch_size=batch_size, batch_sampler=sampler, _iterator=None)
    return again


def resize_as_they_come(trainer: Any, batch_size: int, undo: ExitStack) -> None:
    """Resize each training loader on its way into the run, wherever it comes from, until ``undo`` is closed."""

    def resize_and_process(process: Callable[[Any], Any], loader: Any) -> Any:
        fits = isinstance(loader, DataLoader) and type(loader.batch_sampler) is BatchSampler
        # first, for rules that follow a loader through the run follow the object that comes out last
        return process(resized(loader, batch_size) if trainer.training and fits else loader)

    stand_in(trainer.strategy, "process_dataloader", lambda process: partial(resize_and_process, process), undo)


def examples_in(loader: DataLoader[Any]) -> int | None:
    """How many examples this rank reads in a pass; None where nobody knows."""
    try:
        return len(loader.batch_sampler.sampler)  # type: ignore[union-attr]
    except TypeError:
        return None


def largest_batches(loader: DataLoader[Any], sizes: list[int]) -> Iterator[Any]:
    """For each size a batch on the host, of the largest examples that were looked at.

    Where examples differ in size (sequences), those with the most elements of the first 512 come first.
    """
    if isinstance(loader.dataset, IterableDataset):
        for size in sizes:
            yield peek(resized(loader, size), 1)[0]
        return
    order = copied_sampler(loader.batch_sampler.sampler, loader.dataset)  # type: ignore[union-attr]
    collate = loader.collate_fn
    examples = [loader.dataset[index] for index in islice(order, max(LOOKED_AT, *sizes))]
    examples.sort(key=_elements, reverse=True)
    for size in sizes:
        yield collate(examples[:size])


def _elements(example: Any) -> int:
    def count(value: Any) -> int:
        return value.numel() if isinstance(value, Tensor) else 1

    return sum(count(leaf) for _, leaf in leaves(example))
