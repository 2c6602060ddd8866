"""Aspects of the model's audit: do the optimisers hold the parameters that the loss depends on, and only those?

Source: Karpathy (2019), "A Recipe for Training Neural Networks", "Neural net training fails silently".
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from lightning_rules.audit import Part
from lightning_rules.deadline import Deadline
from lightning_rules.finding import Finding, Severity
from lightning_rules.preflight.model_seen import ModelSeen
from lightning_rules.preflight.step_facts import Facts, ParameterSeen, facts_of

UNTRAINED = "untrained-parameters"
FOREIGN = "foreign-parameters"
HIDDEN = "hidden-layers"
DETACHED = "detached-layers"
DEAD = "no-gradient"
FROZEN = "frozen-in-optimiser"
UNUSED = "unused-parameters"
BLOCK = 0.05  # of the parameters to be trained: what is detached is a part of the network, not a stray layer
MOST = 0.5  # of them have exactly zero gradients: the loss does not reach the network
NAMES = 3  # that a message gives


def measure(seen: ModelSeen, deadline: Deadline) -> Facts:
    """What the first training step does with each parameter."""
    return facts_of(seen)


def judge(ranks: Sequence[Facts]) -> list[Finding]:
    """Findings on the first rank's step; pure. All ranks run the same program."""
    facts = ranks[0]
    found = [*_hidden(facts), *_foreign(facts), *_untrained(facts), *_detached(facts), *_dead(facts)]
    return [*found, *_remarks(facts)] or [_all_well(facts)]


PART = Part((UNTRAINED, FOREIGN, HIDDEN, DETACHED, DEAD, FROZEN, UNUSED), measure, judge)


def _reached(one: ParameterSeen) -> bool:
    return one.gradient in ("some", "not finite")


def _own(facts: Facts) -> list[ParameterSeen]:
    """Parameters that the module knows of."""
    return [one for one in facts.parameters if not one.foreign and not one.hidden]


def _to_train(facts: Facts) -> list[ParameterSeen]:
    return [one for one in _own(facts) if one.trained and one.optimised]


def _hidden(facts: Facts) -> Iterator[Finding]:
    hidden = [one for one in facts.parameters if one.hidden and one.trained and _reached(one)]
    lost = [one for one in hidden if not one.optimised and not one.evaluation]
    if lost:
        where = lost[0].name.partition("[")[0]
        message = (
            f"Never trained, since a plain container hides them from the optimiser, checkpoints and .to(device): "
            f"{_told(lost)}, with gradients in the training step."
        )
        advice = f"Make `{where}` an nn.ModuleList, nn.ModuleDict or nn.ParameterList."
        yield Finding(HIDDEN, Severity.ERROR, message, advice, _evidence(lost))
    elif hidden:
        message = f"In a plain container, so in no checkpoint and left behind by .to(device): {_told(hidden)}."
        yield Finding(HIDDEN, Severity.INFO, message, evidence=_evidence(hidden))


def _foreign(facts: Facts) -> Iterator[Finding]:
    foreign = [one for one in facts.parameters if one.foreign and one.trained]
    idle = [one for one in foreign if one.gradient == "none"]
    lost = _lost(facts)
    if idle and lost:
        message = (
            f"The optimiser trains another copy of the network: it holds {len(idle)} tensors that are not the "
            f"module's and "
            f"get no gradient, and lacks {_told(lost)} of the module, with gradients."
        )
        advice = (
            "Make the optimiser in configure_optimizers, after the module has all its layers, from self.parameters()."
        )
        yield Finding(FOREIGN, Severity.ERROR, message, advice, _evidence(idle))
    elif foreign:
        message = f"The optimisers hold {len(foreign)} tensors that are not the module's; no checkpoint holds them."
        yield Finding(FOREIGN, Severity.INFO, message, evidence=_evidence(foreign))


def _lost(facts: Facts) -> list[ParameterSeen]:
    """Those that get a gradient in training mode, and are in no optimiser."""
    return [one for one in _own(facts) if one.trained and not one.optimised and _reached(one) and not one.evaluation]


