"""The law by which error falls with the number of training examples, and how much more of them it asks for.

error(n) = floor + scale * n ** -exponent, as Hestness et al. (2017, "Deep Learning Scaling is Predictable,
Empirically") measured it over many tasks.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Numbers = NDArray[np.float64]

STEEPEST = 2.0
EXPONENTS = np.geomspace(0.02, STEEPEST, 200)
PARAMETERS = 3
REFITS = 1000
BORROWED = 10.0  # degrees of freedom that the spread usual at all sizes has in that of each
LEVEL = 0.95
FAR = 10.0  # times the data: what is said of more is a guess


@dataclass(frozen=True)
class PowerLaw:
    """A law, and those of as many resampled sets of fits, for intervals.

    Attributes:
        sizes: Numbers of training examples, ascending.
        errors: Means of the fits of each size.
        floor: What no amount of such data goes under, at least 0.
        scale: Error above the floor at one example, by extrapolation.
        exponent: How fast the error falls, up to 2.
        refits: ``[refits, 3]``: floor, scale and exponent of each resampled set.
        slopes: ``[refits]``: of a straight line through error over log n, for whether anything falls at all.
        misfit: How likely points of such a law lie so far from it (F-test of the lack of fit); None where the number
            of sizes leaves nothing to test.
    """

    sizes: Numbers
    errors: Numbers
    floor: float
    scale: float
    exponent: float
    refits: Numbers
    slopes: Numbers
    misfit: float | None

    def at(self, n: float) -> float:
        """Error that the law says for so many examples."""
        return float(self.floor + self.scale * n**-self.exponent)

    def between(self, n: float) -> tuple[float, float]:
        """The 95% interval of the error that the law says for so many examples."""
        return interval(_value(self.refits, n))

    def floor_between(self) -> tuple[float, float]:
        """The 95% interval of the floor."""
        return interval(self.refits[:, 0])

    def gain_of_doubling(self) -> tuple[float, float, float]:
        """By how much the error falls with twice the largest size: the law's word, and its 95% interval."""
        most = self.sizes[-1]
        gains = _value(self.refits, most) - _value(self.refits, 2 * most)
        return self.at(most) - self.at(2 * most), *interval(gains)

    @property
    def is_falling(self) -> bool:
        """Whether the errors fall with the number of examples, by more than chance."""
        return bool(np.quantile(self.slopes, (1 + LEVEL) / 2) < 0)


def fit_power_law(
    fits: Mapping[int, Sequence[float]], validation: int | None = None, seed: int = 0, refits: int = REFITS
) -> PowerLaw:
    """Fit the law to the errors of repeated fits, by weighted least squares, and again to resampled ones.

    For each exponent of a fine grid the best floor and scale follow in closed form (variable projection, Golub and
    Pereyra, 1973), so that no start matters. Each size weighs by the variance of its mean; so few repeats tell little
    of it, so the observed one is moved towards what is usual at all sizes (Smyth, 2004): a multiple of the binomial
    variance, where errors are shares. Resampled are the fits of each size, by their deviations from its mean, which
    are pooled over all sizes and enlarged by what a mean of few takes from them (Davison and Hinkley, 1997, section
    6.2.3) and, as Student's t is wider than a normal distribution, for so few fits.

    Args:
        fits: The errors of the fits for each number of training examples: at least 4 sizes, 2 fits each.
        validation: Number of validation examples, where errors are shares of them; None where they are not.
        seed: Of the resampling.
        refits: Number of resampled sets.

    Raises:
        ValueError: If there are too few sizes or fits, or an error is not finite or below 0.
    """
    _check(fits)
    sizes = np.array(sorted(fits), dtype=np.float64)
    groups = [np.asarray(fits[int(size)], dtype=np.float64) for size in sizes]
    means, counts = np.array([group.mean() for group in groups]), np.array([len(group) for group in groups])
    spreads = _spreads(groups, means, validation)
    weights = counts / spreads**2
    floor, scale, exponent = _fit(sizes, means[None], weights)[0]
    again = _resampled(groups, means, spreads, np.random.default_rng(seed), refits)
    law = _fit(sizes, again, weights)
    slopes = _slopes(sizes, again, weights)
    misfit = _misfit(groups, means - floor - scale * sizes**-exponent, spreads)
    return PowerLaw(sizes, means, float(floor), float(scale), float(exponent), law, slopes, misfit)


def _check(fits: Mapping[int, Sequence[float]]) -> None:
    if len(fits) <= PARAMETERS:
        raise ValueError(
            f"A power law has three numbers to be found, and errors are known for {len(fits)} sizes: train on at least "
            f"{PARAMETERS + 1}, as with --sizes 6."
        )
    few = min(map(len, fits.values()))
    if few < 2:
        raise ValueError(f"The spread at a size needs at least 2 fits, and there is {few} of one: give --repeats 3.")
    wrong = [error for errors in fits.values() for error in errors if not math.isfinite(error) or error < 0]
    if wrong:
        raise ValueError(f"A power law is fitted to errors of at least 0, but one is {wrong[0]:g}.")


