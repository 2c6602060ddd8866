"""Drive one batch to zero loss, with optimisers of a probe's own, as long as there is progress."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

import torch
from torch import Tensor, nn

from lightning_rules.deadline import Deadline
from lightning_rules.short_training import train
from lightning_rules.view import View

RATES = (1e-2, 1e-3)  # Adam's; the second where the first does not get there
STEPS = (160, 240)  # at each rate
WARM_UP = 5
PATIENCE = 30  # steps without progress that make a plateau
PROGRESS = 0.03  # of the distance to the floor


@dataclass(frozen=True)
class Fit:
    """How far one training came.

    Attributes:
        losses: What the step returned before each update; the last is that of the fitted network.
        plateau: Whether it ended because nothing moved any more, and not because its steps or its time were over.
    """

    losses: list[float]
    plateau: bool

    @property
    def least(self) -> float:
        """The lowest loss; infinite where none was finite."""
        return min((loss for loss in self.losses if math.isfinite(loss)), default=math.inf)


class RampedAdam(torch.optim.Adam):
    """Adam whose rate rises over the first steps, and whose gradients' norm is held to that of recent steps.

    A loss that is scaled by a constant is trained alike: epsilon is small.
    """

    def __init__(self, parameters: Iterable[nn.Parameter], lr: float) -> None:
        super().__init__(parameters, lr=lr, eps=1e-12)
        self.peak, self.steps, self.usual = lr, 0, math.inf

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        """Update the parameters; an update that is not finite is left out."""
        self.steps += 1
        with_gradient = [p for group in self.param_groups for p in group["params"] if p.grad is not None]
        if not with_gradient:
            return
        norm = float(nn.utils.clip_grad_norm_(with_gradient, 2 * self.usual))
        if not math.isfinite(norm):
            return
        self.usual = norm if math.isinf(self.usual) else max(0.9 * self.usual, min(norm, 1.1 * self.usual))
        for group in self.param_groups:
            group["lr"] = self.peak * min(1.0, self.steps / WARM_UP)
        super().step(closure)


def fit(
    view: View,
    lent: list[Tensor],
    batch: Any,
    parameters: Sequence[nn.Parameter],
    rate: float,
    steps: int,
    goal: float,
    deadline: Deadline,
) -> Fit:
    """Train on one batch until its loss is at the goal, or at a plateau above it.

    Args:
        view: The run, on loan.
        lent: What ``view.on_loan()`` gave.
        batch: The batch.
        parameters: What is trained.
        rate: Adam's.
        steps: How many at most.
        goal: The loss at which the batch counts as learned.
        deadline: Ends the training as well.
    """
    losses: list[float] = []
    for loss in islice(train(view, lent, [batch], RampedAdam(parameters, rate)), steps):
        losses.append(loss)
        if loss <= goal:
            return Fit(losses, False)
        if is_plateau(losses):
            return Fit(losses, True)
        if deadline.left == 0:
            break
    return Fit(losses, False)


def is_plateau(losses: Sequence[float]) -> bool:
    """Whether the lowest loss of the last steps is no lower than that of the steps before, but for a little."""
    if len(losses) <= PATIENCE + WARM_UP:
        return False
    recent = [loss for loss in losses[-PATIENCE:] if math.isfinite(loss)]
    before = [loss for loss in losses[:-PATIENCE] if math.isfinite(loss)]
    if not recent or not before:
        return True
    return min(recent) > min(before) - PROGRESS * abs(min(before))
