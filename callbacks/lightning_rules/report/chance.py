"""Whether differences between runs are more than chance: two runs, or several of one configuration against others."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from lightning_rules.report.score import CONFIDENCE

LEVEL = 1 - CONFIDENCE


@dataclass(frozen=True)
class Spread:
    """Scores of several runs of one configuration.

    Attributes:
        count: How many.
        mean: Their mean.
        deviation: Their standard deviation (with ``count - 1``); NaN of one run.
    """

    count: int
    mean: float
    deviation: float

    @property
    def interval(self) -> tuple[float, float] | None:
        """The 95% interval of the mean (Student's t); None of one run."""
        from scipy.stats import t

        if self.count < 2:
            return None
        half = float(t.ppf(1 - LEVEL / 2, self.count - 1)) * self.deviation / math.sqrt(self.count)
        return self.mean - half, self.mean + half


def spread_of(values: Sequence[float]) -> Spread:
    """Count, mean and standard deviation of one score or more."""
    mean = math.fsum(values) / len(values)
    squares = math.fsum((value - mean) ** 2 for value in values)
    return Spread(len(values), mean, math.sqrt(squares / (len(values) - 1)) if len(values) > 1 else math.nan)


def welch(one: Spread, other: Spread) -> float | None:
    """How likely two configurations that are equally good differ so much, by Welch's t-test (1947).

    None where one of them has a single run, or neither scatters at all: then nothing is known of chance.
    """
    from scipy.stats import ttest_ind_from_stats

    if min(one.count, other.count) < 2 or one.deviation + other.deviation <= 1e-12 * abs(one.mean):
        return None
    found = ttest_ind_from_stats(
        one.mean, one.deviation, one.count, other.mean, other.deviation, other.count, equal_var=False
    )
    return float(found.pvalue)


def holm(found: Sequence[float | None]) -> list[float | None]:
    """Probabilities corrected for their number, so that of all the differences called real none is, 19 times in 20.

    Source: Holm (1979), "A simple sequentially rejective multiple test procedure".

    Args:
        found: Of each comparison; None where there is none, which stays.
    """
    known = sorted((value, place) for place, value in enumerate(found) if value is not None)
    corrected: list[float | None] = [None] * len(found)
    least = 0.0
    for rank, (value, place) in enumerate(known):
        least = max(least, min(1.0, value * (len(known) - rank)))
        corrected[place] = least
    return corrected
