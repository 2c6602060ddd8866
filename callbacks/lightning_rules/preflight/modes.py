"""Aspects of the model's audit: does it train in training mode, and is it validated in evaluation mode?

Source: Goodfellow, Bengio and Courville (2016), "Deep Learning", sections 7.12 (dropout) and 8.7.1 (batch
normalisation): both do one thing in training and another in use.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from lightning_rules.audit import Part
from lightning_rules.deadline import Deadline
from lightning_rules.finding import Finding, Severity
from lightning_rules.hidden_parts import named_parts, sensitive
from lightning_rules.namespace import namespace_of
from lightning_rules.preflight.mentions import mentions
from lightning_rules.preflight.model_seen import ModelSeen
from lightning_rules.preflight.step_facts import LayerMode, facts_of
from lightning_rules.rule import attempt

TRAINING = "evaluation-mode-in-training"
VALIDATION = "training-mode-in-validation"
# What Lightning calls before a validation step, in this order.
BEFORE_VALIDATION = ("on_validation_model_eval", "on_validation_start", "on_validation_epoch_start")
NAMES = 3


@dataclass(frozen=True)
class ModesSeen:
    """In which modes layers run.

    Attributes:
        training: Those that ran in the training step, and do another thing in training.
        validation: Names of those that ran in training mode in the validation step; None where there is none.
        validated: How many such layers ran in it.
    """

    training: tuple[LayerMode, ...]
    validation: tuple[str, ...] | None = None
    validated: int = 0


def measure(seen: ModelSeen, deadline: Deadline) -> ModesSeen:
    """The modes of the layers in a training step and in a validation step."""
    training = facts_of(seen).modes
    validated, _ = attempt(partial(_validated, seen))
    if validated is None:
        return ModesSeen(training)
    return ModesSeen(training, tuple(name for name, mode in validated.items() if mode), len(validated))


def _validated(seen: ModelSeen) -> dict[str, bool]:
    """For each layer that ran in a validation step whether it ran in training mode."""
    ran: dict[str, bool] = {}

    def hook(name: str, part: Any, inputs: Any) -> None:
        ran[name] = ran.get(name, False) or part.training

    batch: Any = seen.view.validation_batches(1)[0]
    parts = [(name, part) for name, part in named_parts(seen.module) if sensitive(part)]
    handles = [part.register_forward_pre_hook(partial(hook, name)) for name, part in parts]
    outer = seen.trainer.model  # DDP's wrapper, whose mode the module's own hooks may set
    mode = outer.training
    try:
        with seen.view.validation_step(batch, begin=partial(_begin, seen.module)):
            return ran
    finally:
        outer.training = mode
        for handle in handles:
            handle.remove()


def _begin(module: Any) -> None:
    """Evaluation mode, as Lightning sets it, and what the module's own hooks make of it."""
    module.eval()
    base = namespace_of(module).LightningModule
    for name in BEFORE_VALIDATION:
        own = getattr(type(module), name, None)
        if own is getattr(base, name, None):
            continue
        if name == "on_validation_model_eval":
            module.train()  # it replaces what Lightning does
        if name == "on_validation_model_eval" or mentions(own, "train", module):
            getattr(module, name)()


def judge(ranks: Sequence[ModesSeen]) -> list[Finding]:
    """Findings on the first rank's modes; pure. All ranks run the same program."""
    return [*_judge_training(ranks[0].training), *_judge_validation(ranks[0])]


def _judge_training(layers: Sequence[LayerMode]) -> list[Finding]:
    still = [one for one in layers if one.evaluation and not one.training and one.trained]
    wrong = [one for one in still if one.around]
    evidence = {"layers": len(layers), "in_evaluation_mode": len(still)}
    if wrong:
        kinds = ", ".join(dict.fromkeys(one.kind for one in wrong))
        message = (
            f"{len(wrong)} of {len(layers)} layers that matter ({kinds}: {_told([one.name for one in wrong])}) run "
            "in evaluation mode in the training step, though their parts of the network are trained: dropout is "
            "off, and "
            "batch norm neither normalises by the batch nor learns its statistics."
        )
        advice = (
            "Call module.train() before fit (Lightning keeps the modes it finds), and no eval() in the training "
            "step or its "
            "hooks without train() after it."
        )
        return [Finding(TRAINING, Severity.WARNING, message, advice, evidence)]
    if still:
        message = (
            f"{len(still)} layers ({_told([one.name for one in still])}) run in evaluation mode, as single layers."
        )
        return [Finding(TRAINING, Severity.INFO, message, evidence=evidence)]
    if layers:
        return [Finding(TRAINING, Severity.OK, f"All {len(layers)} trained layers that matter run in training mode.")]
    return []


def _judge_validation(seen: ModesSeen) -> list[Finding]:
    if not seen.validation:
        return []
    message = (
        f"{len(seen.validation)} of {seen.validated} layers that do another thing in training "
        f"({_told(seen.validation)}) run "
        "in training mode in the validation step: its metrics have dropout's noise, and batch norm learns from "
        "validation "
        "data."
    )
    advice = (
        "Take the train() out of validation_step and its hooks; if the noise is meant (Monte Carlo dropout), ignore "
        "this."
    )
    evidence = {"in_training_mode": len(seen.validation), "layers": seen.validated}
    return [Finding(VALIDATION, Severity.WARNING, message, advice, evidence)]


PART = Part((TRAINING, VALIDATION), measure, judge)


def _told(names: Sequence[str]) -> str:
    more = f" and {len(names) - NAMES} more" if len(names) > NAMES else ""
    return ", ".join(f"`{name}`" for name in names[:NAMES]) + more
