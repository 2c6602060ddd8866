"""The curve of a loss in a few numbers."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from statistics import fmean, median

from scipy.stats import kendalltau

from lightning_rules.watch.loss_history import LossHistory

TREND = 0.05  # chance of such a fall or rise if there were none
WIDTH = 4  # blocks before and behind a jump


@dataclass(frozen=True)
class Curve:
    """A history in a few numbers: levels of its thirds, and how sure they are.

    Attributes:
        start: The mean of the first losses.
        thirds: The mean loss of each third of the run.
        error: The standard error of the mean of a third, from how much neighbouring blocks differ.
        falls: Whether the last two thirds fall by more than chance (Mann-Kendall).
        rises: Whether the last two thirds rise by more than chance.
    """

    start: float
    thirds: tuple[float, float, float]
    error: float
    falls: bool
    rises: bool

    @classmethod
    def of(cls, history: LossHistory) -> Curve:
        """Summarise a history of at least a few dozen losses."""
        means = history.means
        third = max(1, len(means) // 3)
        parts = means[:third], means[third:-third], means[-third:]
        steps = sorted(abs(b - a) for a, b in pairwise(means))
        noise = max(median(steps) / 0.954, fmean(steps) / 1.128)  # of the difference of two normal values
        tail = means[third:]
        tau, chance = kendalltau(range(len(tail)), tail)
        sure = math.isfinite(tau) and chance / 2 < TREND
        return cls(
            start=fmean(history.first[:8]),
            thirds=(fmean(parts[0]), fmean(parts[1]), fmean(parts[2])),
            error=noise / third**0.5,
            falls=bool(sure and tau < 0),
            rises=bool(sure and tau > 0),
        )

    @property
    def accelerates(self) -> bool:
        """Whether the curve falls at least twice as fast from its second third to its last as before."""
        first, middle, last = self.thirds
        return middle < first and last - middle < 2 * (middle - first)


def epoch_of_jump(means: Sequence[float], block: int, epoch: float, least: float) -> int | None:
    """The epoch, counted from 0, at whose beginning a curve jumps up; None where it jumps nowhere or elsewhere.

    Args:
        means: Means of blocks of losses, in order.
        block: Losses in a block.
        epoch: Losses in an epoch.
        least: How far it must jump from the four blocks before to the four behind.
    """
    starts = range(WIDTH, len(means) - WIDTH + 1)
    jumps = {place: fmean(means[place : place + WIDTH]) - fmean(means[place - WIDTH : place]) for place in starts}
    place = max(jumps, key=jumps.__getitem__, default=0)
    if not place or jumps[place] < least or not 4 * block < epoch < math.inf:
        return None
    nearest = round(place * block / epoch)
    return nearest if abs(place * block - nearest * epoch) <= 2 * block else None


def deviation(values: Sequence[float]) -> float:
    """The standard deviation of values."""
    mean = fmean(values)
    return math.sqrt(fmean((value - mean) ** 2 for value in values))


def correlation_of_neighbours(values: Sequence[float]) -> float:
    """How a value goes along with the one before: -1 where they alternate; 0 where all are equal."""
    mean, variance = fmean(values), deviation(values) ** 2
    if variance == 0.0:
        return 0.0
    pairs = pairwise(values)
    return sum((a - mean) * (b - mean) for a, b in pairs) / (len(values) * variance)
