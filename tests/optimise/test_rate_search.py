"""Where the rate should be, judged from losses of known shape."""

from __future__ import annotations

import math
from collections.abc import Generator, Sequence

import numpy as np
import pytest
from lightning.pytorch.tuner.lr_finder import _LRFinder

from lightning_rules.optimise import rate_search
from lightning_rules.optimise.rate_search import Candidate, RangeTest, Run, search
from lightning_rules.rule import NotApplicable

Steps = Generator[float, None, None]
CURVATURES = np.array([1.0, 10.0, 100.0])  # gradient descent is unstable above 2/100, and best just below
STABLE = 2 / 100


def bowl(shift: float = 0.0, scale: float = 1.0, noise: float = 0.02, count: list[int] | None = None) -> Run:
    """Gradient descent in a bowl, as a run sees it; `count` is appended to with each step."""

    def run(rates: Sequence[float]) -> Steps:
        draw = np.random.default_rng(0)
        weights = np.ones(3)
        for rate in rates:
            if count is not None:
                count.append(1)
            with np.errstate(over="ignore", invalid="ignore"):
                yield float(scale * ((CURVATURES * weights**2).sum() / 111 + noise * draw.standard_normal()) + shift)
                weights = weights - rate * CURVATURES * weights

    return run


def flat(rates: Sequence[float]) -> Steps:
    yield from [1.0] * len(rates)


def noisy(rates: Sequence[float]) -> Steps:
    yield from np.random.default_rng(0).standard_normal(len(rates)).tolist()


def exploding(rates: Sequence[float]) -> Steps:
    """Not finite from the second step on, at any constant rate."""
    yield from (1.0 if len(set(rates)) > 1 or number == 0 else math.nan for number, _ in enumerate(rates))


def found(run: Run, own_rate: float = 1e-3, run_steps: float = 1e4, scheduled: bool = True, budget: int = 800) -> float:
    return search(run, own_rate, run_steps, scheduled, budget).rate


def test_finds_a_stable_rate_as_good_as_the_best() -> None:
    result = search(bowl(), 1e-3, 1e4, True, 800)
    best = min(one.loss for one in result.candidates)
    assert result.rate < STABLE
    assert np.mean(list(bowl()([result.rate] * 100))[-20:]) - best < 0.01 * (result.range_test.start - best)


@pytest.mark.parametrize(("shift", "scale"), [(-50.0, 1.0), (0.0, 1e-3), (3e4, 1e4)])
def test_shift_and_scale_of_the_loss_change_nothing(shift: float, scale: float) -> None:
    """A negative log-likelihood may be negative; Lightning's finder returns nonsense or fails there."""
    assert found(bowl(shift, scale)) == pytest.approx(found(bowl()), rel=1e-3)


def test_the_users_rate_is_where_candidates_start_only_if_the_range_test_says_nothing() -> None:
    def slow(rates: Sequence[float]) -> Steps:
        """Falls only where a rate near 1e-3 is held for long."""
        held = 0.0
        draw = np.random.default_rng(0)
        for rate in rates:
            held += math.exp(-(math.log10(rate / 1e-3) ** 2) * 4) if len(set(rates)) == 1 else 0
            yield 2 - 0.01 * held + 0.01 * draw.standard_normal()

    assert 3e-4 < found(slow, own_rate=1e-3) < 3e-3
    with pytest.raises(NotApplicable, match="do not lower the loss"):
        found(slow, own_rate=10.0, budget=420)


@pytest.mark.parametrize("run", [flat, noisy])
def test_refuses_curves_that_say_nothing(run: Run) -> None:
    with pytest.raises(NotApplicable, match="do not lower the loss beyond its noise"):
        found(run)


def test_refuses_where_every_rate_diverges() -> None:
    with pytest.raises(NotApplicable, match="diverges at all of them"):
        found(exploding)


def test_refuses_a_loss_that_is_never_finite() -> None:
    with pytest.raises(NotApplicable, match="not finite at step 0"):
        found(lambda rates: (math.nan for _ in rates))


