"""dying-units and saturated-units: the judgement on shares of units that were stuck over whole windows."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from lightning_rules.finding import Finding, Severity
from lightning_rules.watch.step_watch import Place

DYING, SATURATED = "dying-units", "saturated-units"
SOFTMAX = "softmax"
UNITS = 16  # of a smaller layer all have to be stuck,
FEWEST = 8  # and still smaller ones may all be by chance
GROSS = 0.9  # share of a layer
EVERYWHERE = 0.7  # share of every layer
RISEN, FROM = 0.8, 0.3  # share of a layer, and of the same layer at the first step
TOLD = 0.5
WINDOWS = 2


@dataclass(frozen=True)
class UnitsSeen:
    """How one rank has seen the units of an activation.

    Attributes:
        place: Where it is called.
        floor: Whether its units die, as those of a ReLU do; else they saturate on both sides.
        units: How many.
        hidden: Whether a layer comes after it.
        start: Share stuck at the first step that was seen.
        shares: Share stuck in each of the last windows, latest last.
    """

    place: Place
    floor: bool
    units: int
    hidden: bool
    start: float
    shares: tuple[float, ...]


def judge(ranks: Sequence[Sequence[UnitsSeen]]) -> Iterable[Finding]:
    """Findings from what all ranks have seen; a unit that lives on one of them lives."""
    seen = [one for one in _everywhere(ranks) if len(one.shares) == WINDOWS and one.units >= FEWEST]
    for aspect, floor in ((DYING, True), (SATURATED, False)):
        some = [one for one in seen if one.floor is floor]
        if some:
            yield _judge(aspect, some)
    sharp = [one for one in _everywhere(ranks) if one.place.label == SOFTMAX and one.shares and min(one.shares) == 1.0]
    if sharp:
        message = f"The softmax in `{sharp[0].place.name or 'forward'}` puts all on one place in nearly every row."
        yield Finding(SATURATED, Severity.INFO, message, "", {"softmaxes": len(sharp)})


def _everywhere(ranks: Sequence[Sequence[UnitsSeen]]) -> list[UnitsSeen]:
    by_place: list[Mapping[Place, UnitsSeen]] = [{one.place: one for one in rank} for rank in ranks]
    shared = [place for place in by_place[0] if all(place in others for others in by_place)]
    return [min((rank[place] for rank in by_place), key=lambda one: min(one.shares, default=0.0)) for place in shared]


def _judge(aspect: str, seen: Sequence[UnitsSeen]) -> Finding:
    gross = [one for one in seen if _is_gross(one)]
    hidden = [min(one.shares) for one in seen if one.hidden and one.floor]
    worst = max(gross or seen, key=lambda one: min(one.shares))
    share = min(worst.shares)
    evidence = {
        "share": round(share, 4),
        "start": round(worst.start, 4),
        "units": worst.units,
        "activations": len(seen),
        "stuck_activations": len(gross),
    }
    everywhere = len(hidden) > 1 and min(hidden) >= EVERYWHERE
    if gross or everywhere:
        return Finding(aspect, Severity.WARNING, _message(worst, len(gross), len(seen)), _advice(worst), evidence)
    where = f"the {worst.place.label} in `{worst.place.name or 'forward'}`"
    how = "off" if worst.floor else "saturated"
    message = f"At most {share:.0%} of a layer's units were {how} over a whole window ({where})."
    return Finding(aspect, Severity.INFO if share > TOLD else Severity.OK, message, "", evidence)


def _is_gross(one: UnitsSeen) -> bool:
    share = min(one.shares)
    if one.units < UNITS or not one.hidden:
        return share == 1.0 and (one.hidden or one.floor)
    return share >= GROSS or (share >= RISEN and one.start <= FROM and one.floor)


def _message(worst: UnitsSeen, gross: int, all_of_them: int) -> str:
    how = "off" if worst.floor else "at an end of their range"
    others = f"; the same holds for {gross - 1} more of {all_of_them} activations" if gross > 1 else ""
    return (
        f"{min(worst.shares):.0%} of the {worst.units} units of the {worst.place.label} in "
        f"`{worst.place.name or 'forward'}` were {how} for every example of the last {WINDOWS} windows "
        f"({worst.start:.0%} at the first batch){others}: they get no gradient and learn no more."
    )


def _advice(worst: UnitsSeen) -> str:
    if not worst.floor:
        return "Lower the learning rate, and scale inputs and initial weights down; or use ReLU or a norm before it."
    if worst.start <= FROM:
        return "Lower the learning rate or warm it up: a step too large has pushed them below zero; or use LeakyReLU."
    return "Look at the bias before it and at the scale of inputs and weights, or use LeakyReLU or PReLU."
