"""What happens to weights and rates where no step of the optimiser is seen: between two steps, between two epochs."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from statistics import median
from typing import Any

from lightning_rules.finding import Finding, Severity
from lightning_rules.watch.weight_steps import Watched

OVERWRITTEN, REPEATS = "weights-overwritten", "warm-up-repeats"
UNRELATED = 0.3  # cosine of weights before and after; those that were only trained, pruned or averaged stay far above
ENOUGH = 64  # elements, so that the cosine of what is drawn anew stays below that
TIMES = 2  # epochs that begin so
UNDONE = 0.2  # of the length of a step is left when the next begins; a projection leaves more
PAIRS = 8  # measured steps
OFTEN = 0.75  # of them
FALLS_TO = 0.2  # of the rate that the epoch before ended with
SAME = 0.01  # of a rate


@dataclass(frozen=True)
class Opening:
    """How an epoch began for one optimiser.

    Attributes:
        closing: The largest rate of its groups at the end of the epoch before; None in the first.
        opening: The largest rate at the first step.
        redrawn: The share of the weights that bear no relation to what they were at the end of the epoch before.
        put_back: Whether all parameters are again exactly what they were at first, and were not then.
    """

    closing: float | None
    opening: float
    redrawn: float = 0.0
    put_back: bool = False


@dataclass
class Course:
    """What was seen of one optimiser between its steps.

    Attributes:
        kind: Its class.
        first: The rate of its first step.
        openings: Of the last epochs but the first.
        left: For the last measured steps, the median share of a step's length that is left when the next begins.
    """

    kind: str
    first: float | None = None
    openings: deque[Opening] = field(default_factory=lambda: deque(maxlen=8))
    left: deque[float] = field(default_factory=lambda: deque(maxlen=16))

    def state(self) -> dict[str, Any]:
        """As plain values, for a checkpoint."""
        openings = [asdict(one) for one in self.openings]
        return {"kind": self.kind, "first": self.first, "openings": openings, "left": list(self.left)}

    @classmethod
    def of(cls, state: Mapping[str, Any]) -> Course:
        """The inverse of :meth:`state`."""
        course = cls(state["kind"], state["first"])
        course.openings.extend(Opening(**one) for one in state["openings"])
        course.left.extend(state["left"])
        return course

    def opens(self, opening: Opening) -> None:
        """An epoch has begun."""
        if opening.closing is None:
            self.first = opening.opening if self.first is None else self.first
        else:
            self.openings.append(opening)

    def is_left(self, net: Sequence[float], steps: Sequence[float]) -> None:
        """A measured step, and what is left of it: the lengths of both for each weight."""
        shares = [now / step for now, step in zip(net, steps, strict=True) if step > 0]
        if shares:
            self.left.append(median(shares))


def opening_of(
    closing: float | None, opening: float, watched: Sequence[Watched], numbers: Sequence[Sequence[float]]
) -> Opening:
    """Reduce what was measured at the first step of an epoch.

    Args:
        closing: As in :class:`Opening`.
        opening: As in :class:`Opening`.
        watched: The parameters.
        numbers: As :meth:`WeightSteps.since` gives them; empty where nothing was measured.
    """
    if not numbers:
        return Opening(closing, opening)
    before, now, apart, moved, moved_now = numbers
    large = [place for place, one in enumerate(watched) if one.judged and one.length >= ENOUGH]
    cosines = [cosine(before[place], now[place], apart[place]) for place in large]
    redrawn = sum(one < UNRELATED for one in cosines) / len(cosines) if cosines else 0.0
    return Opening(closing, opening, redrawn, max(moved, default=0.0) > 0 and max(moved_now, default=1.0) == 0)


def cosine(before: float, now: float, apart: float) -> float:
    """Of two vectors, from their lengths and that of their difference; 1 where one is zero."""
    if not (before > 0 and now > 0):
        return 1.0
    return (before**2 + now**2 - apart**2) / (2 * before * now)


def judge_course(course: Course) -> list[Finding]:
    """Findings on one optimiser; pure."""
    return [one for one in (_judge_reset(course), _judge_undone(course), _judge_warm_up(course)) if one is not None]


def _judge_reset(course: Course) -> Finding | None:
    drawn = sum(one.redrawn > 0.5 for one in course.openings)
    back = sum(one.put_back for one in course.openings)
    if max(drawn, back) < TIMES:
        return None
    how = "bear no relation to what they were (drawn anew)" if drawn >= back else "are what they were at the very first"
    message = (
        f"Between epochs something other than the optimiser resets the weights: at the start of {max(drawn, back)} of "
        f"the last {len(course.openings)} epochs most weights of {course.kind} {how}, so that training starts over."
    )
    advice = (
        "Look for a reset_parameters, an init function, load_state_dict or copy_ in a hook of each epoch, and "
        "call it once, before the fit."
    )
    evidence = {"drawn_anew": drawn, "put_back": back, "epochs": len(course.openings)}
    return Finding(OVERWRITTEN, Severity.WARNING, message, advice, evidence)


def _judge_undone(course: Course) -> Finding | None:
    undone = sum(share < UNDONE for share in course.left)
    if len(course.left) < PAIRS or undone < OFTEN * len(course.left):
        return None
    share = median(course.left)
    message = (
        f"Something outside the optimiser overwrites the weights after each step: when the next begins, {share:.0%} "
        f"of a step of {course.kind} is left (median of {len(course.left)} measured steps), where all of it should be."
    )
    advice = (
        "Look for weights that are written after the step: an average (EMA) copied back into the network, a "
        "load_state_dict, a projection. Train the network itself, and put the average in only to evaluate."
    )
    return Finding(OVERWRITTEN, Severity.WARNING, message, advice, {"left": share, "steps": len(course.left)})


def _judge_warm_up(course: Course) -> Finding | None:
    first, openings = course.first, course.openings
    if first is None or len(openings) < TIMES:
        return None
    falls = [one for one in openings if one.closing and one.opening <= FALLS_TO * one.closing]
    if len(falls) < len(openings) or any(abs(one.opening - first) > SAME * max(first, 1e-12) for one in falls):
        return None
    top = max(one.closing or 0.0 for one in falls)
    message = (
        f"The learning rate of {course.kind} warms up anew in each epoch: it begins the run at {first:.2g}, climbs to "
        f"{top:.2g} and has fallen back to where it began at the start of {len(falls)} epochs in a row."
    )
    advice = (
        "Count the warm-up in steps of the whole run (trainer.global_step, or a scheduler with interval 'step'), not "
        "in batches of the epoch."
    )
    return Finding(REPEATS, Severity.WARNING, message, advice, {"first": first, "top": top, "epochs": len(falls)})
