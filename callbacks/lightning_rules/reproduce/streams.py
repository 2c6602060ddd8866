"""Streams of random numbers, each derived from a seed, a purpose, a place in the run and a rank; loaders that use them.

Nothing is stored to find a stream again: the same seed and the same place give the same numbers.
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from torch.utils.data import DataLoader, IterableDataset

from lightning_rules.untouched import untouched

Purpose = Literal["loading", "start", "epoch", "workers", "order", "batch"]
PURPOSES: tuple[Purpose, ...] = ("loading", "start", "epoch", "workers", "order", "batch")
Place = tuple[int, int]  # epoch, optimiser steps done


def derive(seed: int, purpose: Purpose, *place: int) -> list[int]:
    """Three numbers of 128 bits for a purpose and a place, by NumPy's SeedSequence (O'Neill, 2015)."""
    spawned = np.random.SeedSequence(seed, spawn_key=(PURPOSES.index(purpose), *place))
    bits = spawned.generate_state(12).tobytes()
    return [int.from_bytes(bits[start : start + 16], "little") for start in (0, 16, 32)]


def start_stream(seed: int, purpose: Purpose, *place: int) -> None:
    """Start the global generators of Python, NumPy and torch (all devices) at one stream.

    Each gets a number of its own: Python and NumPy run the same algorithm, and would draw the same from the same.
    """
    of_python, of_numpy, of_torch = derive(seed, purpose, *place)
    random.seed(of_python)
    np.random.seed([(of_numpy >> shift) & 0xFFFFFFFF for shift in (0, 32, 64, 96)])
    torch.manual_seed(of_torch & 0xFFFFFFFFFFFFFFFF)


@dataclass
class _Held:
    """A loader of the run.

    Attributes:
        loader: The loader.
        key: Numbers that tell it from the other loaders of the run.
        place: Where in the run its streams were started last.
        generator: What its workers' base seeds are drawn from; None where the user gave the loader its own.
        order: How Lightning's distributed wrapper lists the user's sampler; None where there is no wrapper.
        own_workers: Whether the user alone seeds its workers, by a generator and a ``worker_init_fn``.
        unseeded_workers: Whether it came without a ``worker_init_fn``, and Lightning gives it one.
    """

    loader: DataLoader[Any]
    key: tuple[int, int]
    place: Place
    generator: torch.Generator | None
    order: AgreedOrder | None
    own_workers: bool
    unseeded_workers: bool

    def start(self, seed: int, rank: int, place: Place) -> None:
        self.place = place
        if self.generator is not None:
            self.generator.manual_seed(derive(seed, "workers", *self.key, *place, rank)[0] & 0x7FFFFFFFFFFFFFFF)
        if self.order is not None:
            self.order.start(seed, *self.key, *place)

    def put_back(self) -> None:
        if self.generator is not None and self.loader.generator is self.generator:
            self.loader.generator = None
        if self.unseeded_workers:
            self.loader.worker_init_fn = None
        if self.order is not None:
            vars(self.order.lister).pop("reset", None)


class SeededLoaders:
    """The DataLoaders of one run: other random numbers in the workers of each rank, the same order on all ranks.

    A loader whose user gave it a generator or a ``worker_init_fn`` keeps them.
    """

    def __init__(self) -> None:
        self.held: list[_Held] = []

    def add(self, loader: Any, seed: int, rank: int, training: bool, place: Place) -> None:
        """Take up a loader before its first iterator is made; other iterables than DataLoaders are left alone."""
        if not isinstance(loader, DataLoader) or any(held.loader is loader for held in self.held):
            return
        alike = [held for held in self.held if held.key[0] == int(training)]
        if alike and alike[0].place != place:  # loaded anew: the earlier ones are gone
            for held in alike:
                held.put_back()
                self.held.remove(held)
            alike = []
        own = loader.num_workers > 0 and loader.generator is not None and not _knows_ranks(loader.worker_init_fn)
        generator = order = None
        if loader.generator is None:
            generator = loader.generator = torch.Generator()
        lister: Any = getattr(_sampler_of(loader), "dataset", None)
        if callable(getattr(lister, "reset", None)) and hasattr(lister, "_sampler"):
            order = AgreedOrder(lister)
            lister.reset = order
        key = int(training), len(alike)
        self.held.append(_Held(loader, key, place, generator, order, own, loader.worker_init_fn is None))
        self.held[-1].start(seed, rank, place)

    def start(self, seed: int, rank: int, place: Place) -> None:
        """Start the streams of a new epoch; those of a loader that was made at this very place have begun already."""
        for held in self.held:
            if held.place != place:
                held.start(seed, rank, place)

    def put_back(self) -> None:
        """Give the loaders back as they came."""
        for held in self.held:
            held.put_back()
        self.held.clear()

    @property
    def own_workers(self) -> int:
        """How many loaders have workers that the user alone seeds."""
        return sum(held.own_workers for held in self.held)


class AgreedOrder:
    """Lists the user's sampler with random numbers that are the same on all ranks.

    Under DDP Lightning wraps a user's sampler; each rank lists all of it and takes its share. Ranks that list it with
    different numbers read some examples twice and others never.

    Args:
        lister: The data set in Lightning's wrapper, whose ``reset`` lists the sampler.
    """

    def __init__(self, lister: Any) -> None:
        self.lister = lister
        self.seed, self.passes = 0, 0
        self.place: tuple[int, ...] = ()

    def start(self, seed: int, *place: int) -> None:
        """Begin a new epoch."""
        self.seed, self.place, self.passes = seed, place, 0

    def __call__(self) -> None:
        """List the sampler once; the generators of this process stay where they are."""
        with untouched():
            start_stream(self.seed, "order", *self.place, self.passes)
            type(self.lister).reset(self.lister)
        self.passes += 1


def _sampler_of(loader: DataLoader[Any]) -> Any:
    if isinstance(loader.dataset, IterableDataset):
        return None
    return getattr(loader.batch_sampler, "sampler", loader.sampler)


def _knows_ranks(worker_init_fn: Any) -> bool:
    """None becomes Lightning's function, which tells ranks apart, as it does where the user names it."""
    plain = getattr(worker_init_fn, "func", worker_init_fn)
    return plain is None or getattr(plain, "__name__", "") == "pl_worker_init_function"