def test_refuses_where_the_budget_ends_before_the_best_is_enclosed() -> None:
    def ever_better(rates: Sequence[float]) -> Steps:
        total = np.cumsum(rates)
        yield from (1 - 0.1 * np.log10(1 + total / 1e-9)).tolist() if len(set(rates)) == 1 else flat(rates)

    with pytest.raises(NotApplicable, match="is the highest of them, and the budget of steps is spent"):
        found(ever_better, own_rate=1e-6)


def test_refuses_a_run_too_short_to_search_for() -> None:
    with pytest.raises(NotApplicable, match="the whole run has 19 steps"):
        found(bowl(), run_steps=19)


@pytest.mark.parametrize("budget", [520, 650, 800])
def test_keeps_to_the_budget(budget: int) -> None:
    count: list[int] = []
    steps = search(bowl(count=count), 1e-3, 1e4, True, budget).steps
    assert steps == len(count) <= budget
    assert steps > 400


def test_every_iterator_is_closed() -> None:
    """Closing is what puts the run's state back."""
    left = []

    def run(rates: Sequence[float]) -> Steps:
        try:
            yield from bowl()(rates)
        finally:
            left.append(1)

    result = search(run, 1e-3, 1e4, True, 800)
    assert len(left) == 1 + len(result.candidates)


def test_a_constant_rate_is_lower_for_a_longer_run_and_a_schedule_does_it_itself() -> None:
    best = found(bowl(), scheduled=True)
    rates = [found(bowl(), run_steps=steps, scheduled=False) for steps in (100, 200, 400, math.inf)]
    assert rates[0] == pytest.approx(best)
    assert rates == sorted(rates, reverse=True)
    assert rates[-1] == pytest.approx(0.32 * best)


def test_short_runs_are_no_longer_than_the_run() -> None:
    result = search(bowl(), 1e-3, 30, False, 800)
    assert {len(candidate.losses) for candidate in result.candidates} <= {*range(31)}


def curve(drop: float = 1e-2, noise: float = 0.0) -> tuple[np.ndarray, np.ndarray]:
    """A range test whose loss falls fastest, in the logarithm of the rate, at `drop`."""
    rates = np.geomspace(rate_search.LOWEST, rate_search.HIGHEST, rate_search.RANGE_STEPS)
    fall = 1 / (1 + np.exp(-2 * np.log10(rates / drop)))
    return rates, 2.3 - 2 * fall + noise * np.random.default_rng(0).standard_normal(len(rates))


def test_slope_is_taken_in_the_logarithm_of_the_rate() -> None:
    rates, losses = curve()
    ours = rate_search.steepest(rates, rate_search.smooth(losses), 2.3, 0.01)
    assert ours == pytest.approx(1e-2, rel=0.2)
    # Lightning 2.6.6 differentiates in the rate itself, where a curve over decades is steepest far to the left.
    theirs = _LRFinder("exponential", 1e-7, 10, len(rates))
    theirs.results = {"lr": rates.tolist(), "loss": losses.tolist()}
    suggestion = theirs.suggestion()
    assert suggestion is not None
    assert suggestion < 1e-5


def test_smoothing_has_no_lag_and_no_bias_at_the_ends() -> None:
    line = np.linspace(3.0, 1.0, 50)
    smoothed = rate_search.smooth(line)
    assert smoothed[15:-15] == pytest.approx(line[15:-15])
    assert rate_search.smooth(np.full(50, 2.0)) == pytest.approx(np.full(50, 2.0))
    step = np.r_[np.zeros(25), np.ones(25)]
    assert rate_search.smooth(step)[24:26].mean() == pytest.approx(0.5)


def candidate(rate: float, loss: float, error: float = 0.01) -> Candidate:
    return Candidate(rate, loss, error, np.full(100, loss))


def test_vertex_of_a_parabola() -> None:
    def parabola(rate: float) -> float:
        return (math.log(rate) - math.log(2e-3)) ** 2

    candidates = [candidate(rate, parabola(rate)) for rate in (1e-3, 1.8e-3, 3e-3, 5.5e-3, 1e-2)]
    assert rate_search.vertex(candidates, won=100) == pytest.approx(2e-3)


