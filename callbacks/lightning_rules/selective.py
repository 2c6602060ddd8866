"""The reject option: refuse the examples one is least sure of, so that the others are right often enough.

Pure functions on two vectors: how confident a model is in each answer, and whether it is right.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

SURE = 0.95  # how sure a guarantee is, unless asked otherwise
_HALVINGS = 60  # of an interval of probabilities: to the end of double precision


@dataclass(frozen=True)
class RiskCoverage:
    """What is answered and how wrong that is, from the strictest threshold to the laxest.

    Attributes:
        thresholds: The distinct confidences [K], falling; answered is what reaches them.
        coverage: The share of examples answered [K], rising to 1.
        risk: The share of wrong answers among these [K].
        area: The mean risk over all coverages, ties broken at random; 0 is perfect, and a model that orders its
            answers at random has its error rate.
    """

    thresholds: Tensor
    coverage: Tensor
    risk: Tensor
    area: float


@dataclass(frozen=True)
class Selection:
    """A threshold and what it does on the examples it was chosen on.

    Attributes:
        threshold: An answer counts if its confidence is at least this.
        coverage: The share of examples answered.
        risk: The share of wrong answers among these.
        bound: Upper confidence bound on the risk of new examples.
    """

    threshold: float
    coverage: float
    risk: float
    bound: float


def risk_coverage(confidence: Tensor, right: Tensor) -> RiskCoverage:
    """The curve of risk against coverage.

    Args:
        confidence: Of each answer [N], larger is surer.
        right: Whether it is right [N], bool or 0 and 1.

    Raises:
        ValueError: There is no example, or the two differ in length.
    """
    _check(confidence, right)
    confidence, order = confidence.double().sort(descending=True)
    wrong = 1 - right.double()[order]
    last = torch.ones_like(confidence, dtype=torch.bool)
    last[:-1] = confidence[1:] != confidence[:-1]
    answered = last.nonzero().flatten() + 1
    errors = wrong.cumsum(0)[answered - 1]
    return RiskCoverage(confidence[last], answered.double() / len(wrong), errors / answered, _area(answered, errors))


def _area(answered: Tensor, errors: Tensor) -> float:
    """The mean over k = 1 ... N of the risk among the k surest, the errors among equally sure ones spread evenly."""
    zero = torch.zeros(1, dtype=torch.double)
    counts = torch.cat([zero, answered.double()])
    totals = torch.cat([zero, errors])
    k = torch.arange(1, int(counts[-1]) + 1, dtype=torch.double)
    above = torch.searchsorted(counts, k)
    share = (k - counts[above - 1]) / (counts[above] - counts[above - 1])
    return float(((totals[above - 1] + share * (totals[above] - totals[above - 1])) / k).mean())


def risk_bound(wrong: int, answered: int, sure: float = SURE) -> float:
    """Upper bound on a risk: the exact one of the binomial distribution (Clopper and Pearson 1934, one-sided).

    Args:
        wrong: How many answers were wrong.
        answered: Of how many.
        sure: With which probability the bound is to hold, above 0 and below 1.

    Returns:
        The largest risk under which so few errors are seen with probability ``1 - sure``; 1 where nothing was answered.
    """
    if answered == 0 or wrong >= answered:
        return 1.0
    low, high = wrong / answered, 1.0
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        low, high = (middle, high) if _at_most(wrong, answered, middle) > 1 - sure else (low, middle)
    return high


def _at_most(count: int, total: int, share: float) -> float:
    """The probability of at most ``count`` successes in ``total`` trials."""
    if share >= 1:
        return 0.0
    if share <= 0:
        return 1.0
    k = torch.arange(count + 1, dtype=torch.double)
    n = torch.tensor(float(total), dtype=torch.double)
    ways = (n + 1).lgamma() - (k + 1).lgamma() - (n - k + 1).lgamma()
    return float((ways + k * math.log(share) + (n - k) * math.log1p(-share)).logsumexp(0).exp())


def threshold_for_risk(confidence: Tensor, right: Tensor, risk: float, sure: float = SURE) -> Selection | None:
    """The threshold with the most coverage whose risk on new examples is at most the wanted one, with a guarantee.

    Halves the sorted confidences as selection with guaranteed risk does (Geifman and El-Yaniv 2017, algorithm 1): of
    the few thresholds looked at, each is bounded with its share of the doubt, so that all bounds hold together.
    The guarantee is for new examples from where these are, and for a model that has not seen them.

    Args:
        confidence: Of each answer [N].
        right: Whether it is right [N].
        risk: The wanted share of wrong answers among those given, above 0 and below 1.
        sure: With which probability it is to hold.

    Returns:
        The threshold; None where no threshold that was looked at is strict enough for the examples there are.

    Raises:
        ValueError: ``risk`` or ``sure`` is not between 0 and 1, or there is no example.
    """
    for name, value in (("risk", risk), ("sure", sure)):
        if not 0 < value < 1:
            raise ValueError(f"Expected `{name}` to be above 0 and below 1, but got {value}.")
    curve = risk_coverage(confidence, right)
    looks = max(1, math.ceil(math.log2(len(curve.thresholds) + 1)))
    low, high, best = -1, len(curve.thresholds), None  # what passes lies at or below `low`, what fails at `high`
    while high - low > 1:
        middle = (low + high) // 2
        chosen = _selection(curve, middle, len(right), 1 - (1 - sure) / looks)
        if chosen.bound <= risk:
            low, best = middle, chosen
        else:
            high = middle
    return best


def threshold_for_coverage(confidence: Tensor, right: Tensor, coverage: float, sure: float = SURE) -> Selection:
    """The strictest threshold under which at least the wanted share of the examples is answered.

    Args:
        confidence: Of each answer [N].
        right: Whether it is right [N].
        coverage: The wanted share, above 0 up to 1.
        sure: With which probability the bound on the risk is to hold, for this one threshold.

    Raises:
        ValueError: ``coverage`` is out of range, or there is no example.
    """
    if not 0 < coverage <= 1:
        raise ValueError(f"Expected `coverage` to be above 0 and at most 1, but got {coverage}.")
    curve = risk_coverage(confidence, right)
    enough = (curve.coverage >= coverage - 1e-9).nonzero()
    return _selection(curve, int(enough[0]), len(right), sure)


def _selection(curve: RiskCoverage, place: int, examples: int, sure: float) -> Selection:
    coverage, risk = float(curve.coverage[place]), float(curve.risk[place])
    answered = round(coverage * examples)
    return Selection(float(curve.thresholds[place]), coverage, risk, risk_bound(round(risk * answered), answered, sure))


def _check(confidence: Tensor, right: Tensor) -> None:
    if confidence.dim() != 1 or confidence.shape != right.shape or not len(right):
        raise ValueError(
            f"Expected a confidence and a judgement for each of at least one example, but got shapes "
            f"{tuple(confidence.shape)} and {tuple(right.shape)}."
        )
