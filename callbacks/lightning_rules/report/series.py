"""Values over a run in a bounded number of points."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

POINTS = 256  # of a series; then every second one is left out


@dataclass
class Series:
    """Values at steps, in order; at most 256 of them, evenly over the run.

    Attributes:
        steps: The optimiser steps.
        values: What was seen there.
        every: Every how many values one is kept.
        count: How many values there were.
    """

    steps: list[int] = field(default_factory=list)
    values: list[float] = field(default_factory=list)
    every: int = 1
    count: int = 0

    def add(self, step: int, value: float) -> None:
        """Take a value in. The latest stands at the end whether it is kept or not, until the next comes."""
        if self.steps and (self.count - 1) % self.every:
            del self.steps[-1], self.values[-1]
        self.steps.append(step)
        self.values.append(value)
        self.count += 1
        if len(self.steps) > POINTS:
            del self.steps[1::2], self.values[1::2]
            self.every *= 2


def smoothed(values: list[float], width: int) -> list[float]:
    """Averages over as many neighbours; unlike running averages, they do not lag behind (Savitzky and Golay, 1964).

    At both ends stands the line through the outermost neighbours. The same as ``scipy.signal.savgol_filter`` of order
    1, whose import takes longer than to draw a page.

    Args:
        values: Finite.
        width: Of neighbours; at most as many as there are values.
    """
    odd = min(width, len(values)) // 2 * 2 - 1
    if odd < 3:
        return list(values)
    half, places = odd // 2, np.arange(odd)
    ends = [np.polyval(np.polyfit(places, part, 1), places) for part in (values[:odd], values[-odd:])]
    middle = np.convolve(values, np.full(odd, 1 / odd), "valid")
    return [float(value) for value in (*ends[0][:half], *middle, *ends[1][-half:])]
