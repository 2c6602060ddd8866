"""What a learning curve says in words: how much more data for how much less error, and whether data is what limits."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from lightning_recipe.runs.power_law import FAR, PowerLaw, needed

MANY = 1000.0  # times the data: nobody gathers more
MISFIT = 0.01


@dataclass(frozen=True)
class Answer:
    """How many training examples an aim asks for.

    Args:
        asked: The aim in words: "half the error".
        target: The error aimed at.
        total: Training examples in all; infinite where the floor of the law is not below the target.
        low: Lower end of the 95% interval of `total`.
        high: Upper end, infinite where the floor may lie above the target.
    """

    asked: str
    target: float
    total: float
    low: float
    high: float


def answers(law: PowerLaw, is_share: bool) -> list[Answer]:
    """How many examples bring 1% of the error less, one percentage point less, and half of it.

    Args:
        law: The law.
        is_share: Whether the error is a share of examples, so that a percentage point means something.
    """
    aims: list[tuple[str, float, float]] = [("1% of the error less", 0.99, 0.0), ("half the error", 0.5, 0.0)]
    now = law.at(law.sizes[-1])
    if is_share and now > 0.01:
        aims.insert(1, ("one percentage point less", 1.0, 0.01))
    return [Answer(asked, part * now - less, *needed(law, part, less)) for asked, part, less in aims]


def say(answer: Answer, law: PowerLaw, is_share: bool) -> str:
    """The answer as a sentence."""
    most = law.sizes[-1]
    begin = f"{answer.asked} ({shown(answer.target, is_share)} instead of {shown(law.at(most), is_share)})"
    low, high = (more(end, most) for end in (answer.low, answer.high))
    if math.isinf(answer.total):
        floor = f"the floor is estimated at {with_interval(law.floor, law.floor_between(), is_share)}"
        perhaps = "" if math.isinf(answer.low) else f"; with luck {low} more training examples are enough"
        return f"{begin}: not reachable by more of this data, for {floor}{perhaps}."
    guess = f"; over more than {FAR:g} times the data this is a guess" if answer.total > FAR * most else ""
    return f"{begin}: {more(answer.total, most)} more training examples (95% interval {low} to {high}){guess}."


def more(total: float, now: float) -> str:
    """How many more than now a number of examples is, with no more digits than are known."""
    if math.isinf(total):
        return "out of reach"
    added = max(0.0, total - now)
    if total > MANY * now:
        return f"over {MANY:,.0f} times as many"
    digits = max(0, math.floor(math.log10(added)) - 1) if added >= 1 else 0
    return f"{max(1, round(added, -digits)):,.0f}"


def shown(error: float, is_share: bool) -> str:
    """An error: in percent where it is a share."""
    return f"{100 * error:.3g}%" if is_share else f"{error:.4g}"


def with_interval(value: float, ends: tuple[float, float], is_share: bool) -> str:
    """A value with its 95% interval."""
    return f"{shown(value, is_share)} (95% interval {shown(ends[0], is_share)} to {shown(ends[1], is_share)})"


def sayings(law: PowerLaw | None, is_share: bool, sizes: Sequence[int]) -> list[str]:
    """What a law says of more data, in sentences; or why it says nothing.

    Args:
        law: The law; None where there are too few sizes for one.
        is_share: Whether errors are shares of examples.
        sizes: Numbers of training examples with finished fits.
    """
    if law is None:
        return [f"No law can be fitted to {len(sizes)} sizes: how much more data would help is not known."]
    least, most = int(law.sizes[0]), int(law.sizes[-1])
    if not law.is_falling:
        ends = f"{shown(law.errors[0], is_share)} and {shown(law.errors[-1], is_share)}"
        return [f"More data shows no gain: from {least:,} to {most:,} examples the error does not fall by more than "
                f"chance ({ends})."]  # fmt: skip
    said = [f"{say(one, law, is_share)[0].upper()}{say(one, law, is_share)[1:]}" for one in answers(law, is_share)]
    if law.misfit is not None and law.misfit < MISFIT:
        said.append(
            f"Mind that the points lie off a power law by more than chance (p = {law.misfit:.2g}, F-test): the "
            "smallest sizes may be below where it begins (Hestness et al., 2017), or some fits went wrong."
        )
    return said


def limits(training: float, validation: float, law: PowerLaw | None, is_share: bool) -> str:
    """Whether data or capacity limits, by the errors at the full size and what twice the data would bring.

    A training error that is the larger part of the validation error is not mended by data; a gap that is the larger
    part is, if the error still falls as data grow (Goodfellow et al. 2016, "Deep Learning", section 11.3; Ng 2018,
    "Machine Learning Yearning", chapters 20 to 27).

    Args:
        training: Error of the best checkpoints on their own training examples, all of them.
        validation: Error of the same on the validation split.
        law: The law; None where there is none.
        is_share: Whether errors are shares of examples.
    """
    gap = max(0.0, validation - training)
    seen = f"the error is {shown(training, is_share)} on training and {shown(validation, is_share)} on validation data"
    if validation == 0:
        return f"Nothing is left to gain: {seen}."
    if training >= gap:
        advice = "a larger network, longer training or better optimisation comes before more data"
        already = f"{seen}, and most of it is there on training data already"
        return f"Capacity limits: {already}; {advice}{_doubled(law, is_share)}."
    if law is None:
        return f"Data or regularisation limits: {seen}; whether more data helps is not known from so few sizes."
    if law.is_falling:
        return f"Data limits: {seen}, and the gap is the larger part{_doubled(law, is_share)}."
    return (
        f"Neither data nor capacity is seen to limit: {seen}, yet the gap does not shrink as data grow; regularise, "
        "and look for wrong labels and for training data of another kind."
    )


def _doubled(law: PowerLaw | None, is_share: bool) -> str:
    if law is None or not law.is_falling:
        return ""
    gain, low, high = law.gain_of_doubling()
    points = " percentage points" if is_share else ""
    a, b, c = (f"{(100 if is_share else 1) * one:.2g}" for one in (gain, low, high))
    return f"; twice the data is predicted to take {a}{points} off (95% interval {b} to {c})"
