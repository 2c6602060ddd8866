"""Single best, mean of singles, ensemble and soups on the same examples, and which of them is kept."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from lightning_rules.combine.averaging import Average, Weighting, averaged, fitted_weights, greedy_weights
from lightning_rules.combine.evaluation import Collected
from lightning_rules.combine.reading import Reading
from lightning_rules.combine.scores import Scores, disagreement, paired_gain
from lightning_rules.rule import NotApplicable

Criterion = Literal["loss", "accuracy"]
Splits = Mapping[str, Collected]  # "val", and "test" where there is one

BEST, ENSEMBLE = "single best", "ensemble"


@dataclass(frozen=True)
class Row:
    """One model in the comparison.

    Attributes:
        name: What it is: "single best", "ensemble", "uniform soup", ...
        passes: How many networks run for an example.
        scores: Its scores, by split.
        losses: Its losses, by split.
        gains: By split, how much better it is than the single best on the same examples, and half the 95% interval.
    """

    name: str
    passes: int
    scores: Mapping[str, Scores]
    losses: Mapping[str, float]
    gains: Mapping[str, tuple[float, float]]

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        scores = {split: each.to_dict() for split, each in self.scores.items()}
        return {**vars(self), "scores": scores, "losses": dict(self.losses), "gains": dict(self.gains)}


@dataclass(frozen=True)
class Comparison:
    """What came of comparing.

    Attributes:
        reading: What outputs mean.
        members: The members' names.
        weights: Their weights in the ensemble.
        singles: One row for each member.
        mean: By split, the mean over members of accuracy (error), loss and calibration error.
        rows: Single best, ensemble, soups, averaged weights.
        differ: By split, how much the members disagree.
        criterion: What decided.
        winner: The row that is kept.
    """

    reading: Reading
    members: Sequence[str]
    weights: Sequence[float]
    singles: Sequence[Row]
    mean: Mapping[str, Mapping[str, float]]
    rows: Sequence[Row]
    differ: Mapping[str, float]
    criterion: Criterion
    winner: str

    def row(self, name: str) -> Row:
        """The row of that name."""
        return next(row for row in self.rows if row.name == name)

    @property
    def best(self) -> int:
        """Which member is the single best."""
        return min(range(len(self.singles)), key=lambda place: _rank(self.singles[place], self.criterion))

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        rows = {"singles": [row.to_dict() for row in self.singles], "rows": [row.to_dict() for row in self.rows]}
        return {**vars(self), "reading": self.reading.to_dict(), **rows}


def weights_for(weighting: Weighting, members: Sequence[Collected], reading: Reading, average: Average) -> Tensor:
    """The members' weights [M]: equal, or chosen on what they say about the validation set."""
    if weighting == "equal":
        return torch.full((len(members),), 1 / len(members))
    values = torch.stack([each.answer.values for each in members])
    choose = fitted_weights if weighting == "fitted" else greedy_weights
    return choose(values, members[0].targets, reading.task, average)


def ensemble_of(members: Sequence[Splits], weights: Tensor, reading: Reading, average: Average) -> dict[str, Collected]:
    """What the ensemble says, given what its members say, by split."""
    return {split: _averaged([each[split] for each in members], weights, reading, average) for split in members[0]}


def _averaged(members: Sequence[Collected], weights: Tensor, reading: Reading, average: Average) -> Collected:
    values = torch.stack([each.answer.values for each in members])
    spread = [each.answer.variances for each in members if each.answer.variances is not None]
    variances = torch.stack(spread) if len(spread) == len(members) else None
    return Collected(averaged(values, reading.task, average, weights, variances), members[0].targets)


def compare(
    names: Sequence[str],
    members: Sequence[Splits],
    others: Mapping[str, tuple[Splits, int]],
    weights: Tensor,
    reading: Reading,
    criterion: Criterion,
) -> Comparison:
    """Put all models side by side and choose one by its validation score. A pure function.

    Args:
        names: The members' names.
        members: What each says, by split.
        others: The other models by name: what they say, and how many networks run for an example.
        weights: The members' weights in the ensemble [M].
        reading: What outputs mean.
        criterion: "loss": the lowest loss on validation; "accuracy": the highest accuracy (lowest error), and the
            lowest loss among those alike. Where still several are alike, the cheaper one.

    Raises:
        NotApplicable: A member's answers are not finite, or they are of another shape than those of the first.
    """
    _refuse_what_cannot_be_averaged(names, members)
    alone = [_row(name, splits, 1, reading, splits) for name, splits in zip(names, members, strict=True)]
    place = min(range(len(alone)), key=lambda i: _rank(alone[i], criterion))
    best = members[place]
    candidates = {BEST: (best, 1), **others}
    rows = [_row(name, splits, passes, reading, best) for name, (splits, passes) in candidates.items()]
    winner = min(rows, key=lambda row: (*_rank(row, criterion), row.passes))
    differ = {
        split: disagreement(torch.stack([each[split].answer.values for each in members]), reading.task)
        for split in best
    }
    mean = {split: _mean_of(alone, split) for split in best}
    return Comparison(reading, list(names), weights.tolist(), alone, mean, rows, differ, criterion, winner.name)


def _row(name: str, splits: Splits, passes: int, reading: Reading, best: Splits) -> Row:
    gains = {
        split: paired_gain(best[split].answer.values, said.answer.values, said.targets, reading.task)
        for split, said in splits.items()
    }
    scores = {split: said.scores(reading) for split, said in splits.items()}
    return Row(name, passes, scores, {split: said.loss(reading) for split, said in splits.items()}, gains)


def _rank(row: Row, criterion: Criterion) -> tuple[float, float]:
    """The less, the better."""
    loss, scores = row.losses["val"], row.scores["val"]
    worse = -scores.accuracy if scores.accuracy is not None else loss
    return (worse, loss) if criterion == "accuracy" else (loss, worse)


def _mean_of(rows: Sequence[Row], split: str) -> dict[str, float]:
    each = [row.scores[split] for row in rows]
    means = {"value": sum(one.value for one in each) / len(each)}
    means["loss"] = sum(row.losses[split] for row in rows) / len(rows)
    for name in ("nll", "ece"):
        known = [getattr(one, name) for one in each if getattr(one, name) is not None]
        if known:
            means[name] = sum(known) / len(known)
    return means


def _refuse_what_cannot_be_averaged(names: Sequence[str], members: Sequence[Splits]) -> None:
    for name, splits in zip(names, members, strict=True):
        for split, said in splits.items():
            shape, expected = said.answer.values.shape, members[0][split].answer.values.shape
            if shape != expected:
                raise NotApplicable(
                    f"{name} answers with shape {tuple(shape)}, and {names[0]} with {tuple(expected)}: all members "
                    "must have been trained on the same classes."
                )
            if not math.isfinite(float(said.answer.values.sum())):
                raise NotApplicable(f"{name} answers with NaN or infinity on {split}: leave it out.")
