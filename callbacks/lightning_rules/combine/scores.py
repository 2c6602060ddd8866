"""How good answers are: accuracy with its interval, likelihood, calibration, disagreement. Pure functions."""

from __future__ import annotations

import math
from dataclasses import dataclass
from statistics import NormalDist
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torchmetrics.functional.classification import binary_calibration_error, multiclass_calibration_error

from lightning_rules.combine.averaging import mean_loss
from lightning_rules.combine.reading import Answer, Task

BINS = 15
CONFIDENCE = 0.95
_Z = NormalDist().inv_cdf(0.5 + CONFIDENCE / 2)


@dataclass(frozen=True)
class Scores:
    """What a set of examples says about a model.

    Attributes:
        examples: How many examples (pixels, or labels of examples) were judged.
        accuracy: Share of right answers; None for regression.
        error: Root mean squared error; None for classification.
        low: Lower end of the 95% interval: Wilson's for the accuracy, of a normal mean square for the error.
        high: Its upper end.
        nll: Negative log-likelihood a target, in nats. For regression that of a normal distribution; None where no
            variance is known.
        ece: Expected calibration error: for classes the gap between confidence and accuracy in 15 bins of equal width
            (Guo et al. 2017); for regression the mean gap between the shares of targets that intervals should and do
            hold (Kuleshov et al. 2018). None where no variance is known.
    """

    examples: int
    accuracy: float | None
    error: float | None
    low: float
    high: float
    nll: float | None
    ece: float | None

    @property
    def value(self) -> float:
        """Accuracy or error."""
        return self.accuracy if self.accuracy is not None else float(self.error or 0.0)

    def to_dict(self) -> dict[str, Any]:
        """For JSON; without what does not apply."""
        return {name: value for name, value in vars(self).items() if value is not None}


def comparable_targets(targets: Tensor, values: Tensor, task: Task) -> Tensor:
    """Targets in the form that losses and scores expect.

    Args:
        targets: Class numbers [N, ...] (one-hot or soft targets become their largest), labels or values.
        values: The members' answers to them [N, ...].
        task: What they mean.

    Raises:
        ValueError: They do not fit the answers.
    """
    if task == "multiclass":
        if targets.is_floating_point() and targets.shape == values.shape:
            return targets.argmax(dim=1)
        if targets.shape == values[:, 0].shape and not targets.is_floating_point():
            return targets.long()
        if targets.numel() == len(values) and values.dim() == 2 and bool((targets == targets.long()).all()):
            return targets.reshape(-1).long()
    elif targets.numel() == values.numel():
        return targets.reshape(values.shape).float()
    raise ValueError(
        f"Targets of shape {tuple(targets.shape)} and type {targets.dtype} do not fit answers of shape "
        f"{tuple(values.shape)} for the task {task}: name another `task`, or mend `forward`."
    )


def known(targets: Tensor, values: Tensor, task: Task) -> Tensor:
    """Which examples [N] have a target: a class that exists, no NaN."""
    if task == "multiclass":
        return ((targets >= 0) & (targets < values.shape[1])).reshape(len(targets), -1).all(dim=1)
    return ~targets.isnan().reshape(len(targets), -1).any(dim=1)


def scores(answer: Answer, targets: Tensor, task: Task) -> Scores:
    """Judge answers.

    Args:
        answer: On the scale of logits [N, C, ...], [N, L] or means [N, D].
        targets: As :func:`comparable_targets` has them, all known.
        task: What they mean.
    """
    values = answer.values
    if task == "regression":
        return _of_regression(answer, targets)
    right = predicted(values, task) == targets
    examples, hits = right.numel(), int(right.sum())
    low, high = wilson(hits, examples)
    if task == "multiclass":
        rows = values.movedim(1, -1).reshape(-1, values.shape[1])
        ece = multiclass_calibration_error(rows.softmax(dim=1), targets.reshape(-1), rows.shape[1], n_bins=BINS)
    else:
        # the confidence in the answer that is given, as for classes, and not in "yes" alone
        confidence = values.abs().sigmoid().reshape(-1)
        ece = binary_calibration_error(confidence, right.reshape(-1).long(), n_bins=BINS)
    return Scores(
        examples, hits / examples, None, low, high, float(mean_loss(Answer(values), targets, task)), float(ece)
    )


def predicted(values: Tensor, task: Task) -> Tensor:
    """The classes [N, ...] or labels [N, L] that logits say; the means of a regression."""
    if task == "multiclass":
        return values.argmax(dim=1)
    return (values > 0).to(values.dtype) if task == "multilabel" else values


def wilson(right: int, total: int) -> tuple[float, float]:
    """The two-sided 95% score interval of a proportion (Wilson 1927)."""
    share, spread = right / total, _Z * _Z / total
    middle = (share + spread / 2) / (1 + spread)
    half = _Z * math.sqrt(share * (1 - share) / total + spread / (4 * total)) / (1 + spread)
    return max(0.0, middle - half), min(1.0, middle + half)


def paired_gain(first: Tensor, second: Tensor, targets: Tensor, task: Task) -> tuple[float, float]:
    """By how much the second answers are better than the first on the same examples, and half its 95% interval.

    Args:
        first: Values as in :func:`scores`.
        second: The same, of another model.
        targets: The targets of both.
        task: What they mean.

    Returns:
        The difference in accuracy (regression: in mean squared error, positive where the second is better) and what
        to add and take away, from the differences of examples.
    """
    if task == "regression":
        differences = (first - targets).square() - (second - targets).square()
    else:
        before, after = (predicted(values, task) == targets for values in (first, second))
        differences = after.float() - before.float()
    flat = differences.double().reshape(-1)
    half = _Z * float(flat.std()) / math.sqrt(len(flat)) if len(flat) > 1 else math.inf
    return float(flat.mean()), half


def disagreement(values: Tensor, task: Task) -> float:
    """How much members differ: the share of answers that differ, mean over pairs; for regression the mean spread.

    Args:
        values: The members' answers [M, N, ...].
        task: What they mean.
    """
    if len(values) < 2:
        return 0.0
    if task == "regression":
        return float(values.std(dim=0).mean())
    answers = torch.stack([predicted(each, task) for each in values])
    pairs = [(i, j) for i in range(len(answers)) for j in range(i)]
    return sum(float((answers[i] != answers[j]).float().mean()) for i, j in pairs) / len(pairs)


def _of_regression(answer: Answer, targets: Tensor) -> Scores:
    squares = (answer.values - targets).double().square().reshape(-1)
    mean, count = float(squares.mean()), len(squares)
    half = _Z * float(squares.std()) / math.sqrt(count) if count > 1 else math.inf
    low, high = math.sqrt(max(0.0, mean - half)), math.sqrt(mean + half)
    nll, ece = None, None
    if answer.variances is not None:
        variance = answer.variances.clamp(min=1e-12)
        nll = float(F.gaussian_nll_loss(answer.values, targets, variance, full=True))
        ece = _coverage_gap(((answer.values - targets) / variance.sqrt()).reshape(-1))
    return Scores(count, None, math.sqrt(mean), low, high, nll, ece)


def _coverage_gap(deviations: Tensor) -> float:
    """Mean gap between the shares of targets that central intervals should and do hold, at 5%, 10%, ... 95%."""
    levels = [step / 20 for step in range(1, 20)]
    gaps = [float((deviations.abs() <= NormalDist().inv_cdf(0.5 + p / 2)).float().mean()) - p for p in levels]
    return sum(abs(gap) for gap in gaps) / len(gaps)
