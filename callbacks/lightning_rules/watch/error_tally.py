"""The errors of one validation, counted on the device batch by batch, and what they say."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from lightning_rules.answers import Answers
from lightning_rules.figures import small
from lightning_rules.losses import Kind

KEPT = 16  # of the most confident mistakes
MOST_CLASSES = 1000  # a table of pairs is kept for; it has their square entries
PAIRS = 256  # of classes that a rank hands over, the costliest


@dataclass(frozen=True)
class Mistake:
    """One of the most confident mistakes.

    Attributes:
        index: Its place in the validation set, counted in the order in which it is read; over all ranks.
        size: The probability of the wrong answer; for a regression the mean absolute residual.
        said: The class that was answered; for a regression the first value.
        right: The class that was right; for a regression the first target.
    """

    index: int
    size: float
    said: float
    right: float


@dataclass(frozen=True)
class Pair:
    """Examples of one class that were taken for another.

    Attributes:
        right: The class that they are of.
        said: The class that they were taken for.
        count: How many.
        cost: Sum of their losses, in nats.
    """

    right: int
    said: int
    count: int
    cost: float


@dataclass(frozen=True)
class Errors:
    """The errors of a validation, on the host; those of ranks are put together by :func:`together`.

    Attributes:
        kind: What the network answers; see :class:`~lightning_rules.answers.Answers`.
        examples: How many rows with a target there were.
        wrong: How many of them were answered wrongly; of a regression the sum of absolute residuals.
        false_positives: By class: how many of others were taken for it. Empty for a regression.
        false_negatives: By class: how many of it were not recognised.
        members: By class: how many there are of it.
        pairs: The costliest confusions; empty where answers are several yes and no.
        mistakes: The most confident mistakes, the worst first.
        outputs: How many values a row of the answers has.
    """

    kind: Kind
    examples: int
    wrong: float
    false_positives: list[int] = field(default_factory=list)
    false_negatives: list[int] = field(default_factory=list)
    members: list[int] = field(default_factory=list)
    pairs: list[Pair] = field(default_factory=list)
    mistakes: list[Mistake] = field(default_factory=list)
    outputs: int = 1

    @property
    def several(self) -> bool:
        """Whether an answer is several yes and no at once."""
        return self.kind == "sigmoid" and self.outputs > 1

    @property
    def cost(self) -> float:
        """Sum of the losses of the confusions handed over, in nats."""
        return sum(pair.cost for pair in self.pairs)


class ErrorTally:
    """Counts on the device. A new one for each validation.

    Args:
        first: The answers to the first batch: they say how many classes there are, and where.
    """

    def __init__(self, first: Answers) -> None:
        self.kind = first.kind
        self.one = first.kind == "sigmoid" and first.outputs.shape[1] == 1
        self.outputs = first.outputs.shape[1]
        self.classes = 0 if first.regression else 2 if self.one else first.outputs.shape[1]
        device = first.outputs.device
        self.by_class = torch.zeros(3, self.classes, device=device, dtype=torch.long)
        paired = 0 < self.classes <= MOST_CLASSES and (first.kind == "softmax" or self.one)
        self.count = torch.zeros(self.classes**2 if paired else 0, device=device)
        self.cost = torch.zeros_like(self.count)
        self.totals = torch.zeros(2, device=device, dtype=torch.double)
        self.worst: Tensor | None = None  # [kept, 4]: size, index, said, right
        self.inputs: Tensor | None = None
        self.pictured = True

    def add(self, answers: Answers, inputs: Tensor | None, index: Tensor) -> None:
        """Count a batch.

        Args:
            answers: To the batch.
            inputs: What entered the network, [examples, ...]; None keeps no pictures.
            index: The place in the validation set of each row, [N].
        """
        known, size, said, right, loss = self._judged(answers)
        wrong = known & (size > 0)
        self.totals += torch.stack([known.sum(), (wrong if self.classes else size * known).sum()]).double()
        if self.count.numel():
            places = (right * self.classes + said).long()
            put = wrong.to(loss.dtype)
            # Neither bincount, which waits for the device, nor scatter_add, which is not deterministic there.
            self.count.index_put_((places,), put, accumulate=True)
            self.cost.index_put_((places,), put * loss, accumulate=True)
        self._count_classes(answers, known, said, right)
        self._keep_worst(torch.stack([size * known, index.float(), said, right], 1), inputs, answers.rows_per_example)

    def _judged(self, answers: Answers) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        """Of each row: whether it counts, how bad it is (0: right), what was said, what was right, and the loss."""
        outputs, targets, known = answers.outputs, answers.targets, answers.known
        if answers.regression:
            residual = (outputs - targets.masked_fill(~known[:, None], 0)).abs().mean(1)
            return known, residual, outputs[:, 0], targets[:, 0], residual
        if answers.kind == "softmax":
            right = targets.clamp(min=0)
            said = answers.labels
            size = torch.where(said != right, answers.confidence, 0)
            return known, size, said.float(), right.float(), F.cross_entropy(outputs, right, reduction="none")
        yes, truth = outputs > 0, targets > 0.5
        sure = torch.where(yes != truth, torch.sigmoid(outputs.abs()), 0)
        loss = F.binary_cross_entropy_with_logits(outputs, truth.float(), reduction="none")
        if self.one:
            return known, sure[:, 0], yes[:, 0].float(), truth[:, 0].float(), loss[:, 0]
        size, place = sure.max(1)
        right = truth.gather(1, place[:, None])[:, 0].float()
        return known, size, place.float(), right, loss.sum(1)

    def _count_classes(self, answers: Answers, known: Tensor, said: Tensor, right: Tensor) -> None:
        """False positives, false negatives and members of each class."""
        if not self.classes:
            return
        if answers.kind == "sigmoid" and not self.one:
            yes, truth = answers.outputs > 0, answers.targets > 0.5
            each = torch.stack([yes & ~truth, truth & ~yes, truth]) & known[:, None]
            self.by_class += each.sum(1)
            return
        wrong = (known & (said != right)).long()
        for row, places, counts in ((0, said, wrong), (1, right, wrong), (2, right, known.long())):
            self.by_class[row].index_put_((places.long(),), counts, accumulate=True)

    def _keep_worst(self, rows: Tensor, inputs: Tensor | None, per_example: int) -> None:
        inputs = small(inputs) if inputs is not None and self.pictured else None
        top = rows[:, 0].topk(min(KEPT, len(rows))).indices
        rows = rows[top]
        shown = inputs[top // per_example] if inputs is not None and len(inputs) * per_example > 0 else None
        if self.worst is None:
            self.worst, self.inputs = rows, shown
            self.pictured = shown is not None
            return
        self.worst = torch.cat([self.worst, rows])
        best = self.worst[:, 0].topk(min(KEPT, len(self.worst))).indices
        self.worst = self.worst[best]
        self.pictured = self.pictured and shown is not None and shown.shape[1:] == self.inputs.shape[1:]  # type: ignore[union-attr]
        self.inputs = torch.cat([self.inputs, shown])[best] if self.pictured else None  # type: ignore[list-item]

    def readings(self) -> dict[str, Any]:
        """What was counted, still on the device."""
        names = ("kind", "outputs", "classes", "by_class", "count", "cost", "totals", "worst", "inputs")
        return {name: getattr(self, name) for name in names}


def read(readings: dict[str, Any]) -> Errors:
    """The readings of an :class:`ErrorTally`, once on the host, as plain numbers of bounded size."""
    classes, count, cost = readings["classes"], readings["count"], readings["cost"]
    order = cost.argsort(descending=True)[:PAIRS]
    pairs = [
        Pair(place // classes, place % classes, round(float(count[place])), float(cost[place]))
        for place in order.tolist()
        if count[place] > 0
    ]
    worst = [] if readings["worst"] is None else readings["worst"].tolist()
    mistakes = [Mistake(int(index), size, said, right) for size, index, said, right in worst if size > 0]
    positives, negatives, members = readings["by_class"].tolist()
    examples, wrong = readings["totals"].tolist()
    kind, outputs = readings["kind"], readings["outputs"]
    return Errors(kind, int(examples), wrong, positives, negatives, members, pairs, mistakes, outputs)


def together(ranks: Sequence[Errors]) -> Errors:
    """The errors of all ranks."""
    first = ranks[0]
    if len(ranks) == 1:
        return first
    pairs: dict[tuple[int, int], Pair] = {}
    for pair in (pair for rank in ranks for pair in rank.pairs):
        old = pairs.get((pair.right, pair.said), Pair(pair.right, pair.said, 0, 0.0))
        pairs[pair.right, pair.said] = Pair(pair.right, pair.said, old.count + pair.count, old.cost + pair.cost)
    mistakes = sorted((one for rank in ranks for one in rank.mistakes), key=lambda one: -one.size)
    return Errors(
        first.kind,
        sum(rank.examples for rank in ranks),
        sum(rank.wrong for rank in ranks),
        _added([rank.false_positives for rank in ranks]),
        _added([rank.false_negatives for rank in ranks]),
        _added([rank.members for rank in ranks]),
        sorted(pairs.values(), key=lambda pair: -pair.cost),
        mistakes[:KEPT],
        first.outputs,
    )


def _added(counts: Sequence[Sequence[int]]) -> list[int]:
    return [sum(numbers) for numbers in zip(*counts, strict=True)]
