"""Loaders whose position can be found again: each batch has a number, and random numbers that follow from it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any, TypedDict

import torch
from torch import Tensor
from torch.utils.data import DataLoader, DistributedSampler, IterableDataset

from lightning_rules.reproduce.generators import Stream, generators_of, set_states, states_of
from lightning_rules.reproduce.streams import start_stream

# Samplers of these packages draw all their random numbers when a pass begins.
DRAW_AT_ONCE = ("torch.utils.data.", "lightning.", "pytorch_lightning.")


class Place(TypedDict):
    """Where a pass over a loader stands.

    After the pass has been found again, and workers have been sent their first batches, ``now`` is for
    :meth:`SeededBatches.go_on`.

    Attributes:
        seed: What the order of the pass and the workers' random numbers follow from.
        start: States of the generators that the sampler owns, before the first batch was taken; empty before that.
        now: The same, and those of the data set, now.
        shared: The seed of a DistributedSampler, which ranks share; None for other samplers.
        length: Batches in a whole pass.
        taken: Batches that training has taken of it.
    """

    seed: int
    start: list[Tensor | str]
    now: list[Tensor | str]
    shared: int | None
    length: int
    taken: int


class SeededBatches:
    """What a sampler yields, numbered, each with random numbers of its own for the worker that reads it.

    A worker's random numbers begin anew with each batch, and follow from the seed of the pass and the number of the
    batch: whichever worker reads the batch, and whatever it has read before, it draws the same. The sampler draws
    from a stream of its own. In the main process nothing is seeded.

    Outside of this module the loader looks as it did: its sampler is replaced only while an iterator is made.

    Args:
        loader: The loader; its batch sampler (its sampler, where it makes no batches) is what is numbered.
    """

    def __init__(self, loader: DataLoader[Any]) -> None:
        self.loader = loader
        self.name = "sampler" if loader.batch_sampler is None else "batch_sampler"
        self.inner: Any = getattr(loader, self.name)
        self.place: Place | None = None
        self.idle = False
        self._class = _plain(type(loader))

    def attach(self) -> None:
        """See to it that the loader's iterators take their indices from here."""
        vars(self.loader)["_seeded_batches"] = self
        self.loader.__class__ = _numbered(self._class)

    def detach(self) -> None:
        """Give the loader back as it was."""
        if vars(self.loader).pop("_seeded_batches", None) is not None:
            self.loader.__class__ = self._class

    @contextmanager
    def standing_in(self, loader: DataLoader[Any]) -> Iterator[None]:
        """Take the sampler's place; not in a copy of the loader, which others have given another sampler."""
        if vars(loader)[self.name] is not self.inner:
            yield
            return
        vars(loader)[self.name] = self  # DataLoader forbids to assign it
        try:
            yield
        finally:
            vars(loader)[self.name] = self.inner

    def __len__(self) -> int:
        return len(self.inner)

    def __iter__(self) -> Pass:
        """A pass from the start; while ``place`` is set, from that place on; while ``idle``, an empty one.

        DataLoader's iterator over worker processes asks twice, and keeps the second.
        """
        return Pass(self, self.place, self.idle)

    def find_again(self, place: Place) -> None:
        """Let the passes that follow begin at a place."""
        self.place = place
        if self.distributed is not None and place["shared"] is not None:
            self.distributed.seed = place["shared"]

    def go_on(self, place: Place) -> None:
        """Put the generators that the loader owns where they stood; later passes begin anew."""
        self.find_again(place)
        self.place = None
        set_states(self.all_owned, place["now"])

    @property
    def distributed(self) -> DistributedSampler[Any] | None:
        """The sampler that gives each rank its share, by a seed of its own."""
        below = (self.inner, getattr(self.inner, "sampler", None))
        return next((sampler for sampler in below if isinstance(sampler, DistributedSampler)), None)

    @property
    def owned(self) -> list[Any]:
        """Generators that the loader and its sampler own."""
        return generators_of(self.loader.generator, self.inner)

    @property
    def all_owned(self) -> list[Any]:
        """The same, and those of the data set where the main process reads it."""
        read_here = [] if self.loader.num_workers else [self.loader.dataset]
        return generators_of(self.loader.generator, self.inner, *read_here)


