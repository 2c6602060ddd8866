"""What the scores of several folds say together, though their training sets overlap."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

CONFIDENCE = 0.95


@dataclass(frozen=True)
class Resampled:
    """The mean of scores from splits of the same examples, with an interval that allows for their overlap.

    Scores of folds are not independent, for each two training sets share most of their examples. The usual standard
    error, which takes them for independent, is too small, and the more so the more splits there are. The corrected
    variance of the mean is `(1/J + test/train) * variance` (Nadeau and Bengio, 2003, "Inference for the generalization
    error", section 5); the interval is Student's t with `J - 1` degrees of freedom. It is for the score that is to be
    expected of models trained on as many examples as a fold has, on other data of the same kind.

    Attributes:
        count: Number of scores J, at least 2.
        mean: Their mean.
        deviation: Their standard deviation (with J - 1): how much a single split moves the score.
        ratio: Test examples for each training example of a split.
        bounds: Values that the score cannot pass, where the interval ends at the latest; None where there are none.
    """

    count: int
    mean: float
    deviation: float
    ratio: float
    bounds: tuple[float, float] | None = None

    @property
    def standard_error(self) -> float:
        """Of the mean, corrected."""
        return self.deviation * math.sqrt(1 / self.count + self.ratio)

    @property
    def interval(self) -> tuple[float, float]:
        """The two-sided 95% interval."""
        from scipy.stats import t

        half = float(t.ppf(0.5 + CONFIDENCE / 2, self.count - 1)) * self.standard_error
        least, most = self.bounds or (-math.inf, math.inf)
        return max(least, self.mean - half), min(most, self.mean + half)

    @property
    def p_value(self) -> float:
        """How likely scores so far from 0 are, if 0 is what is to be expected; for differences. 1 if all are 0."""
        from scipy.stats import t

        if self.standard_error == 0:
            return 1.0 if self.mean == 0 else 0.0
        return float(2 * t.sf(abs(self.mean) / self.standard_error, self.count - 1))


def resampled(scores: Sequence[float], ratio: float, bounds: tuple[float, float] | None = None) -> Resampled:
    """Mean, spread and interval of the scores of splits.

    Args:
        scores: One of each split, at least 2, all finite.
        ratio: Test examples for each training example of a split: 1 / (K - 1) for K folds.
        bounds: Values that the score cannot pass, as 0 and 1 of a share.

    Raises:
        ValueError: If there are fewer scores, one is not finite, or the ratio is not above 0.
    """
    values = np.asarray(scores, dtype=np.float64)
    if len(values) < 2 or not np.isfinite(values).all() or not ratio > 0:
        raise ValueError(
            f"Expected at least 2 finite scores and a ratio above 0, but got {list(scores)} and {ratio}: "
            "leave out the splits that have no score."
        )
    return Resampled(len(values), float(values.mean()), float(values.std(ddof=1)), ratio, bounds)


def paired(scores: Sequence[float], others: Sequence[float], ratio: float) -> Resampled:
    """The differences of two configurations on the same splits: the corrected resampled t-test.

    Args:
        scores: Of one configuration, one of each split.
        others: Of the other, on the same splits in the same order.
        ratio: As in `resampled`.

    Returns:
        Mean of `scores - others` with its interval and `p_value`.

    Raises:
        ValueError: As `resampled`; or if the numbers of scores differ.
    """
    if len(scores) != len(others):
        raise ValueError(f"Expected scores on the same splits, but got {len(scores)} and {len(others)} of them.")
    return resampled([one - other for one, other in zip(scores, others, strict=True)], ratio)
