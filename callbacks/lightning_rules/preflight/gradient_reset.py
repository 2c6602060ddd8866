"""An aspect of the model's audit: are gradients set to zero between the steps of an optimiser?

Lightning does so itself, unless the module optimises manually or overrides ``optimizer_zero_grad``. In manual
optimisation the user's ``training_step`` is run several times with gradients that are real and optimisers that move
nothing, and each gradient that arrives is seen: does it meet what an earlier step has left?

Source: PyTorch (2026), "Automatic Differentiation Package", "Default gradient layouts": gradients accumulate.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack, nullcontext
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from lightning_rules.audit import Part
from lightning_rules.deadline import Deadline
from lightning_rules.finding import Finding, Severity
from lightning_rules.namespace import namespace_of
from lightning_rules.preflight.mentions import mentions
from lightning_rules.preflight.model_seen import ModelSeen
from lightning_rules.rule import NotApplicable
from lightning_rules.view import View

NAME = "gradients-kept"
RUNS = 16  # of the training step: one that accumulates over more batches is not judged
ENOUGH = 4  # steps of an optimiser
# Hooks in which people set gradients to zero as well; the training step alone is run here.
ELSEWHERE = ("on_train_batch_start", "on_train_batch_end", "on_before_zero_grad", "on_after_backward", "backward")


@dataclass(frozen=True)
class Kept:
    """How an optimiser's gradients fared.

    Attributes:
        steps: How often it stepped.
        kept: Between how many pairs of its steps gradients were added to those of an earlier step, and never to none.
        growth: The norm of the gradients at its last step over that at its first.
        empty: At how many steps all gradients had been cleared again, though some had come since the step before.
    """

    steps: int
    kept: int
    growth: float = 1.0
    empty: int = 0


def measure(seen: ModelSeen, deadline: Deadline) -> list[Kept]:
    """How the gradients of each optimiser fare over several training steps.

    Raises:
        NotApplicable: A hook may set gradients to zero, or the training step cannot be run.
    """
    view, module = seen.view, seen.module
    if module.automatic_optimization:
        return _overridden(view)
    owners = [module, *seen.trainer.callbacks]
    if any(mentions(getattr(type(owner), name, None), "zero_grad", owner) for owner in owners for name in ELSEWHERE):
        raise NotApplicable("a hook sets gradients to zero, and the training step alone says nothing about it.")
    if not seen.optimizers:
        raise NotApplicable("the run has no optimiser.")
    batches: list[Any] = view.batches(ENOUGH)
    with view.on_loan(), ExitStack() as hooks:
        watches = [_Watch(optimizer, hooks) for optimizer in seen.optimizers]
        _lend(module, watches)
        for run in range(RUNS):
            view.loss(batches[run % len(batches)], run)
            if all(watch.steps >= ENOUGH for watch in watches):
                break
            deadline.require(0.01, "several training steps")
    return [Kept(watch.steps, watch.kept, watch.growth, watch.empty) for watch in watches]


def _overridden(view: View) -> list[Kept]:
    """Whether ``optimizer_zero_grad`` ever clears gradients, where the module overrides it; else Lightning does."""
    module = view.module
    base = namespace_of(module).LightningModule.optimizer_zero_grad
    if type(module).optimizer_zero_grad is base:
        return []
    with view.on_loan():
        for optimizer in view.trainer.optimizers:
            for run in range(RUNS):
                parameters = [one for group in optimizer.param_groups for one in group["params"] if one.requires_grad]
                for parameter in parameters:
                    parameter.grad = torch.ones_like(parameter)
                module.optimizer_zero_grad(0, run, optimizer)
                if all(_is_clear(parameter) for parameter in parameters):
                    return [Kept(ENOUGH, 0)]
    return [Kept(ENOUGH, ENOUGH - 1)]


def _is_clear(parameter: Tensor) -> bool:
    return parameter.grad is None or not bool(parameter.grad.any())


def _lend(module: Any, watches: list[_Watch]) -> None:
    """Give the module optimisers that stand still and gradients that are real, in place of what View mutes."""
    lent: Any = watches if len(watches) > 1 else watches[0]
    parameters = [parameter for watch in watches for parameter in watch.parameters]

    def backward(loss: Tensor, *args: Any, **kwargs: Any) -> None:
        # Not loss.backward(): DDP's hooks would take it for a step of the run.
        gradients = torch.autograd.grad(loss, parameters, allow_unused=True, retain_graph=kwargs.get("retain_graph"))
        for parameter, gradient in zip(parameters, gradients, strict=True):
            if gradient is not None:
                parameter.grad = gradient if parameter.grad is None else parameter.grad + gradient

    vars(module).update(manual_backward=backward, optimizers=lambda *args, **kwargs: lent)


class _Watch:
    """Stands for an optimiser: moves nothing, clears gradients for real, and sees what each new gradient meets."""

    def __init__(self, optimizer: Any, hooks: ExitStack) -> None:
        self.optimizer = optimizer
        groups = [one for group in optimizer.param_groups for one in group["params"]]
        self.parameters: list[Tensor] = [one for one in groups if one.requires_grad]
        self.steps = self.kept = self.empty = 0
        self.growth = 1.0
        self._first = 0.0
        self._met_nothing = self._met_something = self._came = False
        for parameter in self.parameters:
            hooks.callback(parameter.register_hook(partial(self._arrived, parameter)).remove)  # type: ignore[no-untyped-call]

    def __getattr__(self, name: str) -> Any:
        return getattr(self.optimizer, name)

    def _arrived(self, parameter: Tensor, gradient: Tensor) -> None:
        self._came |= bool(gradient.any())
        if self.steps:
            clear = _is_clear(parameter)
            self._met_nothing |= clear
            self._met_something |= not clear

    def step(self, closure: Any = None, **kwargs: Any) -> Any:
        """Move nothing."""
        value = closure() if closure is not None else None
        norm = float(sum(float(one.grad.float().norm()) ** 2 for one in self.parameters if one.grad is not None)) ** 0.5
        self._first = self._first or norm
        self.growth = norm / self._first if self._first else 1.0
        self.kept += self._met_something and not self._met_nothing
        self.empty += self._came and norm == 0
        self._met_nothing = self._met_something = self._came = False
        self.steps += 1
        return value

    def zero_grad(self, *args: Any, **kwargs: Any) -> None:
        """Clear the gradients."""
        self.optimizer.zero_grad()

    def toggle_model(self, *args: Any, **kwargs: Any) -> Any:
        """Change nothing."""
        return nullcontext()


def judge(ranks: Sequence[list[Kept]]) -> list[Finding]:
    """Findings on the first rank's optimisers; pure. All ranks run the same program."""
    found = []
    for place, seen in enumerate(ranks[0]):
        which = f"Optimiser {place}" if len(ranks[0]) > 1 else "The optimiser"
        evidence = {"steps": seen.steps, "kept": seen.kept, "growth": seen.growth, "empty": seen.empty}
        if seen.steps >= 2 and seen.empty == seen.steps:
            message = f"{which} steps on cleared gradients: in {seen.empty} of {seen.steps} steps all were zero again."
            advice = "Call optimizer.zero_grad() before backward or after step, not between the two."
            found.append(Finding(NAME, Severity.ERROR, message, advice, evidence))
            continue
        if seen.steps >= ENOUGH and seen.kept >= seen.steps - 1:
            message = (
                f"{which} never starts from cleared gradients: in {seen.kept} of {seen.steps - 1} steps they were "
                f"added to "
                f"those of the steps before, and their norm came to {seen.growth:.1f} times that of the first."
            )
            advice = "Call optimizer.zero_grad() before each backward, or after each step."
            found.append(Finding(NAME, Severity.ERROR, message, advice, evidence))
        elif seen.steps >= 2:
            message = f"{which} starts each step from cleared gradients."
            found.append(Finding(NAME, Severity.OK, message, evidence=evidence))
        else:
            message = (
                f"{which} took {seen.steps} steps in {RUNS} batches: too few to see whether gradients are cleared."
            )
            found.append(Finding(NAME, Severity.INFO, message, evidence=evidence))
    return found


PART = Part((NAME,), measure, judge)
