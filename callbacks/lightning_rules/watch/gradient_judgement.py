"""What the norms of an optimiser's gradients say; pure."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence

from lightning_rules.finding import Finding, Severity
from lightning_rules.watch.gradient_history import CLIPPED_FROM, EARLY, RECENT, BadStep, GradientsSeen, ParameterSeen

NON_FINITE = "non-finite-gradients"
VANISHING = "vanishing-gradients"
EXPLODING = "exploding-gradients"
ZERO = "zero-gradients"
CLIPPED = "always-clipped"
UNCLEARED = "uncleared-gradients"
ASPECTS = (NON_FINITE, VANISHING, EXPLODING, ZERO, CLIPPED, UNCLEARED)

NO_SCALE = 24  # steps in a row: a GradScaler halves 65,536 at most 16 times until it is 1, and a few more below
ENOUGH = 64  # steps, until what was the same at all of them says something
SCALER_SKIPS = 0.2  # of all steps: a GradScaler that has found its scale skips one in 2,000
SURVIVED = 0.01  # of all steps, skipped by somebody, are a word; more is an alarm
BULK = 0.5  # of the numbers that an optimiser holds: the network, not a stray layer
GONE = 1e-4  # of its largest norm at the beginning. Healthy runs of 120 epochs stay above 1e-2
SHALLOW = 1e-5  # of the last layer's gradient in relation to its weights; healthy networks of all kinds stay above 1e-3
GROWN = 100.0  # times the norm at the beginning, with a loss that has risen
NOT_FALLEN = 0.8  # of the loss at the beginning
RISEN = 1.5
ALWAYS = 0.95  # of the steps
GROSSLY = 100.0  # times the norm that gradients are clipped to
ROUNDS = 4
UNSEEN = 16  # batches
NAMES = 3  # that a message gives


def judge(ranks: Sequence[Sequence[GradientsSeen]]) -> list[Finding]:
    """Findings on the optimisers; the same on all ranks.

    Args:
        ranks: The optimisers of each rank. After gradients are averaged over ranks all say the same; where they are
            not, one rank's non-finite gradients are enough, and what else is wrong must be so on all.
    """
    found: list[Finding] = []
    for optimisers in zip(*ranks, strict=True):
        found += _first(optimisers, _non_finite)
        for aspect in (_zero, _vanishing, _exploding, _clipped, _uncleared):
            told = [list(aspect(one)) for one in optimisers]
            found += told[0] if all(told) else []
    return found


def _first(optimisers: Sequence[GradientsSeen], aspect: Callable[[GradientsSeen], Iterator[Finding]]) -> list[Finding]:
    """What is worst on any rank."""
    told = [finding for one in optimisers for finding in aspect(one)]
    return [max(told, key=lambda finding: finding.severity)] if told else []


def _non_finite(seen: GradientsSeen) -> Iterator[Finding]:
    first = seen.first_bad
    if first is None:
        if seen.steps == 0 and seen.batches >= UNSEEN:
            message = (
                f"No step of {seen.label or 'the optimiser'} was seen in {seen.batches} batches: one that the module "
                "takes past self.optimizers() cannot be."
            )
            yield Finding(NON_FINITE, Severity.INFO, message, evidence={"batches": seen.batches})
        if seen.steps and not math.isnan(seen.norms[1]):
            early, recent = seen.norms
            went = f"their norm went from {early:.2g} to {recent:.2g}"
            message = f"{_whose(seen)} were finite at all {seen.steps} steps; {went}."
            yield Finding(NON_FINITE, Severity.OK, message, evidence=_evidence(seen))
        return
    evidence = {**_evidence(seen), "bad_steps": seen.bad, "first_bad_step": first.step, "parameter": first.nearest}
    about = f"step {first.step}" if first.of == 1 else f"step {first.step} (one in {first.of} is looked at)"
    where = f"first at {about}: {first.parameters} of {len(seen.parameters)}"
    late = first.of > 1 and first.parameters == len(seen.parameters)
    if not late:
        where += f", `{first.nearest}` nearest to the loss"
    if seen.scaled:
        yield _with_scaler(seen, where, evidence)
    elif seen.bad_weights:
        message = (
            f"{_whose(seen)} are NaN or infinite, {where}{_loss(first)}; now {seen.bad_weights} parameters are too."
        )
        yield Finding(NON_FINITE, Severity.ERROR, message, _cure(first, late), evidence)
    else:
        share = seen.bad / seen.steps
        often = seen.bad > 2 and seen.steps >= ENOUGH and share > SURVIVED
        message = (
            f"{_whose(seen)} were NaN or infinite at {seen.bad} of {seen.steps} steps, {where}{_loss(first)}; the "
            "weights are finite."
        )
        yield Finding(NON_FINITE, Severity.WARNING if often else Severity.INFO, message, _cure(first, late), evidence)


def _with_scaler(seen: GradientsSeen, where: str, evidence: dict[str, float | int | str]) -> Finding:
    if seen.bad_run >= NO_SCALE:
        message = (
            f"{_whose(seen)} overflow at each of the last {seen.bad_run} steps, {where}: the GradScaler skips all."
        )
        advice = 'Train with precision="bf16-mixed" or "32-true": what is NaN in float16 at any scale, no scaler mends.'
        return Finding(NON_FINITE, Severity.ERROR, message, advice, evidence)
    often = seen.steps >= 3 * ENOUGH and seen.bad > SCALER_SKIPS * seen.steps
    message = (
        f"{_whose(seen)} overflowed at {seen.bad} of {seen.steps} steps, {where}; the GradScaler skips such steps."
    )
    advice = 'Clip the gradients, or train with precision="bf16-mixed".' if often else ""
    return Finding(NON_FINITE, Severity.WARNING if often else Severity.INFO, message, advice, evidence)


def _loss(first: BadStep) -> str:
    return "" if first.loss is None else f", with a loss of {first.loss:.3g}"


def _cure(first: BadStep, late: bool) -> str:
    if first.grown > GROWN:
        return f"They had grown {first.grown:.0f}-fold since the start: lower the learning rate, or clip the gradients."
    if late:
        return (
            "Look for sqrt, norm, log or a division at 0 in the loss, and for NaN in the batches of the steps before; "
            "if there is none, lower the learning rate."
        )
    if first.loss is not None and math.isfinite(first.loss):
        return (
            f"The loss is finite and its derivative is not: look near `{first.nearest}` for sqrt, norm, log, a power "
            "or a division at 0, and add a small epsilon inside."
        )
    return (
        "Look for NaN in this batch and for log or exp of extreme outputs; if there is none, lower the learning rate."
    )


def _zero(seen: GradientsSeen) -> Iterator[Finding]:
    """Gradients that were exactly zero, or missing, at all steps."""
    if seen.steps < ENOUGH // 2:
        return
    if all(one.present == 0 for one in seen.parameters):
        message = f"No parameter{_of(seen)} had a gradient at any of {seen.steps} steps: each step was empty."
        advice = (
            "Call zero_grad() before backward or after step, never between, and let the loss depend on these weights."
        )
        yield Finding(ZERO, Severity.ERROR, message, advice, {"steps": seen.steps, "share": 1.0})
        return
    zero = [one for one in seen.parameters if one.present and not one.moved and not one.is_table]
    if not zero:
        return
    share = _elements(zero) / _elements(seen.parameters)
    message = (
        f"A gradient of exactly zero came to {_told(zero)} at each of {seen.steps} steps: {share:.0%} of what the "
        "optimiser holds never learns."
    )
    advice = "Look for ReLUs that are off for every example, outputs multiplied by 0, or a loss that is constant."
    alarm = share >= BULK
    evidence = {"steps": seen.steps, "share": share}
    yield Finding(ZERO, Severity.WARNING if alarm else Severity.INFO, message, advice if alarm else "", evidence)


def _vanishing(seen: GradientsSeen) -> Iterator[Finding]:
    """Gradients that went away, or do not come down to the first layers, while there is much to learn."""
    early, recent = seen.losses
    if seen.steps < EARLY + ENOUGH or seen.small_data or not _stuck(early, recent):
        return
    dense = [one for one in seen.parameters if not one.is_table and one.moved]
    gone = [one for one in dense if one.recent <= GONE * one.largest]
    share = _elements(gone) / max(1, _elements(seen.parameters))
    evidence = {**_evidence(seen), "share": share}
    if share >= BULK:
        message = (
            f"The gradients of {_told(gone)}, {share:.0%} of what the optimiser holds, have fallen below {GONE:g} of "
            f"their largest norm at the start, and the loss, {early:.3g} then, is {recent:.3g}."
        )
        advice = (
            "The units are dead or saturated, or the weights are gone: lower the learning rate or the weight decay, "
            "normalise the inputs, and check the initialisation."
        )
        yield Finding(VANISHING, Severity.WARNING, message, advice, evidence)
        return
    yield from _shallow(seen, evidence)


def _shallow(seen: GradientsSeen, evidence: dict[str, float | int | str]) -> Iterator[Finding]:
    weights = [one for one in seen.parameters if one.is_weight and not one.is_table and one.moved]
    if len(weights) < 3:
        return
    last, first = weights[-1], weights[: max(1, len(weights) // 4)]
    ratios = [_relative(one.early, one, last.early, last) for one in first]
    ratios += [_relative(one.recent, one, last.recent, last) for one in first]
    ratio = max(ratios)
    if any(map(math.isnan, ratios)) or ratio >= SHALLOW:
        return
    message = (
        f"In relation to the weights the gradient of `{first[0].name}` is {ratio:.1e} of that of `{last.name}`, and "
        f"the loss has gone from {seen.losses[0]:.3g} to {seen.losses[1]:.3g}: hardly any gradient comes down to the "
        "first layers."
    )
    advice = (
        "Use ReLU or GELU with the initialisation that suits them, normalisation layers, residual connections, or "
        "fewer layers."
    )
    yield Finding(VANISHING, Severity.WARNING, message, advice, {**evidence, "first_over_last": ratio})


def _relative(norm: float, one: ParameterSeen, last_norm: float, last: ParameterSeen) -> float:
    """The gradient of one in relation to its weights, over that of the last; NaN where one of them is not known."""
    if not (one.weight > 0 and last.weight > 0 and last_norm > 0):
        return math.nan
    return (norm / one.weight) / (last_norm / last.weight)


def _exploding(seen: GradientsSeen) -> Iterator[Finding]:
    early, recent = seen.norms
    if seen.steps < EARLY + RECENT // 2 or not recent > GROWN * early > 0 or not _risen(*seen.losses):
        return
    most = max(seen.parameters, key=lambda one: one.recent / one.early if one.early > 0 else 0.0)
    message = (
        f"{_whose(seen)} have grown to {recent / early:,.0f} times their norm at the start, {recent:.2g}, and stay "
        f"there (most in `{most.name}`), while the loss has gone from {seen.losses[0]:.3g} to {seen.losses[1]:.3g}."
    )
    advice = "Lower the learning rate, and clip gradients where the network is recurrent or very deep."
    yield Finding(EXPLODING, Severity.WARNING, message, advice, _evidence(seen))


def _clipped(seen: GradientsSeen) -> Iterator[Finding]:
    """Clipping at nearly every step: the learning rate then says nothing, the ceiling says it all."""
    if seen.clip is None or seen.steps < CLIPPED_FROM + ENOUGH or seen.clipped < ALWAYS:
        return
    factor = seen.norms[1] / seen.clip
    message = (
        f"The Trainer clips{_of(seen)} at {seen.clipped:.0%} of the steps, to {seen.clip:g}, where a norm of "
        f"{seen.norms[1]:.2g} is usual: each step is {factor:,.1f} times shorter than the learning rate says."
    )
    evidence = {**_evidence(seen), "clipped_share": seen.clipped, "factor": factor}
    advice = f"Raise gradient_clip_val to about {2 * seen.norms[1]:.1g}, so that it meets only the largest gradients."
    if factor > GROSSLY and not seen.adaptive and _stuck(*seen.losses):
        yield Finding(CLIPPED, Severity.WARNING, message, advice, evidence)
    elif factor > 1:
        yield Finding(CLIPPED, Severity.INFO, message, "" if seen.adaptive else advice, evidence)


def _uncleared(seen: GradientsSeen) -> Iterator[Finding]:
    if seen.rounds < ROUNDS or seen.kept < seen.rounds:
        return
    message = (
        f"{_whose(seen)} are never cleared: in {seen.kept} of {seen.rounds} rounds from step to step each backward "
        f"pass was added to gradients already used; their norm went from {seen.norms[0]:.2g} to {seen.norms[1]:.2g}."
    )
    advice = "Call optimizer.zero_grad() before each backward, or after each step."
    yield Finding(UNCLEARED, Severity.ERROR, message, advice, {**_evidence(seen), "rounds": seen.rounds})


def _stuck(early: float, recent: float) -> bool:
    """Whether the loss is known and has not fallen."""
    return recent > early - (1 - NOT_FALLEN) * abs(early) and early != 0


def _risen(early: float, recent: float) -> bool:
    return recent > early + (RISEN - 1) * abs(early)


def _evidence(seen: GradientsSeen) -> dict[str, float | int | str]:
    return {
        "steps": seen.steps,
        "early_norm": seen.norms[0],
        "norm": seen.norms[1],
        "early_loss": seen.losses[0],
        "loss": seen.losses[1],
    }


def _of(seen: GradientsSeen) -> str:
    return f" of {seen.label}" if seen.label else ""


def _whose(seen: GradientsSeen) -> str:
    return f"The gradients{_of(seen)}"


def _elements(parameters: Sequence[ParameterSeen]) -> int:
    return sum(one.elements for one in parameters)


def _told(parameters: Sequence[ParameterSeen]) -> str:
    layers = list(dict.fromkeys(one.name.rpartition(".")[0] or one.name for one in parameters))
    more = f" and {len(layers) - NAMES} more layers" if len(layers) > NAMES else ""
    return ", ".join(f"`{layer}`" for layer in layers[:NAMES]) + more
