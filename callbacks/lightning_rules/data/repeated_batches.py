"""Part of the data audit: each step sees other examples."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import torch
from lightning.fabric.utilities.data import sized_len
from torch import Tensor

from lightning_rules.audit import Part
from lightning_rules.batches import leaves
from lightning_rules.data.loader_order import digest, has_indices, index_batches, seeded
from lightning_rules.deadline import Deadline
from lightning_rules.finding import Finding, Severity
from lightning_rules.losses import seen_losses
from lightning_rules.rule import NotApplicable
from lightning_rules.untouched import untouched
from lightning_rules.view import View

NAME = "repeated-batches"
READ = 4  # batches whose contents are compared
ROWS = 8  # examples of each that are read, where single ones can be
SECONDS = 1.0
FEW = 0.05  # of the set: a sampler that draws no more than that,
OFTEN = 5  # each so often in a pass, repeats itself


@dataclass(frozen=True)
class Repeats:
    """What one rank saw.

    Attributes:
        size: Examples of the set; None where it has no indices.
        drawn: Indices that one pass draws.
        distinct: Different ones among them.
        batches: Batches of one pass; None where unknown.
        batch_size: Examples of a batch.
        alike: Whether the batches that were read hold the same, in the same order.
        items_alike: Whether all examples that were read, at different indices, are one and the same.
        read: Batches that were read.
        step_repeats: Whether the training step answers a second batch as the first, output for output.
    """

    size: int | None
    drawn: int
    distinct: int
    batches: int | None
    batch_size: int
    alike: bool
    items_alike: bool
    read: int
    step_repeats: bool = False


def measure(seen: Any, deadline: Deadline) -> Repeats:
    """Look at the indices of one pass, and at the contents of the first batches.

    Raises:
        NotApplicable: The run overfits some batches on purpose.
    """
    view: View = seen.view
    if view.trainer.overfit_batches:
        raise NotApplicable("overfit_batches trains on the same batches on purpose.")
    loader = seen.train.loader
    if not has_indices(loader):
        contents = view.batches(READ, digest)
        known = sized_len(loader)
        alike = len(contents) > 1 and len(set(contents)) == 1
        return Repeats(None, 0, 0, known, 0, alike, False, len(contents))
    batches = index_batches(loader, epoch=0)
    flat = [_key(index) for batch in batches for index in batch]
    alike, read = _contents(loader, batches[:READ])
    numbers = (len(loader.dataset), len(flat), len(set(flat)), len(batches), len(batches[0]))
    return Repeats(*numbers, alike=False, items_alike=alike, read=read, step_repeats=_step_repeats(view, deadline))


def _key(index: Any) -> Any:
    return int(index) if isinstance(index, Tensor) else str(index) if isinstance(index, (list, dict)) else index


def _contents(loader: Any, batches: list[list[Any]]) -> tuple[bool, int]:
    """Whether examples at different indices are all the same, and how many were read; each with the same luck."""
    indices = list({_key(index): index for batch in batches for index in batch[:ROWS]}.values())
    found: set[str] = set()
    started = time.monotonic()
    with untouched(None, loader):
        for count, index in enumerate(indices, 1):
            with seeded(0):
                found.add(digest(loader.dataset[index]))
            if len(found) > 1 or time.monotonic() - started > SECONDS:
                return len(found) == 1 and count > ROWS, count
    return len(found) == 1 and len(indices) > ROWS, len(indices)


def _step_repeats(view: View, deadline: Deadline) -> bool:
    """Whether the training step, given another batch, still computes the outputs and targets of the one before."""
    with suppress(Exception):  # a step that cannot be run says nothing here
        started = time.monotonic()
        first: Any = view.batches(1)[0]
        if 4 * (time.monotonic() - started) > min(SECONDS, deadline.left):
            return False
        several: list[Any] = view.batches(2)
        first, second = several
        inputs = [dict(leaves(view.split(batch)[0])) for batch in (first, second)]
        if not inputs[0] or _equal(list(inputs[0].values()), list(inputs[1].values())):
            return False
        with view.on_loan():
            view.module.eval()
            answers = []
            for place, batch in enumerate((first, second)):
                with seeded(0), seen_losses(view.module) as calls:
                    view.loss(batch, place)
                answers.append([(call.output.detach(), call.target) for call in calls])
        known = bool(answers[0]) and all(_varies(output) for output, _ in answers[0])
        flat = [[part for call in answer for part in call if isinstance(part, Tensor)] for answer in answers]
        return known and _equal(*flat)
    return False


def _varies(output: Tensor) -> bool:
    """Whether the rows of an output differ: a network that answers all inputs alike repeats nothing."""
    return output.dim() > 0 and len(output) > 1 and not torch.equal(output[:1].expand_as(output), output)


def _equal(one: list[Tensor], other: list[Tensor]) -> bool:
    return len(one) == len(other) and all(
        a.shape == b.shape and torch.equal(a, b) for a, b in zip(one, other, strict=True)
    )


def judge(ranks: Sequence[Repeats]) -> Iterator[Finding]:
    """Whether steps repeat themselves; one finding. Pure."""
    found = [_judged(rank) for rank in ranks]
    yield max(found, key=lambda finding: finding.severity)


def _judged(seen: Repeats) -> Finding:
    evidence = {"size": seen.size, "drawn": seen.drawn, "distinct": seen.distinct, "batch_size": seen.batch_size}
    several = seen.batches is None or seen.batches > 1

    def finding(severity: Severity, message: str, advice: str = "") -> Finding:
        return Finding(NAME, severity, message, advice, evidence)

    if seen.step_repeats:
        message = "The same batch at every step: training_step computes the outputs of the first batch for the second."
        return finding(
            Severity.WARNING, message, "Use the batch that training_step is given; keep none of an earlier step."
        )
    if seen.size is None:
        if seen.alike and several:
            message = f"The same batch at every step: the first {seen.read} batches hold the same, in the same order."
            return finding(Severity.WARNING, message, "Let the loader give other examples each time.")
        return finding(Severity.OK, f"The first {seen.read} batches differ.")
    if seen.size <= seen.batch_size or seen.size == 1:
        message = f"The training set has {seen.size} examples, and one batch holds them all: each step sees the same."
        return finding(Severity.INFO, message)
    if seen.items_alike:
        message = f"Every example is the same: {seen.read} examples at different indices hold the same values."
        return finding(Severity.WARNING, message, "Let the data set's __getitem__ use the index that it is given.")
    repeats = several and seen.drawn >= OFTEN * seen.distinct
    if repeats and (seen.distinct <= seen.batch_size or seen.distinct <= FEW * seen.size):
        batch = "The same batch at every step: t" if seen.distinct <= seen.batch_size else "T"
        message = (
            f"{batch}he sampler draws only {seen.distinct:,} of {seen.size:,} examples, "
            f"{seen.drawn / seen.distinct:.0f} times each in a pass."
        )
        return finding(Severity.WARNING, message, "Let the sampler draw from all examples, or leave it out.")
    return finding(Severity.OK, f"A pass draws {seen.distinct:,} of {seen.size:,} examples.")


PART = Part((NAME,), measure, judge)
