"""From values of an axis to shares of its length, for figures that lay out several axes by themselves."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from lightning_rules.exhibit import Axis
from lightning_rules.report.style import around, finite, number, plain, power_of_ten


@dataclass(frozen=True)
class Scale:
    """An axis with its ends.

    Attributes:
        axis: What lies on it.
        low: The least value that was seen.
        high: The greatest, above it.
    """

    axis: Axis
    low: float
    high: float

    def shares(self, values: Sequence[float | None]) -> list[float]:
        """Where values lie, from 0 to 1 along the axis; NaN for those that it cannot show."""
        known = finite(values, self.axis.scale == "log")
        return [(self._bent(value) - self._bent(self.low)) / (self._bent(self.high) - self._bent(self.low))
                for value in known]  # fmt: skip

    def _bent(self, value: float) -> float:
        return math.log10(value) if self.axis.scale == "log" else value

    def ticks(self, most: int) -> list[tuple[float, str]]:
        """Shares of the length, each with what stands there.

        Args:
            most: How many, at most about; of categories all.
        """
        from matplotlib.ticker import LogLocator, MaxNLocator

        if self.axis.scale == "categories":
            places = list(range(len(self.axis.categories)))
            return list(zip(self.shares(places), map(plain, self.axis.categories), strict=True))
        is_log, is_whole = self.axis.scale == "log", self.axis.scale == "whole"
        leading = (1.0, 2.0, 5.0) if self.high < 100 * self.low else (1.0,)  # digits, within two decades
        locator = LogLocator(10, leading, numticks=most) if is_log else MaxNLocator(most, integer=is_whole)
        values = [float(tick) for tick in locator.tick_values(self.low, self.high)]
        values = [value for value in values if -0.001 <= self.shares([value])[0] <= 1.001]
        if len(values) < 2:
            values = [float(f"{end:.2g}") for end in (self.low, self.high)]
        told = [power_of_ten(value) if is_log else number(value) for value in values]
        return list(zip(self.shares(values), told, strict=True))


def scale_of(axis: Axis, values: Sequence[float | None]) -> Scale:
    """The axis from the least to the greatest of the values; of categories with room at both ends."""
    if axis.scale == "categories":
        return Scale(axis, -0.5, max(1, len(axis.categories)) - 0.5)
    ends = [end for end in (axis.low, axis.high) if end is not None]
    known = [value for value in finite([*values, *ends], axis.scale == "log") if not math.isnan(value)]
    low, high = (min(known), max(known)) if known else (1.0, 10.0)
    if axis.scale == "log":
        return Scale(axis, low, high) if high > 1.001 * low else Scale(axis, low / 3, high * 3)
    if high - low <= 1e-9 * max(abs(low), abs(high)):
        low, high = (low - 1, high + 1) if axis.scale == "whole" else around(low)
    return Scale(axis, low, high)


def steps_of(values: Sequence[float | None], steps: int) -> list[int]:
    """From 0 to ``steps`` - 1: in which part of the values, put in order, each lies; what is unknown in the first.

    By order and not by size, so that one value far off does not make all others look alike.
    """
    known = sorted({value for value in finite(values) if not math.isnan(value)})
    at = {value: min(steps - 1, place * steps // max(1, len(known))) for place, value in enumerate(known)}
    if len(known) == 1:
        at = {known[0]: steps - 1}
    return [at.get(value, 0) for value in finite(values)]