def _untrained(facts: Facts) -> Iterator[Finding]:
    lost = _lost(facts)
    if not lost or any(one.foreign and one.gradient == "none" and one.trained for one in facts.parameters):
        return
    everything = sum(one.elements for one in _own(facts) if one.trained)
    message = (
        f"In no optimiser, though trainable and with gradients: {_told(lost)}; {_elements(lost):,} of {everything:,} "
        "trainable numbers never move."
    )
    advice = "Give them to an optimiser, or set requires_grad=False where they are frozen on purpose."
    yield Finding(UNTRAINED, Severity.WARNING, message, advice, _evidence(lost))


def _detached(facts: Facts) -> Iterator[Finding]:
    """Layers that ran before the first layer that gets a gradient, and fed it without a graph."""
    reached = [one.ran for one in facts.parameters if _reached(one) and one.ran is not None]
    first = min(reached, default=0)
    before = [one for one in _to_train(facts) if one.gradient == "none" and one.ran is not None and one.ran < first]
    silent = first in facts.silently
    below = [one for one in before if one.linked or (silent and not one.evaluation)]
    share = _elements(below) / max(1, _elements(_to_train(facts)))
    if not below or share < BLOCK or facts.fed.get(first, False):
        return
    message = (
        f"No gradient comes back to {_told(below)}, though these layers ran "
        f"{'with gradients off, to feed' if silent else 'with gradients on, before'} `{_layer(facts, first)}`, which "
        f"has one: {share:.0%} of what the optimiser holds never moves."
    )
    culprit = "torch.no_grad() or inference_mode()" if silent else "detach(), .data, .item() or NumPy call"
    advice = f"Take the {culprit} between these layers and the next out, or freeze them with requires_grad_(False)."
    severity = Severity.INFO if facts.manual else Severity.WARNING
    yield Finding(DETACHED, severity, message, advice, _evidence(below))


def _dead(facts: Facts) -> Iterator[Finding]:
    trained = _to_train(facts)
    dead = [one for one in trained if one.gradient == "zero"]
    if not dead:
        return
    share = _elements(dead) / max(1, _elements(trained))
    # A zero weight or scale (a branch that starts as nothing) keeps gradients from what is below it, and soon lets go.
    closed = any(one.zero and "bias" not in one.name.rpartition(".")[2] for one in facts.parameters if not one.foreign)
    message = f"A gradient of exactly zero comes to {_told(dead)}: {share:.0%} of what the optimiser holds."
    if share < MOST or closed:
        yield Finding(DEAD, Severity.INFO, message, evidence=_evidence(dead))
        return
    advice = (
        "Look for units that are off for every example (a bias far below zero before a ReLU, a saturated sigmoid), "
        "or a "
        "loss that is constant (a clamp, a rounding)."
    )
    yield Finding(DEAD, Severity.WARNING, message, advice, _evidence(dead))


def _remarks(facts: Facts) -> Iterator[Finding]:
    frozen = [one for one in _own(facts) if one.optimised and not one.trained]
    if frozen:
        message = f"Frozen, and yet in an optimiser: {_told(frozen)}."
        yield Finding(FROZEN, Severity.INFO, message, evidence=_evidence(frozen))
    unused = [one for one in _to_train(facts) if one.gradient == "none"]
    if unused:
        message = f"In an optimiser, but without a gradient from the training step: {_told(unused)}."
        yield Finding(UNUSED, Severity.INFO, message, evidence=_evidence(unused))


def _all_well(facts: Facts) -> Finding:
    trained = _to_train(facts)
    message = f"The optimisers hold all {len(trained)} parameters that require a gradient, and each gets one."
    return Finding(UNTRAINED, Severity.OK, message, evidence=_evidence(trained))


def _layer(facts: Facts, place: int) -> str:
    return next(one.name for one in facts.parameters if one.ran == place).rpartition(".")[0]


def _elements(parameters: Sequence[ParameterSeen]) -> int:
    return sum(one.elements for one in parameters)


def _told(parameters: Sequence[ParameterSeen]) -> str:
    names = ", ".join(f"`{one.name}`" for one in parameters[:NAMES])
    more = f" and {len(parameters) - NAMES} more" if len(parameters) > NAMES else ""
    return f"{len(parameters)} parameter{'s' if len(parameters) > 1 else ''} ({names}{more})"


def _evidence(parameters: Sequence[ParameterSeen]) -> dict[str, float]:
    return {"parameters": len(parameters), "elements": _elements(parameters)}