def _spreads(groups: Sequence[Numbers], means: Numbers, validation: int | None) -> Numbers:
    """Standard deviations of single fits at each size."""
    freedom = np.array([len(group) - 1 for group in groups], dtype=np.float64)
    observed = np.array([group.var(ddof=1) for group in groups])
    if validation is None:
        usual = np.maximum(means, 1e-12) ** 2
    else:
        share = (means * validation + 1) / (validation + 2)  # no mistake among a few says little
        usual = share * (1 - share) / validation
    multiple = float((freedom * observed / usual).sum() / freedom.sum())
    moderated = (freedom * observed + BORROWED * multiple * usual) / (freedom + BORROWED)
    least = 1e-8 * max(float(means.max()), 1e-6) ** 2  # fits that are all alike
    spreads: Numbers = np.sqrt(np.maximum(moderated, least))
    return spreads


def _resampled(
    groups: Sequence[Numbers], means: Numbers, spreads: Numbers, random: np.random.Generator, refits: int
) -> Numbers:
    """``[refits, sizes]``: means of resampled fits."""
    from scipy.stats import norm, t

    counts = [len(group) for group in groups]
    end = (1 + LEVEL) / 2
    wider = t.ppf(end, sum(counts) - len(counts)) / norm.ppf(end)
    each = zip(groups, means, spreads, counts, strict=True)
    scaled = [(group - mean) / spread * math.sqrt(count / (count - 1)) for group, mean, spread, count in each]
    pool = wider * np.concatenate(scaled)
    drawn = [random.choice(pool, (refits, count)).mean(axis=1) for count in counts]
    resampled: Numbers = means + spreads * np.stack(drawn, axis=1)
    return resampled


def _fit(sizes: Numbers, errors: Numbers, weights: Numbers) -> Numbers:
    """``[sets, 3]``: floor, scale and exponent of each row of ``errors`` (``[sets, sizes]``), floor and scale >= 0."""
    best = np.full(len(errors), np.inf)
    law = np.zeros((len(errors), PARAMETERS))
    mean = errors @ weights / weights.sum()
    unit = sizes / sizes[0]  # so that the powers of large numbers do not vanish
    for exponent in EXPONENTS:
        falling = unit**-exponent
        centre = falling @ weights / weights.sum()
        scale = np.maximum((errors - mean[:, None]) @ (weights * (falling - centre)), 0.0)
        scale /= (weights * (falling - centre) ** 2).sum()
        floor = mean - scale * centre
        alone = np.maximum(errors @ (weights * falling), 0.0) / (weights * falling**2).sum()
        scale, floor = np.where(floor < 0, alone, scale), np.maximum(floor, 0.0)
        loss = (errors - floor[:, None] - scale[:, None] * falling) ** 2 @ weights
        better = loss < best
        best = np.where(better, loss, best)
        found = np.stack([floor, scale * sizes[0] ** exponent, np.full_like(floor, exponent)], axis=1)
        law[better] = found[better]
    return law


def _slopes(sizes: Numbers, errors: Numbers, weights: Numbers) -> Numbers:
    along = np.log(sizes)
    weighed = weights * (along - along @ weights / weights.sum())
    slopes: Numbers = errors @ weighed / (weighed @ along)
    return slopes


def _misfit(groups: Sequence[Numbers], residuals: Numbers, spreads: Numbers) -> float | None:
    from scipy.stats import f

    freedom = len(groups) - PARAMETERS
    counts = np.array([len(group) for group in groups])
    lack = float((counts * (residuals / spreads) ** 2).sum()) / freedom
    return float(f.sf(lack, freedom, (counts - 1).sum())) if freedom > 0 else None


def _value(laws: Numbers, n: float) -> Numbers:
    values: Numbers = laws[:, 0] + laws[:, 1] * n ** -laws[:, 2]
    return values


def interval(values: Any) -> tuple[float, float]:
    """The middle 95% of values, some of which may be infinite."""
    ordered = np.sort(np.asarray(values, dtype=np.float64))
    outside = (1 - LEVEL) / 2 * (len(ordered) - 1)
    return float(ordered[math.floor(outside)]), float(ordered[math.ceil(len(ordered) - 1 - outside)])


def needed(law: PowerLaw, part: float = 1.0, less: float = 0.0) -> tuple[float, float, float]:
    """How many training examples in all bring the error at the largest size to a part of it, or so much lower.

    Args:
        law: The law.
        part: What the error is multiplied by, above 0.
        less: What is then taken from it, at least 0.

    Returns:
        The law's word and its 95% interval, all of which may be infinite.
    """
    own = np.array([[law.floor, law.scale, law.exponent]])
    found = [_needed(laws, part * _value(laws, law.sizes[-1]) - less) for laws in (own, law.refits)]
    return float(found[0][0]), *interval(found[1])


def _needed(laws: Numbers, targets: Numbers) -> Numbers:
    above = targets - laws[:, 0]
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        counts = (laws[:, 1] / above) ** (1 / laws[:, 2])
    return np.where((above > 0) & (laws[:, 1] > 0), counts, np.inf)
