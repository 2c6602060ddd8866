"""Part of the data audit: ranks share the examples out among them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch.utils.data.distributed import DistributedSampler

from lightning_rules.audit import Part
from lightning_rules.batches import leaves
from lightning_rules.data.loader_order import digest, has_indices, index_batches, seeded
from lightning_rules.deadline import Deadline
from lightning_rules.finding import Finding, Severity
from lightning_rules.rule import NotApplicable
from lightning_rules.untouched import reachable
from lightning_rules.view import View

NAME = "distributed-sampling"
KEPT = 20_000  # indices of each rank that are compared
STREAMED = 4  # batches of a stream that are compared
WHOLE = 0.9  # of the set, drawn by one rank in a pass: it was not shared out
OVERLAP = 0.05  # of a rank's examples that another one draws too: more than padding


@dataclass(frozen=True)
class Share:
    """What one rank draws.

    Attributes:
        size: Examples of the training set; None for a stream.
        drawn: How many indices a pass draws.
        first: The first of them, in order, or fingerprints of a stream's first examples.
        again: Whether indices come twice in one pass on one rank: drawn with replacement.
        hidden: Whether a DistributedSampler that shuffles takes the same order at each epoch.
        validation: The indices that this rank validates on; None where unknown.
        validation_size: Examples of the validation set.
    """

    size: int | None
    drawn: int
    first: NDArray[Any]
    again: bool = False
    hidden: bool = False
    validation: NDArray[Any] | None = None
    validation_size: int = 0


def measure(seen: Any, deadline: Deadline) -> Share:
    """This rank's indices, or fingerprints of its stream.

    Raises:
        NotApplicable: There is one rank only, or batches are overfitted on purpose.
    """
    view: View = seen.view
    if view.trainer.world_size == 1:
        raise NotApplicable("one process draws all examples.")
    if view.trainer.overfit_batches:
        raise NotApplicable("overfit_batches trains on the same batches on purpose.")
    validation, size = _validation(view)
    loader = seen.train.loader
    if not has_indices(loader):
        return Share(None, 0, _fingerprints(view), validation=validation, validation_size=size)
    drawn = _flat(index_batches(loader, epoch=0))
    again = len(np.unique(drawn)) < len(drawn)
    hidden = _hides_a_sampler(loader) and np.array_equal(drawn, _flat(index_batches(loader, epoch=1)))
    return Share(len(loader.dataset), len(drawn), drawn[:KEPT], again, hidden, validation, size)


def _flat(batches: list[list[Any]]) -> NDArray[Any]:
    return np.asarray([int(index) for batch in batches for index in batch])


def _fingerprints(view: View) -> NDArray[Any]:
    """Of the first examples of a stream, read with random numbers of this rank's own."""
    with seeded(1000 + view.trainer.global_rank):
        batches: list[list[str]] = view.batches(STREAMED, _rows)
    return np.asarray([row for batch in batches for row in batch])


def _rows(batch: Any) -> list[str]:
    parts = [leaf for _, leaf in leaves(batch) if leaf.dim() > 0]
    count = min((len(part) for part in parts), default=0)
    return [digest([part[row] for part in parts]) for row in range(count)]


def _hides_a_sampler(loader: Any) -> bool:
    """Whether a sampler that has to be told the epoch stands where Lightning does not look."""
    below = reachable(loader.sampler, loader.batch_sampler)
    return any(isinstance(sampler, DistributedSampler) and sampler.shuffle for sampler in below)


def _validation(view: View) -> tuple[NDArray[Any] | None, int]:
    loaders = view.validation_loaders
    if not loaders or not has_indices(loaders[0]):
        return None, 0
    return _flat(index_batches(loaders[0], most=KEPT)), len(loaders[0].dataset)


