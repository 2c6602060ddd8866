"""Judgement on the modes in which a run trains and is validated; pure."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from lightning_rules.finding import Finding, Severity

TRAINING = "training-in-evaluation-mode"
VALIDATION = "validating-in-training-mode"
GRADIENTS = "gradients-in-validation"
CHANGES = "validation-changes-the-model"
ASPECTS = (TRAINING, VALIDATION, GRADIENTS, CHANGES)
IN_A_ROW = 3  # sampled batches; a step that looks at its own network in evaluation mode now and then is left alone
NAMES = 3


@dataclass(frozen=True)
class WrongLayer:
    """A trained layer that has run in evaluation mode only, in the last samples, as has the module that holds it.

    Attributes:
        name: Where it is.
        kind: Its class.
        since: The first training batch of this fit in which it was seen so.
        before: Whether it ran in training mode earlier.
    """

    name: str
    kind: str
    since: int
    before: bool


@dataclass(frozen=True)
class ModesSeen:
    """What a rank has seen until now.

    Attributes:
        samples: Training batches looked at.
        layers: How many layers ran in them whose mode matters.
        wrong: Those that have gone wrong.
        validations: Validation loops looked at, one batch of each.
        validated: How many layers ran in them whose mode matters.
        validated_in_training: Names of those that ran in training mode.
        wasted: In how many validations a graph was recorded that no gradient was taken through.
        changed: Names of tensors that a validation batch changed.
        tensors: Of so many.
    """

    samples: int = 0
    layers: int = 0
    wrong: tuple[WrongLayer, ...] = ()
    validations: int = 0
    validated: int = 0
    validated_in_training: tuple[str, ...] = ()
    wasted: int = 0
    changed: tuple[str, ...] = ()
    tensors: int = 0


def judge(ranks: Sequence[ModesSeen]) -> list[Finding]:
    """Findings on the modes; what is wrong on one rank counts, since all run the same program."""
    found = [
        *_judge_training(max(ranks, key=lambda seen: len(seen.wrong))),
        *_judge_validation(max(ranks, key=lambda seen: len(seen.validated_in_training))),
        *_judge_gradients(max(ranks, key=lambda seen: seen.wasted)),
        *_judge_changes(max(ranks, key=lambda seen: len(seen.changed))),
    ]
    return found or _nothing_wrong(ranks[0])


def _judge_training(seen: ModesSeen) -> Iterable[Finding]:
    if not seen.wrong:
        return
    kinds = ", ".join(dict.fromkeys(one.kind for one in seen.wrong))
    since = min(one.since for one in seen.wrong)
    began = f"from batch {since} on" if since else "from the first batch on"
    turned = any(one.before for one in seen.wrong)
    message = (
        f"{len(seen.wrong)} of {seen.layers} layers that matter ({kinds}: {_told([one.name for one in seen.wrong])}) "
        f"run in evaluation mode {began}{', after they were trained in training mode' if turned else ''}: "
        f"{_consequence(seen.wrong)}."
    )
    advice = (
        "Call train() after the eval() that was called last: look where epochs end and where pictures, samples or "
        "metrics are made; Lightning puts the modes back only after its own validation."
        if turned
        else "Call module.train() before fit (Lightning keeps the modes it finds), and call no eval() in the training "
        "step or its hooks without train() after it."
    )
    evidence = {"in_evaluation_mode": len(seen.wrong), "layers": seen.layers, "since_batch": since}
    yield Finding(TRAINING, Severity.WARNING, message, advice, evidence)


def _judge_validation(seen: ModesSeen) -> Iterable[Finding]:
    names = seen.validated_in_training
    if not names:
        return
    message = (
        f"{len(names)} of {seen.validated} layers that do another thing in training ({_told(names)}) ran in training "
        "mode while validating: the metrics have dropout's noise, and batch norm normalises by the validation batch "
        "and learns from it."
    )
    advice = (
        "Take the train() out of validation_step and its hooks, or hand it back with eval(); if the noise is meant "
        "(Monte Carlo dropout), ignore this."
    )
    evidence = {"in_training_mode": len(names), "layers": seen.validated}
    yield Finding(VALIDATION, Severity.WARNING, message, advice, evidence)


def _judge_gradients(seen: ModesSeen) -> Iterable[Finding]:
    if not seen.wasted:
        return
    message = (
        f"Gradients are enabled while validating: in {seen.wasted} of {seen.validations} validations the network "
        "recorded a graph that nothing was differentiated through, which keeps all activations in memory."
    )
    advice = "Take set_grad_enabled(True) or enable_grad() out of validation_step, or put it around what needs it."
    yield Finding(GRADIENTS, Severity.WARNING, message, advice, {"validations": seen.wasted})


def _judge_changes(seen: ModesSeen) -> Iterable[Finding]:
    if not seen.changed:
        return
    statistics = all("running_" in name for name in seen.changed)
    what = "batch norm's statistics" if statistics else "the network's weights"
    message = (
        f"A validation batch changes {what}: {len(seen.changed)} of {seen.tensors} tensors are not what they were "
        f"({_told(seen.changed)}), so that the model learns from the data it is judged by."
    )
    advice = (
        "Validate with batch norm in evaluation mode: look for a train() in validation_step and its hooks."
        if statistics
        else "Take the optimiser's step, or what else writes to the weights, out of validation_step."
    )
    yield Finding(CHANGES, Severity.WARNING, message, advice, {"changed": len(seen.changed), "tensors": seen.tensors})


def _nothing_wrong(seen: ModesSeen) -> list[Finding]:
    """What holds, at the end."""
    found = []
    if seen.layers and seen.samples:
        message = f"No trained part ran in evaluation mode in the last of {seen.samples} training batches looked at."
        found.append(Finding(TRAINING, Severity.OK, message, evidence={"layers": seen.layers}))
    if seen.validations:
        message = (
            f"{seen.validations} validations ran in evaluation mode ({seen.validated} layers that matter), without a "
            f"graph, and left {seen.tensors} tensors as they were."
        )
        found.append(Finding(VALIDATION, Severity.OK, message, evidence={"layers": seen.validated}))
    return found


def _consequence(wrong: Sequence[WrongLayer]) -> str:
    norms = ["a norm neither normalises by the batch nor learns its statistics"]
    others = ["dropout is off"]
    kinds = {"Norm" in one.kind for one in wrong}
    return " and ".join((others if False in kinds else []) + (norms if True in kinds else []))


def _told(names: Sequence[str]) -> str:
    more = f" and {len(names) - NAMES} more" if len(names) > NAMES else ""
    return ", ".join(f"`{name}`" for name in names[:NAMES]) + more
