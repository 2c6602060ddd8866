"""The slope of a function at a point by central differences, and how far it can be trusted."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

WRONG = 1e-3  # relative error (Ng, course 2: 1e-7 is right, 1e-5 is worth a look, 1e-3 is wrong)
SURE = 10.0  # times the uncertainty of the numeric slope
KINK = 0.05  # what the slopes on the two sides differ by, as a part of the larger, where there is a kink


@dataclass(frozen=True)
class Slope:
    """A slope by autograd beside one by differences.

    Attributes:
        analytic: By autograd.
        numeric: By central differences of two step sizes, extrapolated.
        uncertainty: What the two step sizes, and rounding, leave open of ``numeric``.
        left: The slope of the shorter step to the left.
        right: The slope of the shorter step to the right.
    """

    analytic: float
    numeric: float
    uncertainty: float
    left: float
    right: float

    @property
    def error(self) -> float:
        """The relative error, |analytic - numeric| / max(|analytic|, |numeric|)."""
        largest = max(abs(self.analytic), abs(self.numeric))
        return abs(self.analytic - self.numeric) / largest if largest > 0 else 0.0

    @property
    def resolved(self) -> bool:
        """Whether the differences are precise enough to see an error of that size."""
        return SURE * self.uncertainty < max(abs(self.analytic), abs(self.numeric))

    @property
    def wrong(self) -> bool:
        """Whether the two differ beyond doubt."""
        if not math.isfinite(self.numeric):  # the function ends nearby: nothing to compare with
            return False
        apart = abs(self.analytic - self.numeric)
        return not math.isfinite(self.analytic) or (self.error > WRONG and apart > SURE * self.uncertainty)

    @property
    def kink(self) -> bool:
        """Whether the function has two slopes here, as ReLU at zero: autograd may give either, or one between."""
        return abs(self.right - self.left) > KINK * max(abs(self.right), abs(self.left))


def slope(
    function: Callable[[float], float], analytic: float, here: float, step: float, epsilon: float = 2.3e-16
) -> Slope:
    """Differentiate a function of one number at 0.

    Args:
        function: Evaluated at four points.
        analytic: Its slope by autograd.
        here: Its value at 0.
        step: The larger of the two step sizes.
        epsilon: The relative rounding error of a value.
    """
    (far_left, far_right), (left, right) = ((function(-h), function(h)) for h in (step, step / 2))
    coarse, fine = (far_right - far_left) / (2 * step), (right - left) / step
    rounding = 8 * epsilon * max(abs(here), abs(right), abs(left)) / step
    uncertainty = abs(fine - coarse) + rounding
    return Slope(
        analytic=analytic,
        numeric=fine + (fine - coarse) / 3,
        uncertainty=uncertainty,
        left=(here - left) / (step / 2),
        right=(right - here) / (step / 2),
    )
