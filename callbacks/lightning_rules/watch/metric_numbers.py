"""A validation's numbers, reckoned beside the user's own: for each batch on its device, then for the whole set."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from lightning_rules.answers import Answers

STATISTICS = {
    "softmax": ("accuracy", "cross-entropy"),
    "sigmoid": ("accuracy", "accuracy of each output", "binary cross-entropy"),
    "mean": ("mean squared error", "mean absolute error"),
    "median": ("mean squared error", "mean absolute error"),
}
# What is made of such a mean before it is reported, with the inverse of what that does to the name.
FORMS: dict[str, dict[str, Callable[[float], float]]] = {
    "accuracy": {
        "accuracy": lambda x: x,
        "accuracy in percent": lambda x: 100 * x,
        "error rate": lambda x: 1 - x,
        "error rate in percent": lambda x: 100 * (1 - x),
    },
    "mean squared error": {"mean squared error": lambda x: x, "root mean squared error": math.sqrt},
    "cross-entropy": {"cross-entropy": lambda x: x, "perplexity": lambda x: math.exp(min(x, 100.0))},
}


def forms(statistic: str) -> dict[str, Callable[[float], float]]:
    """In which forms a mean is reported, by name."""
    return FORMS.get("accuracy" if "accuracy" in statistic else statistic, {statistic: lambda x: x})


def batch_sums(answers: Answers) -> Tensor:
    """How many rows have a target, and the sums over them of each of ``STATISTICS``, float32 [1 + statistics]."""
    known = answers.known
    values = [torch.where(known, one, 0.0).sum() for one in _by_row(answers)]
    return torch.stack([known.sum().float(), *values])


def _by_row(answers: Answers) -> list[Tensor]:
    outputs, targets = answers.outputs, answers.targets
    if answers.kind == "softmax":
        loss = F.cross_entropy(outputs, targets, ignore_index=-1, reduction="none")
        return [answers.correct.float(), loss]
    if answers.kind == "sigmoid":
        right = ((outputs > 0) == (targets > 0.5)).float().mean(1)
        loss = F.binary_cross_entropy_with_logits(outputs, targets, reduction="none").mean(1)
        return [answers.correct.float(), right, loss]
    return [(outputs - targets).square().mean(1), (outputs - targets).abs().mean(1)]


def class_counts(answers: Answers) -> Tensor | None:
    """Of single-label classes, rows and right ones a class, float32 [2, C]."""
    if answers.kind != "softmax":
        return None
    rows = torch.zeros(2, answers.outputs.shape[1], device=answers.outputs.device)
    safe = answers.targets.clamp(min=0)
    rows[0].index_add_(0, safe, answers.known.float())
    rows[1].index_add_(0, safe, (answers.correct & answers.known).float())
    return rows


@dataclass(frozen=True)
class Sums:
    """Sums of one statistic.

    Attributes:
        total: Over all batches.
        last: Over the last batch.
        mean_of_batches: The mean of the batches' means, each counted alike.
    """

    total: float
    last: float
    mean_of_batches: float


@dataclass(frozen=True)
class Validation:
    """One validation on one rank.

    Attributes:
        number: Which one of the fit.
        kind: What the outputs are.
        batches: How many batches had answers.
        rows: Rows with a target.
        last_rows: Those of the last batch.
        sums: By statistic.
        macro: The mean over classes of the share that is right, where there are classes.
        reported: What the user's own code has logged, by name.
        plain: Whether a linear layer or a convolution gives the answers, one row an example.
    """

    number: int
    kind: str
    batches: int
    rows: float
    last_rows: float
    sums: dict[str, Sums]
    macro: float | None
    reported: dict[str, float]
    plain: bool = True


@dataclass
class Collected:
    """What a validation has given so far, on the device.

    Attributes:
        number: Which one of the fit.
        kind: What the outputs are.
        plain: As in :class:`Validation`.
    """

    number: int
    kind: str
    plain: bool
    sums: list[Tensor] = field(default_factory=list)
    classes: Tensor | None = None
    missed: bool = False

    def add(self, answers: Answers | None) -> None:
        """One batch more; one without answers spoils the whole."""
        if answers is None:
            self.missed = True
            return
        self.plain &= answers.rows_per_example == 1
        self.sums.append(batch_sums(answers))
        counts = class_counts(answers)
        self.classes = counts if self.classes is None or counts is None else self.classes + counts

    def reading(self, reported: dict[str, Any]) -> dict[str, Any] | None:
        """A tree of tensors for the host; None where nothing is to be compared."""
        if self.missed or len(self.sums) == 0:
            return None
        return {
            "number": self.number,
            "kind": self.kind,
            "plain": self.plain,
            "sums": torch.stack(self.sums),
            "classes": self.classes,
            "reported": reported,
        }


def summary(reading: dict[str, Any]) -> Validation:
    """A reading that has come to the host, in numbers."""
    sums = reading["sums"].double()
    rows, names = sums[:, 0], STATISTICS[reading["kind"]]
    full = rows > 0
    statistics = {
        name: Sums(
            total=float(sums[:, place].sum()),
            last=float(sums[-1, place]),
            mean_of_batches=float((sums[full, place] / rows[full]).mean()) if bool(full.any()) else math.nan,
        )
        for place, name in enumerate(names, start=1)
    }
    return Validation(
        number=reading["number"],
        kind=reading["kind"],
        batches=len(sums),
        rows=float(rows.sum()),
        last_rows=float(rows[-1]),
        sums=statistics,
        macro=_macro(reading["classes"]),
        reported={name: float(value) for name, value in reading["reported"].items()},
        plain=reading["plain"],
    )


def _macro(classes: Tensor | None) -> float | None:
    if classes is None:
        return None
    present = classes[0] > 0
    return float((classes[1][present] / classes[0][present]).mean()) if bool(present.any()) else None


def pooled(ranks: Sequence[Validation], statistic: str, last: bool) -> float:
    """The mean of a statistic over all rows of all ranks, or over those of their last batches."""
    total = sum(one.sums[statistic].last if last else one.sums[statistic].total for one in ranks)
    rows = sum(one.last_rows if last else one.rows for one in ranks)
    return total / rows if rows else math.nan