def judge(ranks: Sequence[Share]) -> Iterator[Finding]:
    """Whether ranks draw examples of their own. Pure."""
    alarm = _streams(ranks) if ranks[0].size is None else _indices(ranks)
    if alarm is not None:
        yield alarm
    if any(rank.hidden for rank in ranks):
        message = "The order of examples is the same at every epoch: nothing calls set_epoch of the DistributedSampler."
        advice = "Give the sampler as DataLoader(sampler=...), or let your own sampler hand set_epoch on to it."
        yield Finding(NAME, Severity.WARNING, message, advice)
    elif alarm is None:
        yield Finding(NAME, Severity.OK, f"The {len(ranks)} ranks draw examples of their own.")
    padded = _padded(ranks)
    if padded is not None:
        yield padded


def _streams(ranks: Sequence[Share]) -> Finding | None:
    least = min(len(rank.first) for rank in ranks)
    shared = set(ranks[0].first[:least]).intersection(*(rank.first[:least] for rank in ranks[1:]))
    different = len(set(ranks[0].first[:least]))
    if different < 2 or len(shared) < 0.5 * different:
        return None
    message = (
        f"All {len(ranks)} ranks read the same stream: {len(shared)} of the first {different} examples are the same on "
        "each of them, so that more ranks bring no more data to a step."
    )
    advice = "Let the data set's __iter__ take every n-th example, by rank and worker."
    return Finding(NAME, Severity.WARNING, message, advice, {"shared": len(shared), "examples": different})


def _indices(ranks: Sequence[Share]) -> Finding | None:
    size = ranks[0].size or 1
    least = min(len(rank.first) for rank in ranks)
    evidence = {"size": size, "drawn_by_rank_0": ranks[0].drawn, "ranks": len(ranks)}
    if least > 1 and all(np.array_equal(ranks[0].first[:least], rank.first[:least]) for rank in ranks[1:]):
        message = f"All {len(ranks)} ranks draw the same examples in the same order: they compute the same step."
        return Finding(NAME, Severity.ERROR, message, SHARE, evidence)
    if any(rank.again for rank in ranks):
        return None  # drawn with replacement: examples are shared by chance
    common = [len(np.intersect1d(rank.first, ranks[place - 1].first)) for place, rank in enumerate(ranks)]
    overlap = max(common) / max(1, least)
    if all(rank.drawn >= WHOLE * size for rank in ranks) and size > len(ranks):
        message = (
            f"Each of {len(ranks)} ranks draws the whole training set ({ranks[0].drawn:,} of {size:,} examples): an "
            f"epoch sees every example {len(ranks)} times."
        )
        return Finding(NAME, Severity.WARNING, message, SHARE, evidence)
    if overlap > OVERLAP and max(common) > len(ranks):
        message = f"Ranks draw overlapping examples: {max(common):,} of {least:,} are drawn by another rank too."
        return Finding(NAME, Severity.WARNING, message, SHARE, {**evidence, "overlap": overlap})
    return None


SHARE = (
    "Leave use_distributed_sampler on, or give the DataLoader a DistributedSampler (or a sampler seeded alike on all "
    "ranks that takes this rank's share)."
)


def _padded(ranks: Sequence[Share]) -> Finding | None:
    """How many validation examples are counted twice; for information."""
    if any(rank.validation is None or len(rank.validation) >= KEPT for rank in ranks):
        return None
    drawn = np.concatenate([rank.validation for rank in ranks if rank.validation is not None])
    twice = len(drawn) - len(np.unique(drawn))
    size = ranks[0].validation_size
    if twice == 0:
        return None
    if twice >= WHOLE * size * (len(ranks) - 1):
        message = (
            f"Each of {len(ranks)} ranks validates on the whole validation set: {len(drawn):,} for {size:,} examples."
        )
        return Finding(NAME, Severity.INFO, message, "Leave use_distributed_sampler on to share the work.")
    message = f"Validation counts {twice} of {size:,} examples twice: {len(ranks)} ranks do not divide the set."
    return Finding(NAME, Severity.INFO, message, "For exact scores, validate on one device.", {"counted_twice": twice})


PART = Part((NAME,), measure, judge)
