"""Values over a run in a bounded number of points."""

from __future__ import annotations

from dataclasses import dataclass, field

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

    Args:
        values: Finite.
        width: Of neighbours; at most as many as there are values.
    """
    from scipy.signal import savgol_filter

    odd = min(width, len(values)) // 2 * 2 - 1
    return [float(value) for value in savgol_filter(values, odd, 1)] if odd >= 3 else list(values)
