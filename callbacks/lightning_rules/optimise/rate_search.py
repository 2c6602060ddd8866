"""Where the learning rate should be, judged from the losses of short runs: numbers in, numbers out."""

from __future__ import annotations

import math
from collections.abc import Callable, Generator, Sequence
from contextlib import closing
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from lightning_rules.rule import NotApplicable

Losses = NDArray[np.float64]
Run = Callable[[Sequence[float]], Generator[float, None, None]]

LOWEST, HIGHEST = 1e-7, 10.0
RANGE_STEPS = 120  # 15 a decade
QUIET_STEPS = 18  # the first 1.1 decades: at rates below 2e-6 a loss stays where it starts
TRIAL_STEPS = 100  # Goodfellow et al. (2016), section 8.3.1: "the first 100 iterations or so"
FEWEST_STEPS = 20  # of a run worth a search
SPACING = 10**0.5  # between candidates; half of it around the best
KERNEL = 3.0  # standard deviation of the smoothing, in steps of the range test
MOST_CANDIDATES = 12  # runs that diverge at once cost few steps
CLEARLY = 0.05  # of what the best candidate has won: less may be noise
CAP = 0.25  # of what the best candidate has won: further behind counts as this far
TELLING = 3.0  # standard errors by which the best candidate has to be below the start


@dataclass(frozen=True)
class RangeTest:
    """One short run in which the rate grows by a constant factor each step.

    Attributes:
        rates: The rate of each step, ``[steps]``.
        losses: The loss before that step, ``[steps]``; the run ended where it diverged.
        smoothed: The losses, smoothed over neighbouring steps without lag, ``[steps]``.
        start: The loss at which training starts: the mean over rates too small to change it.
        noise: Standard deviation of the loss from batch to batch there.
        steepest: The rate at which the smoothed loss falls fastest in the logarithm of the rate; None where its fall
            does not stand out from the noise.
    """

    rates: Losses
    losses: Losses
    smoothed: Losses
    start: float
    noise: float
    steepest: float | None


@dataclass(frozen=True)
class Candidate:
    """One short run at a constant rate.

    Attributes:
        rate: The rate.
        loss: Mean loss over the last fifth of its steps; infinite where it diverged.
        error: Standard error of that mean.
        losses: The loss at each step.
    """

    rate: float
    loss: float
    error: float
    losses: Losses = field(repr=False)


@dataclass(frozen=True)
class Search:
    """All that was seen, and the rate that comes of it.

    Attributes:
        range_test: The range test.
        candidates: The short runs, in the order in which they were made.
        best: The rate that is best after the short run, between candidates.
        rate: The suggestion: ``best``, lowered for a run that is longer and has no schedule.
        steps: How many optimiser steps were spent.
    """

    range_test: RangeTest
    candidates: list[Candidate]
    best: float
    rate: float
    steps: int


def search(run: Run, own_rate: float, run_steps: float, scheduled: bool, budget: int) -> Search:
    """A range test, then short runs around the rate where the loss falls fastest, then the best of them.

    Args:
        run: Makes a fresh run with the given rate at each step and yields the loss at each step.
        own_rate: The rate that the user has chosen, where candidates start if the range test says nothing.
        run_steps: How many optimiser steps the whole run will have; may be infinite.
        scheduled: Whether a schedule will lower the rate during the run.
        budget: How many steps may be spent.

    Raises:
        NotApplicable: The curves do not say which rate is best.
    """
    if run_steps < FEWEST_STEPS:
        raise NotApplicable(f"the whole run has {run_steps:.0f} steps, too few to search a rate for.")
    range_test = test_range(run)
    length = int(min(TRIAL_STEPS, run_steps))
    candidates = try_around(run, range_test, range_test.steepest or own_rate, length, budget - len(range_test.rates))
    best = judge(range_test, candidates)
    steps = len(range_test.losses) + sum(len(candidate.losses) for candidate in candidates)
    return Search(range_test, candidates, best, best * lowered(run_steps, length, scheduled), steps)


def lowered(run_steps: float, length: int, scheduled: bool) -> float:
    """By what a rate that is best after ``length`` steps is multiplied for the whole run.

    A schedule lowers the rate itself. A constant rate has to be low enough to end with little noise, and to stay
    stable: measured in benchmarks/lr_finder.py, the best rates are about 0.7 of it for 170 steps, 0.3 for 670.
    """
    return 1.0 if scheduled else float(np.clip((length / run_steps) ** 0.6, 0.32, 1.0))


def test_range(run: Run) -> RangeTest:
    """Let the rate grow from LOWEST to HIGHEST, until the loss diverges."""
    rates = np.geomspace(LOWEST, HIGHEST, RANGE_STEPS)
    losses: list[float] = []
    with closing(run(list(rates))) as steps:
        for loss in steps:
            losses.append(loss)
            if len(losses) > QUIET_STEPS and diverged(losses, losses[:QUIET_STEPS]):
                break
    seen = np.array([loss for loss in losses if math.isfinite(loss)])
    if len(seen) < QUIET_STEPS:
        raise NotApplicable(f"the loss is not finite at step {len(seen)} already, at a rate of {rates[len(seen)]:.1e}.")
    start, noise = float(seen[:QUIET_STEPS].mean()), float(seen[:QUIET_STEPS].std(ddof=1))
    smoothed = smooth(seen)
    return RangeTest(rates[: len(seen)], seen, smoothed, start, noise, steepest(rates, smoothed, start, noise))


