"""Part of the data audit: each worker and each rank augments in its own way."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch.multiprocessing
from torch.utils.data import DataLoader, Dataset

from lightning_rules.audit import Part
from lightning_rules.data.loader_order import digest, has_indices, seeded
from lightning_rules.deadline import Deadline
from lightning_rules.finding import Finding, Severity
from lightning_rules.untouched import GENERATORS, reachable, untouched

NAME = "same-draws"
READ = 8  # times that the same example is read by two workers, in turn
SECONDS = 20.0  # until workers are given up
LIGHTNINGS = "pl_worker_init_function"


@dataclass(frozen=True)
class Draws:
    """What one rank saw.

    Attributes:
        way: ``"apart"`` (torch keeps them apart), ``"workers"`` (two were asked) or ``"alone"`` (no workers).
        random: Whether reading an example again changes it.
        alike: Whether two workers draw the same.
        mine: What this rank read first, where its data set owns a generator and no worker reads it.
        unasked: Why workers were not asked, as a sentence; else empty.
    """

    way: Literal["apart", "workers", "alone"]
    random: bool = False
    alike: bool = False
    mine: str = ""
    unasked: str = ""


class Again(Dataset[str]):
    """One example of another set, read over and over; what it holds is told in short."""

    def __init__(self, dataset: Any, index: Any) -> None:
        self.dataset, self.index = dataset, index

    def __len__(self) -> int:
        return READ

    def __getitem__(self, index: int) -> str:
        return digest(self.dataset[self.index])


def measure(seen: Any, deadline: Deadline) -> Draws:
    """Where a generator of its own, or the user's own seeding, may make workers alike: ask two of them."""
    loader = seen.train.loader
    if not has_indices(loader) or not len(loader.dataset):
        return Draws("apart")
    owned = [value for value in reachable(loader.dataset) if isinstance(value, GENERATORS)]
    if loader.num_workers == 0:
        return _alone(loader, owned)
    own_seeds = loader.worker_init_fn is not None and LIGHTNINGS not in repr(loader.worker_init_fn)
    numbered = "_seeded_batches" in vars(loader)  # SeedEverything begins the shared streams anew at each batch
    if loader.num_workers == 1 or not (owned or (own_seeds and not numbered)):
        return Draws("apart")
    if not _is_random(loader.dataset):
        return Draws("apart")
    method = getattr(loader.multiprocessing_context, "get_start_method", torch.multiprocessing.get_start_method)()
    if method != "fork":
        return Draws(
            "apart", True, unasked=f"Workers are started by {method}, which takes too long to ask two of them."
        )
    deadline.require(2.0, "reading an example in two worker processes")
    return _asked(loader)


def _alone(loader: Any, owned: list[Any]) -> Draws:
    if not owned:
        return Draws("alone")
    with untouched(None, loader.dataset):
        first = digest(loader.dataset[0])
    return Draws("alone", _is_random(loader.dataset), mine=first)


def _is_random(dataset: Any) -> bool:
    """Whether reading an example again changes it."""
    with untouched(None, dataset):
        found = set()
        for seed in range(3):
            with seeded(seed):
                found.add(digest(dataset[0]))
    return len(found) > 1


def _asked(loader: Any) -> Draws:
    """Let two workers read the same example in turn: the first, third, ... reading is the first worker's."""
    with untouched(None, loader):
        workers = DataLoader(
            Again(loader.dataset, 0),
            batch_size=None,
            num_workers=2,
            worker_init_fn=loader.worker_init_fn,
            multiprocessing_context=loader.multiprocessing_context,
            timeout=SECONDS,
        )
        read: list[str] = list(workers)
    first, second = read[::2], read[1::2]
    return Draws("workers", len(set(first)) > 1, first == second)


def judge(ranks: Sequence[Draws]) -> Iterator[Finding]:
    """Whether workers, and ranks, draw the same; at most one finding. Pure."""
    told = [rank for rank in ranks if rank.random and rank.alike]
    if told:
        message = (
            f"Worker processes draw the same augmentations: two of them read the same example {READ // 2} times, "
            "each time otherwise, and yet both alike."
        )
        yield Finding(NAME, Severity.WARNING, message, ADVICE, {"readings": READ})
        return
    own = [rank.mine for rank in ranks if rank.way == "alone" and rank.mine and rank.random]
    if len(own) > 1 and len(set(own)) == 1:
        message = (
            f"All {len(own)} ranks draw the same augmentations: the data set's own generator starts alike on each."
        )
        yield Finding(NAME, Severity.INFO, message, "Seed the generator with the rank added.")
        return
    unasked = next((rank.unasked for rank in ranks if rank.unasked), "")
    if unasked:
        yield Finding(NAME, Severity.INFO, f"Whether workers draw the same augmentations is open: {unasked}")
    elif any(rank.way == "workers" for rank in ranks):
        yield Finding(NAME, Severity.OK, "Two worker processes draw different augmentations.")


ADVICE = (
    "Draw from torch's or NumPy's shared generator in __getitem__, which torch seeds for each worker, or seed the data "
    "set's own generator in worker_init_fn with torch.initial_seed()."
)

PART = Part((NAME,), measure, judge)
