"""Units that are off for every example before training has begun, and where numbers stop being finite."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from lightning_rules.audit import Part
from lightning_rules.deadline import Deadline
from lightning_rules.finding import Finding, Severity
from lightning_rules.preflight.function_calls import ActivationCall
from lightning_rules.preflight.model_seen import ModelSeen, Trace

DEAD, FINITE = "dead-units", "non-finite-start"
UNITS = 16  # fewer may all be off by chance
PLACES = 16  # values a unit: examples times places
SHARE = 0.95
MANY = 0.5


@dataclass(frozen=True)
class StartSeen:
    """What one rank's step did to the values.

    Attributes:
        activations: Those called by modules, with enough units and values to tell.
        value: The loss; None where there is none.
        inputs_finite: Whether the batch is finite.
        first_layer: The first layer that turned finite inputs into something else; "" for none.
        gradients: Names of parameters whose gradient is not finite, in the order of the module.
        parameters: How many parameters have a gradient.
    """

    activations: tuple[ActivationCall, ...]
    value: float | None
    inputs_finite: bool
    first_layer: str
    gradients: tuple[str, ...]
    parameters: int


def measure(seen: ModelSeen, deadline: Deadline) -> StartSeen:
    """The activations of one step, and what is not finite in it."""
    trace = seen.trace
    told = tuple(call for call in trace.activations if call.name is not None and _can_tell(call))
    first = next((run.name for run in trace.runs if run.finite == (True, False)), "")
    broken = tuple(name for name, gradient in trace.gradients.items() if gradient.reached and not gradient.finite)
    return StartSeen(told, trace.value, trace.inputs_finite, first, broken, _reached(trace))


def _reached(trace: Trace) -> int:
    return sum(gradient.reached for gradient in trace.gradients.values())


def _can_tell(call: ActivationCall) -> bool:
    values = 1
    for size in call.shape:
        values *= size
    return call.units >= UNITS and values >= PLACES * call.units


def judge(ranks: Sequence[StartSeen]) -> list[Finding]:
    """Non-finite numbers on any rank; units that are off on all of them."""
    broken = next((finding for rank in ranks if (finding := judge_finite(rank)) is not None), None)
    if broken is not None:
        return [broken]
    together = zip(*(rank.activations for rank in ranks), strict=False)
    return judge_dead([min(calls, key=lambda call: call.stuck) for calls in together])


def judge_finite(seen: StartSeen) -> Finding | None:
    """Whether loss and gradients are finite; pure."""
    lost = seen.value is not None and not -float("inf") < seen.value < float("inf")
    if not lost and not seen.gradients:
        return None
    evidence: dict[str, float | int | str | bool | None] = {
        "loss": seen.value,
        "gradients": len(seen.gradients),
        "parameters": seen.parameters,
    }
    what = "The loss of the first step is not finite" if lost else "The loss of the first step is finite, but not"
    if not lost:
        what += f" the gradients of {len(seen.gradients)} of {seen.parameters} parameters (`{seen.gradients[-1]}` last)"
    if not seen.inputs_finite:
        message, advice = f"{what}: its inputs hold NaN or infinity.", "Find and mend the examples that hold them."
        return Finding(FINITE, Severity.ERROR, message, advice, evidence)
    where = f": `{seen.first_layer}` is the first layer whose output is not finite." if seen.first_layer else "."
    advice = "Look for sqrt, norm, log, acos or a division at 0: inside it add a small constant, or clamp."
    return Finding(FINITE, Severity.ERROR, what + where, advice, evidence)


def judge_dead(calls: Sequence[ActivationCall]) -> list[Finding]:
    """Whether units are at the end of their range for every example; pure."""
    if not calls:
        return []
    worst = max(calls, key=lambda call: call.stuck)
    evidence: dict[str, float | int | str | bool | None] = {
        "activations": len(calls),
        "stuck": worst.stuck,
        "units": worst.units,
    }
    off = "zero" if worst.kind == "ReLU" else f"at the end of the {worst.kind}'s range"
    place = f"{worst.kind} in `{worst.name or 'forward'}`"
    message = f"{worst.stuck:.0%} of the {worst.units} units of the {place} are {off} for every example"
    if worst.stuck >= SHARE:
        severity = Severity.ERROR if worst.kind == "ReLU" and worst.stuck == 1.0 else Severity.WARNING
        advice = "Look at the bias before it (a large negative one kills ReLUs) and at the scale of inputs and weights."
        return [Finding(DEAD, severity, f"{message} before the first step: they get no gradient.", advice, evidence)]
    if worst.stuck > MANY:
        return [Finding(DEAD, Severity.INFO, f"{message} of the first batch.", "", evidence)]
    return [Finding(DEAD, Severity.OK, f"At most {worst.stuck:.0%} of the units of a layer are off.", "", evidence)]


PART = Part((DEAD, FINITE), measure, judge)
