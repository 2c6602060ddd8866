"""What is odd about the updates of a run: judged from numbers."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from statistics import median

from lightning_rules.finding import Finding, Severity
from lightning_rules.watch.update_pace import WINDOW, Pace
from lightning_rules.watch.weight_steps import Watched

LARGE, SMALL = "updates-too-large", "updates-too-small"
ENDS_EARLY, STILL = "rate-ends-early", "weights-never-move"
TOO_LARGE = 0.1  # of a weight's size a step
FIRST = 4  # measured steps, in which small weights may grow fast
GROWN = 8.0  # times the size that weights began with
TOO_SMALL = 1e-5  # of a weight's size a step
REACH = 0.03  # of a weight's size, in the whole run
CRAWL = (5e-5, 0.004)  # the same two for a run that is short besides
ENDED = 1.01e-3  # of the peak rate: by nine tenths three times
FOR_SHARE = 0.5  # of the planned run
UNMOVED_STEPS = 200
UNMOVED_SEEN = 12  # of them measured
NAMED = 3


@dataclass(frozen=True)
class UpdatesSeen:
    """What one rank has seen.

    Attributes:
        paces: One for each optimiser that has stepped.
        planned: Steps of the run, infinite where no end is known.
        alive: The share of the planned run that had passed when the rate was last above a thousandth of its peak.
        done: The share that has passed; None where no end is known, or where a scheduler waits for progress.
        still: Weights that have never moved, biases and norms that have not, and how many parameters are watched.
    """

    paces: list[Pace]
    planned: float
    alive: float
    done: float | None
    still: tuple[list[str], list[str], int]


def judge_updates(seen: UpdatesSeen) -> list[Finding]:
    """Findings of all four kinds, or that all is well; pure."""
    found = [one for pace in seen.paces for one in (judge_large(pace), judge_small(pace, seen.planned)) if one]
    found += [one for one in (judge_end(seen), judge_still(*seen.still)) if one]
    ratios = [median(pace.usual_ratios) for pace in seen.paces if pace.names and len(pace.ratios) == WINDOW]
    if found or not ratios:
        return found
    said = ", ".join(f"{ratio:.1e}" for ratio in ratios)
    return [Finding("update-ratio", Severity.OK, f"A step changes weights by {said} of their size, as it should.")]


def judge_large(pace: Pace) -> Finding | None:
    """Steps so large that they wipe out what weights were."""
    if "LBFGS" in pace.kind.upper() or not pace.names:
        return None
    if pace.grown >= GROWN:
        said = (
            f"The learning rate, {pace.peak:.2g}, is too high: within the first steps {pace.kind} has blown half of the "
            f"weights up to {pace.grown:.0f} times the size that they began with, where they should hardly grow."
        )
        return _warn(LARGE, said, LOWER, grown=pace.grown, rate=pace.peak)
    ratio = median(pace.usual_ratios)
    if pace.steps < WINDOW + FIRST or len(pace.ratios) < WINDOW or not ratio > TOO_LARGE:
        return None
    said = (
        f"The learning rate, {pace.rates[-1]:.2g}, is too high: a step of {pace.kind} changes half of the weights by "
        f"{ratio:.0%} of their size or more (median of {WINDOW} measured steps), where 0.01% to 1% is usual."
    )
    return _warn(LARGE, said, LOWER, ratio=ratio, rate=pace.rates[-1])


LOWER = "Lower the learning rate to a tenth, and again until this is silent; if it is meant, normalise inputs and loss."


def judge_small(pace: Pace, planned: float) -> Finding | None:
    """Steps so small that the run cannot get anywhere; said only of a run that has never been faster."""
    if pace.fastest is None or pace.steps < WINDOW + FIRST:
        return None
    reach = pace.fastest * planned
    if not any(pace.fastest < slow and reach < far for slow, far in ((TOO_SMALL, REACH), CRAWL)):
        return None
    said = (
        f"The learning rate, {pace.peak:.2g}, is too low for this run: no step of {pace.kind} changes a weight by more "
        f"than {pace.fastest:.0e} of its size (1e-4 to 1e-2 is usual), and all {planned:.0f} steps together by no more "
        f"than {reach:.1%}."
    )
    advice = (
        "Raise the learning rate, a factor of 10 at a time; if it is as it should be, look for what shrinks the gradient "
        "or the step: a loss scaled down, clipping to a tiny norm, a large `eps`."
    )
    return _warn(SMALL, said, advice, ratio=pace.fastest, rate=pace.peak, planned_steps=planned)


def judge_end(seen: UpdatesSeen) -> Finding | None:
    """A rate that is gone while most of the run is ahead."""
    if seen.done is None or not seen.done - seen.alive > FOR_SHARE:
        return None
    said = (
        f"The schedule ends training early: the learning rate fell below a thousandth of its peak after {seen.alive:.0%} "
        f"of the planned run, and has stayed there until {seen.done:.0%}."
    )
    advice = (
        "Stretch the decay over the whole run: check whether the scheduler counts steps or epochs (`interval`), its "
        "`step_size` or `T_max`, and its factor."
    )
    return _warn(ENDS_EARLY, said, advice, alive_until=seen.alive, done=seen.done)


def judge_still(weights: Sequence[str], others: Sequence[str], count: int) -> Finding | None:
    """Parameters that the optimiser never moves."""
    if weights:
        said = (
            f"{len(weights)} weights have not moved at all in {UNMOVED_STEPS} steps, although they have gradients and a "
            f"learning rate above 0: {_listed(weights)}."
        )
        advice = (
            "Look at the gradient of the first of them: if it is exactly 0, the layers behind it are dead or multiply it "
            "by zeros; if not, the step is lost in rounding: raise the rate, or keep the weights in float32."
        )
        return _warn(STILL, said, advice, weights=len(weights), of=count)
    if others:
        said = f"{len(others)} of {count} parameters have not moved in {UNMOVED_STEPS} steps: {_listed(others)}."
        return Finding(STILL, Severity.INFO, said, evidence={"parameters": len(others), "of": count})
    return None


def _listed(names: Sequence[str]) -> str:
    more = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
    return ", ".join(f"`{name}`" for name in names[:NAMED]) + more


def _warn(aspect: str, said: str, advice: str, **evidence: float) -> Finding:
    return Finding(aspect, Severity.WARNING, said, advice, evidence)


def still_now(
    watched: Iterable[Watched], reached: Iterable[int], changes: Iterable[float], seen: int, steps: int
) -> tuple[list[str], list[str]]:
    """Which weights, and which other parameters, are exactly what they were when the watch began.

    Args:
        watched: All parameters of an optimiser.
        reached: At how many measured steps each had a gradient and a rate above 0.
        changes: The largest change in the sample of each.
        seen: Measured steps.
        steps: Steps of the run since then.
    """
    if steps < UNMOVED_STEPS or seen < UNMOVED_SEEN:
        return [], []
    unmoved = [
        one
        for one, count, change in zip(watched, reached, changes, strict=True)
        if change == 0
        and count >= 0.9 * seen
        and "weight_hh" not in one.name  # a sequence of one step has no use for it
    ]
    return [one.name for one in unmoved if one.judged], [one.name for one in unmoved if not one.judged]