def _plain(kind: type) -> type:
    """A loader's class before it was numbered: copies of a loader come numbered."""
    return kind.__bases__[0] if "_is_numbered" in vars(kind) else kind


@cache
def _numbered(kind: type) -> type:
    """A loader's class, whose iterators take their indices from SeededBatches."""

    def _get_iterator(loader: Any) -> Any:
        with vars(loader)["_seeded_batches"].standing_in(loader):
            return kind._get_iterator(loader)  # type: ignore[attr-defined]

    names = {"__module__": kind.__module__, "__qualname__": kind.__qualname__, "__doc__": kind.__doc__}
    return type(kind.__name__, (kind,), {**names, "_is_numbered": True, "_get_iterator": _get_iterator})


class Pass:
    """One pass over the batches of a sampler."""

    def __init__(self, batches: SeededBatches, place: Place | None, idle: bool) -> None:
        self.batches = batches
        self.idle = idle
        self.seed = place["seed"] if place else _draw()
        self.start: list[Tensor | str] = []
        self.number = 0
        self._stream = Stream(self.seed)
        self._apart = True
        self._inner: Iterator[Any] | None = None
        if place is not None and place["taken"]:
            set_states(batches.owned, place["start"])
            for _ in range(place["taken"]):
                self._take()

    def __iter__(self) -> Pass:
        return self

    def __next__(self) -> Any:
        if self.idle:
            raise StopIteration
        number = self.number
        index = self._take()
        return Sent(index, self.seed, number) if self.batches.loader.num_workers else index

    def _take(self) -> Any:
        if self._inner is None:
            self.start = states_of(self.batches.owned)
            self._inner = iter(self.batches.inner)
        self.number += 1
        if not self._apart:
            return next(self._inner)
        with self._stream.active():
            self._apart = not _draws_at_once(self.batches.inner)
            return next(self._inner)

    def place(self, taken: int) -> Place:
        """Where the pass stands after ``taken`` batches; the sampler may be ahead, for the workers."""
        batches = self.batches
        return Place(
            seed=self.seed,
            start=self.start,
            now=states_of(batches.all_owned),
            shared=None if batches.distributed is None else batches.distributed.seed,
            length=len(batches),
            taken=taken,
        )


class Sent:
    """Indices on their way to a worker: where they arrive, the random numbers of their batch begin."""

    def __init__(self, index: Any, seed: int, number: int) -> None:
        self.sent = index, seed, number

    def __reduce__(self) -> Any:
        return receive, self.sent


def receive(index: Any, seed: int, number: int) -> Any:
    """Start the worker's random numbers of a batch, and hand on its indices."""
    start_stream(seed, "batch", number)
    return index


def obstacle(loader: Any) -> str | None:
    """Why a loader's batches cannot be numbered, as the end of a sentence; None where they can."""
    kind = type(loader).__name__
    if not isinstance(loader, DataLoader) or type(loader).__iter__ is not DataLoader.__iter__:
        return f"the loader {kind} has neither a sampler nor state_dict and load_state_dict"
    if isinstance(loader.dataset, IterableDataset):
        return f"{type(loader.dataset).__name__} is an IterableDataset and its loader has no state_dict"
    try:
        len(loader)
    except TypeError:
        return f"the sampler of {kind} has no length"
    return None


def is_stateful(loader: Any) -> bool:
    """Whether a loader keeps its own position, which Lightning saves and restores (torchdata's StatefulDataLoader)."""
    return hasattr(loader, "state_dict") and hasattr(loader, "load_state_dict")


def _draw() -> int:
    return int(torch.empty((), dtype=torch.int64).random_())


def _draws_at_once(sampler: Any) -> bool:
    inner = getattr(sampler, "sampler", None)
    known = f"{type(sampler).__module__}.".startswith(DRAW_AT_ONCE)
    return known and (inner is None or inner is sampler or _draws_at_once(inner))
