"""A few steps on one batch with a copy of the run's own optimiser, at its schedule's highest rate."""

from __future__ import annotations

import inspect
import math
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Any

import torch
from torch import nn

from lightning_rules.deadline import Deadline
from lightning_rules.namespace import namespace_of
from lightning_rules.preflight.batch_parts import examples_in, seconds_of
from lightning_rules.rule import NotApplicable
from lightning_rules.short_training import calm, learned_parameters, train
from lightning_rules.view import View

STEPS = 20
LEAST = 8  # examples: fewer say too little about the batches of the run
SECONDS = 2.0  # that it may take
RAMP = 6  # steps over which the rate rises, whether or not the run warms up
LAST = 5


@dataclass(frozen=True)
class OwnSteps:
    """What the run's own optimiser did to the loss of one batch.

    Attributes:
        name: The optimiser's class.
        rate: The highest rate of its groups.
        start: What the step returned before.
        last: The least of the last five losses; NaN where one of them was not finite.
        highest: The highest loss.
        moved: The largest change of the loss, relative to the start.
        steps: How many steps.
    """

    name: str
    rate: float
    start: float
    last: float
    highest: float
    moved: float
    steps: int


def own_steps(view: View, batch: Any, deadline: Deadline, quiet: bool) -> OwnSteps:
    """Train on one whole batch, of the size that the rate was chosen for, with a fresh copy of the run's optimiser.

    Raises:
        NotApplicable: There are several optimisers, one that needs a closure, or clipping of the module's own.
        OutOfTime: It would take longer than two seconds, or than what is left.
    """
    learned_parameters(view)
    if examples_in(batch) < LEAST:
        raise NotApplicable(f"a batch of {examples_in(batch)} examples is too small.")
    base = namespace_of(view.module).LightningModule
    if type(view.module).configure_gradient_clipping is not base.configure_gradient_clipping:
        raise NotApplicable("the module clips gradients in a way of its own.")
    deadline.within(SECONDS).require(3 * STEPS * seconds_of(view, batch), f"{STEPS} steps")
    losses: list[float] = []
    with view.on_loan() as lent:
        if quiet:
            calm(view.module)
        optimizer = fresh_copy(view)
        peaks = [group["lr"] for group in optimizer.param_groups]
        clipped = _Clipped(optimizer, view.trainer)
        vars(view.module)["clip_gradients"] = clipped.as_told  # on loan, what a step sets here leaves no trace
        steps = train(view, lent, [batch], clipped)
        for number, loss in enumerate(islice(steps, STEPS)):
            losses.append(loss)
            for group, peak in zip(optimizer.param_groups, peaks, strict=True):
                group["lr"] = peak * min(1.0, (number + 1) / RAMP)
            if not math.isfinite(loss) or deadline.left == 0:
                break
    last = losses[-LAST:]
    return OwnSteps(
        name=type(optimizer).__name__,
        rate=max(float(peak) for peak in peaks),
        start=losses[0],
        last=min(last) if all(map(math.isfinite, last)) else math.nan,
        highest=max(losses),
        moved=max(abs(loss - losses[0]) for loss in losses) / max(abs(losses[0]), 1e-12),
        steps=len(losses),
    )


def fresh_copy(view: View) -> torch.optim.Optimizer:
    """An optimiser of the same class and settings on the same parameters, with no state, at its peak rate.

    Raises:
        NotApplicable: It needs a closure, or cannot be made again from its groups.
    """
    optimizer = view.trainer.optimizers[0]
    if isinstance(optimizer, torch.optim.LBFGS):
        raise NotApplicable("the optimiser evaluates the loss several times a step.")
    groups = [{**group, "lr": peak_of(group)} for group in optimizer.param_groups]
    takes = inspect.signature(type(optimizer)).parameters
    defaults = {name: value for name, value in optimizer.defaults.items() if name in takes}
    try:
        again: torch.optim.Optimizer = type(optimizer)(groups, **defaults)
    except Exception as error:
        raise NotApplicable(f"{type(optimizer).__name__} cannot be made again from its settings.") from error
    return again


def peak_of(group: dict[str, Any]) -> float:
    """The highest rate that a schedule is known to reach."""
    return max(float(group[key]) for key in ("lr", "initial_lr", "max_lr") if group.get(key) is not None)


class _Clipped:
    """An optimiser behind gradient clipping: the Trainer's, or that of a step under manual optimisation."""

    def __init__(self, optimizer: torch.optim.Optimizer, trainer: Any) -> None:
        self.optimizer = optimizer
        self.as_told(None, trainer.gradient_clip_val, trainer.gradient_clip_algorithm)

    def as_told(self, _: Any, gradient_clip_val: Any = None, gradient_clip_algorithm: Any = None) -> None:
        """Stand in for ``LightningModule.clip_gradients``: the next step clips so."""
        self.bound, self.by_value = gradient_clip_val, str(gradient_clip_algorithm).endswith("value")

    @property
    def param_groups(self) -> Any:
        return self.optimizer.param_groups

    def _with_gradient(self) -> Iterator[nn.Parameter]:
        return (p for group in self.param_groups for p in group["params"] if p.grad is not None)

    def step(self) -> None:
        if self.bound and self.by_value:
            nn.utils.clip_grad_value_(self._with_gradient(), self.bound)
        elif self.bound:
            nn.utils.clip_grad_norm_(list(self._with_gradient()), self.bound)
        self.optimizer.step()
