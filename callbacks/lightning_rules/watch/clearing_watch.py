"""Whether gradients are cleared between two steps of an optimiser, as seen when a backward pass begins."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

ENOUGH = 12  # rounds
PATIENCE = 256  # backward passes that are looked at in vain


class ClearingWatch:
    """Follows the rounds of one optimiser: from a step, through backward passes, to the next step.

    A round in which some backward pass has begun with no gradient, or only zeros, was cleared. One in which every
    backward pass found gradients was not: what came was added to what an earlier step had used.

    Args:
        parameters: Those of the optimiser.
    """

    def __init__(self, parameters: Sequence[Tensor]) -> None:
        self.parameters = parameters
        self.rounds = 0
        self._tries = 0
        self._begun = self._cleared = False
        self._met: list[Tensor] = []
        self._kept: list[Tensor] = []

    @property
    def is_over(self) -> bool:
        """Whether enough was seen."""
        return self.rounds >= ENOUGH or self._tries >= PATIENCE

    def backward_begins(self) -> None:
        """Look at what the gradients are, if a step was seen before."""
        self._tries += 1
        if not self._begun or self._cleared:
            return
        gradients = [gradient for one in self.parameters if (gradient := one.grad) is not None]
        if not gradients or any(gradient.is_sparse for gradient in gradients):
            self._cleared = True
            return
        norms = torch._foreach_norm([gradient.detach() for gradient in gradients])
        self._met.append(torch.stack([norm.to(norms[0]) for norm in norms]).amax())

    def stepped(self) -> None:
        """The optimiser steps: a round ends, and the next begins."""
        if self._begun and not self._cleared and self._met:
            self._kept.append((torch.stack(self._met).amin() > 0).float())
        self.rounds += self._begun and (self._cleared or bool(self._met))
        self._begun, self._cleared, self._met = True, False, []

    def readings(self) -> tuple[int, list[Tensor]]:
        """Rounds so far, and of those that ended since the last look: whether they began with gradients."""
        kept, self._kept = self._kept, []
        return self.rounds, kept