def diverged(losses: Sequence[float], quiet: Sequence[float]) -> bool:
    """Whether the loss is not finite, or as far above the start as four times what it had won before."""
    if not math.isfinite(losses[-1]):
        return True
    start, noise = float(np.mean(quiet)), float(np.std(quiet))
    recent = np.lib.stride_tricks.sliding_window_view(np.asarray(losses), min(5, len(losses))).mean(1)
    won = max(start - float(recent.min()), 3 * noise, 1e-6 * abs(start))
    return bool(recent[-1] > start + 4 * won)


def smooth(losses: Losses) -> Losses:
    """Average over neighbouring steps with Gaussian weights that sum to 1 everywhere, so that nothing lags behind."""
    distance = np.arange(len(losses))[:, None] - np.arange(len(losses))
    weights = np.exp(-0.5 * (distance / KERNEL) ** 2)
    smoothed: Losses = weights @ losses / weights.sum(1)
    return smoothed


def steepest(rates: Losses, smoothed: Losses, start: float, noise: float) -> float | None:
    """Where the smoothed loss falls fastest in the logarithm of the rate, before its minimum."""
    lowest = int(smoothed.argmin())
    if start - smoothed[lowest] <= max(2 * noise, 1e-6 * abs(start)) or lowest == 0:
        return None
    slope = np.gradient(smoothed, np.log(rates[: len(smoothed)]))
    return float(rates[slope[: lowest + 1].argmin()])


def try_around(run: Run, range_test: RangeTest, first: float, length: int, budget: int) -> list[Candidate]:
    """Candidates by factors of SPACING, until both sides are clearly worse; then two at half the spacing."""
    tried: dict[float, Candidate] = {}

    def attempt(place: float) -> None:
        tried[place] = try_rate(run, range_test, first * SPACING**place, length)

    def affordable() -> bool:
        spent = sum(len(candidate.losses) for candidate in tried.values())
        return spent + length <= budget and len(tried) < MOST_CANDIDATES

    attempt(0)
    while affordable() and (place := _next_place(tried, range_test.start)) is not None:
        attempt(place)
    best = _best_place(tried)
    for place in (best - 0.5, best + 0.5):
        if affordable():
            attempt(place)
    return list(tried.values())


def _best_place(tried: dict[float, Candidate]) -> float:
    return min(tried, key=lambda place: (tried[place].loss, place))


def _next_place(tried: dict[float, Candidate], start: float) -> float | None:
    """Beside the best, then outwards on either side until a candidate is clearly worse; None where both sides are."""
    best = _best_place(tried)
    lost = math.isinf(tried[best].loss)
    beside = [place for place in ((best - 1, best + 1) if lost else (best + 1, best - 1)) if place not in tried]
    if beside:
        return beside[0]
    worse = tried[best].loss + CLEARLY * (start - tried[best].loss)
    for edge, step in ((max(tried), 1), (min(tried), -1)):
        if tried[edge].loss < worse:
            return edge + step
    return None


def try_rate(run: Run, range_test: RangeTest, rate: float, length: int) -> Candidate:
    """A short run at one rate; its loss is infinite if it diverges."""
    quiet = range_test.losses[:QUIET_STEPS].tolist()
    losses: list[float] = []
    with closing(run([rate] * length)) as steps:
        for loss in steps:
            losses.append(loss)
            if diverged(losses, quiet):
                return Candidate(rate, math.inf, 0.0, np.array(losses))
    tail = np.array(losses[-max(5, length // 5) :])
    return Candidate(rate, float(tail.mean()), float(tail.std(ddof=1) / math.sqrt(len(tail))), np.array(losses))


def judge(range_test: RangeTest, candidates: Sequence[Candidate]) -> float:
    """The rate at which the loss after the short runs is lowest: the vertex of a parabola fitted around the best.

    Raises:
        NotApplicable: No candidate is better than no training, or the best is the outermost.
    """
    ordered = sorted(candidates, key=lambda candidate: candidate.rate)
    place = min(range(len(ordered)), key=lambda i: ordered[i].loss)
    best = ordered[place]
    won = range_test.start - best.loss
    low, high = ordered[0].rate, ordered[-1].rate
    if not won > TELLING * math.hypot(best.error, range_test.noise / math.sqrt(QUIET_STEPS)):
        end = f"ends at {best.loss:.4g} at best" if math.isfinite(best.loss) else "diverges at all of them"
        raise NotApplicable(
            f"{len(best.losses)} steps at rates from {low:.1e} to {high:.1e} do not lower the loss beyond its noise "
            f"from batch to batch: it starts at {range_test.start:.4g} and {end}."
        )
    if place in (0, len(ordered) - 1):
        raise NotApplicable(
            f"the best of the rates tried, {best.rate:.1e}, is the {'lowest' if place == 0 else 'highest'} of them, "
            "and the budget of steps is spent: give a larger `budget`."
        )
    return vertex(ordered, won)


def vertex(candidates: Sequence[Candidate], won: float) -> float:
    """The vertex of a parabola in the logarithm of the rate, fitted to the bowl and its two walls.

    Within a wide bowl the best candidate is best by luck; its walls say where its middle is. Losses are capped at a
    quarter of what the best has won, so that a wall counts as a wall, however high.
    """
    rates = np.log([candidate.rate for candidate in candidates])
    losses = np.array([candidate.loss for candidate in candidates])
    behind = np.minimum((losses - losses.min()) / won, CAP)
    best = int(behind.argmin())
    walls = np.flatnonzero(behind == CAP)
    bowl = slice(max(walls[walls < best], default=0), min(walls[walls > best], default=len(rates)) + 1)
    rates, behind = rates[bowl], behind[bowl]
    middle = rates.mean()
    square, slope, _ = np.polyfit(rates - middle, behind, 2)
    if square <= 0:
        return float(np.exp(rates[behind.argmin()]))
    return float(np.exp(np.clip(middle - slope / (2 * square), rates.min(), rates.max())))
