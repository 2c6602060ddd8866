"""What is odd about the updates of a run: judged from numbers."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from statistics import median

from lightning_rules.finding import Finding, Severity
from lightning_rules.watch.between_steps import OVERWRITTEN, REPEATS, Course, judge_course
from lightning_rules.watch.idle_weights import STILL, Idle, judge_idle
from lightning_rules.watch.optimiser_changes import FROZEN, REPLACED, Held, judge_held
from lightning_rules.watch.update_pace import WINDOW, Pace
from lightning_rules.watch.weight_steps import Watched

LARGE, SMALL = "updates-too-large", "updates-too-small"
ENDS_EARLY = "rate-ends-early"
ASPECTS = (LARGE, SMALL, ENDS_EARLY, STILL, OVERWRITTEN, REPEATS, REPLACED, FROZEN)
TOO_LARGE = 0.1  # of a weight's size a step
FAR_TOO_LARGE = 0.2  # small networks with batch norm and momentum train well at 0.06
FIRST = 4  # measured steps, in which small weights may grow fast
GROWN = 8.0  # times the size that weights began with
GROWN_ALONE = 4 * GROWN  # a linear model's only weight grows as far as its classes can be told apart
TOO_SMALL = 1e-5  # of a weight's size a step
REACH = 0.03  # of a weight's size, in the whole run
CRAWL = (5e-5, 0.006)  # the same two for a run that is short besides
ENDED = 1.01e-3  # of the peak rate: by nine tenths three times
FOR_SHARE = 0.5  # of the planned run
UNMOVED_STEPS = 200
UNMOVED_SEEN = 12  # of them measured
NAMED = 3


@dataclass(frozen=True)
class Progress:
    """How far a run is.

    Attributes:
        batches: So far.
        done: The share of the planned run that has passed; None where no end is known.
        ended: Whether this is the end of the fit.
        unfreezes: Whether a callback freezes and unfreezes layers by a plan.
    """

    batches: int = 0
    done: float | None = None
    ended: bool = False
    unfreezes: bool = False


@dataclass(frozen=True)
class UpdatesSeen:
    """What one rank has seen.

    Attributes:
        paces: One for each optimiser that has stepped.
        planned: Steps of the run, infinite where no end is known.
        alive: The share of the planned run that had passed when the rate was last above a thousandth of its peak.
        dead: The share that had passed at the last measured step, if the rate was below that; None where it was not,
            where no end is known, or where a scheduler waits for progress.
        still: Weights that have never moved, biases and norms that have not, and how many parameters are watched.
        courses: What was seen of each optimiser between its steps.
        idle: Weights with gradients that were never moved.
        held: What became of each optimiser.
        progress: How far the run is.
    """

    paces: list[Pace]
    planned: float
    alive: float
    dead: float | None
    still: tuple[list[str], list[str], int]
    courses: list[Course] = field(default_factory=list)
    idle: list[Idle] = field(default_factory=list)
    held: list[Held] = field(default_factory=list)
    progress: Progress = field(default_factory=Progress)


def judge_updates(seen: UpdatesSeen) -> list[Finding]:
    """Findings of all kinds, or that all is well; pure."""
    found = [one for pace in seen.paces for one in (judge_large(pace), judge_small(pace, seen.planned)) if one]
    now = seen.progress
    idle = [judge_idle(one, now.batches, now.done, now.ended) for one in seen.idle]
    found += [one for one in (judge_end(seen), judge_still(*seen.still), *idle) if one]
    found += [one for course in seen.courses for one in judge_course(course)]
    found += [one for held in seen.held for one in judge_held(held, now.done, now.unfreezes)]
    ratios = [median(pace.usual_ratios) for pace in seen.paces if pace.names and len(pace.ratios) == WINDOW]
    if found or not ratios or not all(0 < ratio < math.inf for ratio in ratios):
        return found
    said = " and ".join(f"{ratio:.1e}" for ratio in ratios)
    said = f"The median weight changes by {said} of its size a step; 1e-4 to 1e-2 is usual."
    return [Finding("update-ratio", Severity.OK, said)]


def judge_large(pace: Pace) -> Finding | None:
    """Steps so large that they wipe out what weights were."""
    if "LBFGS" in pace.kind.upper() or not pace.names:
        return None
    if pace.grown >= (GROWN if len(pace.names) > 1 else GROWN_ALONE):
        said = (
            f"At a learning rate of {pace.peak:.2g} the steps are too large: within the first of them "
            f"{pace.kind} has blown half of the weights up to {pace.grown:.0f} times the size that they "
            "began with, where they should hardly grow."
        )
        return _warn(LARGE, said, LOWER, grown=pace.grown, rate=pace.peak)
    ratio = median(pace.usual_ratios)
    if pace.steps < WINDOW + FIRST or len(pace.ratios) < WINDOW or not ratio > TOO_LARGE:
        return None
    said = (
        f"At a learning rate of {pace.rates[-1]:.2g} the steps are large: one of {pace.kind} changes half of "
        f"the weights by {ratio:.0%} of their size or more (median of {WINDOW} measured steps); 0.01% to 1% is usual."
    )
    severity = Severity.WARNING if ratio > FAR_TOO_LARGE else Severity.INFO
    return Finding(LARGE, severity, said, LOWER, {"ratio": ratio, "rate": pace.rates[-1]})


LOWER = (
    "Lower the learning rate to a tenth, and again until this is silent; if it is as it should be, look for what makes "
    "the step large: a momentum of 1, a summed loss, inputs or targets that are not normalised."
)


def judge_small(pace: Pace, planned: float) -> Finding | None:
    """Steps so small that the run cannot get anywhere; said only of a run that has never been faster."""
    if pace.fastest is None or pace.steps < WINDOW + FIRST:
        return None
    if pace.fastest == 0:
        return judge_still(pace.names, [], len(pace.names), f"{pace.steps} measured")
    reach = pace.fastest * planned
    if not any(pace.fastest < slow and reach < far for slow, far in ((TOO_SMALL, REACH), CRAWL)):
        return None
    said = (
        f"At a learning rate of {pace.peak:.2g} the steps are too small: none of {pace.kind} changes a weight by more "
        f"than {pace.fastest:.0e} of its size (1e-4 to 1e-2 is usual), and all {planned:.0f} steps together by no more "
        f"than {reach:.1%}."
    )
    advice = (
        "Raise the learning rate, a factor of 10 at a time; if it is as it should be, look for what shrinks the "
        "gradient or the step: a loss scaled down, clipping to a tiny norm, a large `eps`."
    )
    return _warn(SMALL, said, advice, ratio=pace.fastest, rate=pace.peak, planned_steps=planned)


def judge_end(seen: UpdatesSeen) -> Finding | None:
    """A rate that is gone while most of the run is ahead."""
    if seen.dead is None or not seen.dead - seen.alive > FOR_SHARE:
        return None
    said = (
        "The schedule ends training early: the learning rate fell below a thousandth of its peak after "
        f"{seen.alive:.0%} of the planned run, and has stayed there until {seen.dead:.0%}."
    )
    advice = (
        "Stretch the decay over the whole run: check whether the scheduler counts steps or epochs (`interval`), its "
        "`step_size` or `T_max`, and its factor."
    )
    return _warn(ENDS_EARLY, said, advice, alive_until=seen.alive, dead_at=seen.dead)


def judge_still(
    weights: Sequence[str], others: Sequence[str], count: int, steps: str = f"{UNMOVED_STEPS}"
) -> Finding | None:
    """Parameters that the optimiser never moves."""
    if weights:
        said = (
            f"{len(weights)} weights have not moved at all in {steps} steps of the optimiser that has them: "
            f"{_listed(weights)}."
        )
        advice = (
            "Look at the gradient of the first of them: if it is exactly 0, the layers behind it are dead or multiply "
            "it by zeros; if it is not, the rate is 0 or the step is lost in rounding (keep weights in float32)."
        )
        return _warn(STILL, said, advice, weights=len(weights), of=count)
    if others:
        said = f"{len(others)} of {count} parameters have not moved in {steps} steps: {_listed(others)}."
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
