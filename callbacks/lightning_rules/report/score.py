"""The number by which a run is judged, how sure it is, and what it is held against."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

SHARES = ("accuracy", "acc", "recall", "precision", "top1", "top5")  # of examples, when their mean is taken
BEST_IS_HIGH = (*SHARES, "f1", "auroc", "auc", "r2", "iou", "dice", "map", "correlation", "score")
LEAST = ("loss", "error", "mse", "mae", "rmse", "perplexity", "nll", "brier")
PREFERRED = ("accuracy", "acc", "f1", "auroc", "r2", "iou", "dice", "map", "error", "mae", "mse", "loss")
CONFIDENCE = 0.95
Mode = Literal["min", "max"]


@dataclass(frozen=True)
class Score:
    """A metric of a run, at its best.

    Attributes:
        name: As it was logged: ``"val/accuracy"``.
        mode: Whether the highest or the lowest value is the best: ``"max"`` or ``"min"``.
        value: The best.
        step: The optimiser step it was logged at.
        examples: Of the validation set; None where that is not known.
        low: The lower end of the 95% interval; None where there is none.
        high: The upper end.
        majority: What always answering the commonest class gets; None where that is not known.
        known: The best that is known, of people or of another model; None where nobody said.
        previous: The same metric of the last run of the same configuration; None where there is none.
        previous_run: That run's name.
    """

    name: str
    mode: Mode
    value: float
    step: int
    examples: int | None = None
    low: float | None = None
    high: float | None = None
    majority: float | None = None
    known: float | None = None
    previous: float | None = None
    previous_run: str = ""

    @property
    def is_share(self) -> bool:
        """Whether it is a share of examples, so that it can be told in percent."""
        return is_share(self.name) and 0 <= self.value <= 1


def is_share(name: str) -> bool:
    """Whether a metric of this name is a share of examples."""
    return _word(name, SHARES) is not None


def mode_of(name: str) -> Mode | None:
    """Whether the highest or the lowest value of a metric is the best, by its name; None where that says nothing."""
    if _word(name, LEAST):
        return "min"
    return "max" if _word(name, BEST_IS_HIGH) else None


def main_metric(names: Sequence[str], wanted: Sequence[tuple[str, Mode]]) -> tuple[str, Mode] | None:
    """The metric by which to judge a run, and its mode.

    Args:
        names: Of the metrics that validation logged.
        wanted: Metrics with their modes that a checkpoint or early stopping goes by; the first that was logged counts.
            One that is no loss comes before one that is.
    """
    chosen = [one for one in wanted if one[0] in names]
    chosen.sort(key=lambda one: _word(one[0], ("loss",)) is not None)
    if chosen and _word(chosen[0][0], ("loss",)) is None:
        return chosen[0]
    for word in PREFERRED:
        found = next((name for name in names if _word(name, (word,))), None)
        mode = mode_of(found) if found else None
        if found and mode and (word != "loss" or not chosen):
            return found, mode
    return chosen[0] if chosen else None


def interval(share: float, examples: int) -> tuple[float, float]:
    """The 95% interval of a share of so many independent examples.

    Source: Wilson (1927), "Probable inference, the law of succession, and statistical inference".
    """
    from scipy.stats import binomtest  # takes longer to import than to draw a page

    right = min(examples, max(0, round(share * examples)))
    found = binomtest(right, examples).proportion_ci(CONFIDENCE, method="wilson")
    return float(found.low), float(found.high)


def probability(one: Score, other: Score) -> float | None:
    """How likely two runs that are equally good differ so much in their scores; None where that cannot be told.

    The test of two shares of independent sets of examples. On the same validation set runs differ less by chance than
    this says: what it calls a difference is one.
    """
    if not (one.is_share and other.is_share and one.examples and other.examples):
        return None
    pooled = (one.value * one.examples + other.value * other.examples) / (one.examples + other.examples)
    variance = pooled * (1 - pooled) * (1 / one.examples + 1 / other.examples)
    if variance <= 0:
        return 1.0
    return math.erfc(abs(one.value - other.value) / math.sqrt(2 * variance))


def differ(one: Score, other: Score) -> bool | None:
    """Whether the scores of two runs differ by more than chance; None where that cannot be told."""
    found = probability(one, other)
    return None if found is None else found < 1 - CONFIDENCE


def best_of(steps: Sequence[int], values: Sequence[float], mode: Mode) -> tuple[int, float] | None:
    """Step and value of the best of a series; None where none is finite."""
    pairs = [(value, step) for step, value in zip(steps, values, strict=True) if math.isfinite(value)]
    if not pairs:
        return None
    value, step = min(pairs, key=lambda pair: (-pair[0] if mode == "max" else pair[0], pair[1]))
    return step, value


def _word(name: str, words: Sequence[str]) -> str | None:
    """Which of these words is part of a metric's name, the first part after the split's counted from the end."""
    parts = _parts(name)
    return next((word for word in words if word in parts or any(part.endswith(word) for part in parts)), None)


def _parts(name: str) -> list[str]:
    for sign in "/_-. ":
        name = name.replace(sign, " ")
    return name.lower().split()