def test_a_candidate_that_diverged_counts_as_no_more_than_poor() -> None:
    def beside(loss: float) -> float:
        return rate_search.vertex([candidate(1e-3, 0.3), candidate(3e-3, 0.2), candidate(9e-3, loss)], won=2.0)

    assert beside(math.inf) == beside(5.0) == beside(1.2)
    assert 1e-3 < beside(math.inf) < 3e-3 < beside(0.21)


def test_luck_within_a_wide_bowl_moves_little() -> None:
    """Two runs of one network with other orders of its data: the best rates are a factor of 2.3 apart, by luck."""
    one = [(0.0076, 0.182), (0.024, 0.087), (0.042, 0.069), (0.076, 0.06), (0.134, 0.072), (0.239, 0.236)]
    other = [(0.0055, 0.245), (0.018, 0.109), (0.055, 0.119), (0.099, 0.151), (0.175, 0.074), (0.554, 0.831)]
    first, second = (rate_search.vertex([candidate(*seen) for seen in run], won=1.36) for run in (one, other))
    assert second == pytest.approx(first, rel=0.1)
    assert 0.03 < first < 0.06


def test_candidates_far_outside_the_bowl_do_not_move_it() -> None:
    bowl_and_walls = [candidate(10.0**-i, loss) for i, loss in ((2, 3.0), (3, 0.5), (4, 0.4), (5, 0.5), (6, 3.0))]
    far = [candidate(10.0**-i, 3.0) for i in (7, 8, 9)]
    assert rate_search.vertex(far[::-1] + bowl_and_walls[::-1], won=2.6) == pytest.approx(1e-4)


def test_goes_on_until_both_sides_are_clearly_worse() -> None:
    def flat_bowl(rates: Sequence[float]) -> Steps:
        """Level from 1e-3 to 1e-1."""
        rate = rates[0]
        outside = max(0.0, abs(math.log10(rate) + 2) - 1)
        for number, _ in enumerate(rates):
            yield 1 - min(number / 50, 0.9) * (1 - min(outside, 1)) if len(set(rates)) == 1 else 1.0

    result = search(flat_bowl, 3e-3, 1e4, True, 800)
    tried = [one.rate for one in result.candidates]
    assert min(tried) < 1e-3
    assert max(tried) > 1e-1
    assert result.best == pytest.approx(1e-2, rel=0.3)


def test_losses_without_a_bowl_give_the_best_candidate() -> None:
    falling = [candidate(1e-3, 1.0), candidate(3e-3, 0.9), candidate(9e-3, 0.2)]
    assert rate_search.vertex(falling, won=5.0) == pytest.approx(9e-3)


@pytest.mark.parametrize(
    ("losses", "expected"),
    [
        ([1.0] * 30 + [math.nan], True),
        ([1.0] * 30 + [math.inf], True),
        ([1.0, 0.9, 1.1] * 10 + [1.2] * 5, False),
        (np.linspace(1, 0.2, 30).tolist() + [3.9] * 5, False),
        (np.linspace(1, 0.2, 30).tolist() + [4.5] * 5, True),
        ([*np.linspace(1, 0.2, 30).tolist(), 4.5], False),
    ],
    ids=["nan", "infinite", "noise", "spike within reach", "gone", "one bad batch"],
)
def test_diverged(losses: list[float], expected: bool) -> None:
    assert rate_search.diverged(losses, [0.95, 1.0, 1.05] * 6) is expected


def test_judge_demands_more_than_noise() -> None:
    def judged(loss: float) -> float:
        candidates = [candidate(1e-3, 0.99), candidate(3e-3, loss), candidate(1e-2, 0.99)]
        test = RangeTest(np.ones(20), np.ones(20), np.ones(20), start=1.0, noise=0.1, steepest=None)
        return rate_search.judge(test, candidates)

    assert judged(0.9) == pytest.approx(3e-3, rel=0.1)
    with pytest.raises(NotApplicable):
        judged(0.95)
