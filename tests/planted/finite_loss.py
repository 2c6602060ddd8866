"""A sound rule, into which tests/test_testing.py plants defects."""

import random  # noqa: F401  # for defects that use it
from collections.abc import Sequence
from enum import Enum
from typing import Any, Literal

import torch  # noqa: F401  # for defects that use it

from lightning_rules import Finding, Rule, Severity
from lightning_rules.rule import NotApplicable
from lightning_rules.view import View


class Mode(Enum):
    SOFT = "soft"


class FiniteLoss(Rule):
    """The loss of the first batch is finite.

    Why: Nothing is learned from an infinite loss.

    What it does: Runs ``training_step`` on one batch.

    Fires when: The loss is above a limit, or not finite.

    Under DDP: Each rank looks at its own batch; the worst counts.

    Cost: One forward pass.

    Example:
        >>> FiniteLoss(limit=10.0).limit
        10.0

    Source: Author (2020), section 1.

    Args:
        limit: The largest loss that is
            thought normal.
        on_error: ``"warn"`` or ``"raise"``.
    """

    name = "finite-loss"
    source = "Author (2020), section 1"
    kind = "check"

    def __init__(self, limit: float | None = 100.0, on_error: Literal["warn", "raise"] = "warn") -> None:
        super().__init__(on_error)
        self.limit = limit

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        self.observe(trainer, lambda: measure(trainer, pl_module), self.judge)

    def judge(self, losses: Sequence[float]) -> list[Finding]:
        fine = max(losses) <= self.limit
        severity = Severity.OK if fine else Severity.WARNING
        advice = "" if fine else "Lower the learning rate."
        return [Finding(self.name, severity, f"The loss is {max(losses):.3g}.", advice, {"loss": max(losses)})]


def measure(trainer: Any, pl_module: Any) -> float:
    view = View(trainer, pl_module)
    batch = view.batches(1)[0]
    with view.step(batch) as step:
        if step.loss is None:
            raise NotApplicable("training_step returns no loss.")
        return float(step.loss)
