"""What the checks before the first step have in common: they share a span of time, and a resumed run is left alone."""

from __future__ import annotations

import logging
import math
from abc import abstractmethod
from collections.abc import Iterable, Sequence
from typing import Any, Literal

from lightning_rules.deadline import Deadline
from lightning_rules.ranks import gather
from lightning_rules.rule import Finding, NotApplicable, Rule
from lightning_rules.view import View

log = logging.getLogger("lightning_rules")


class PreflightCheck(Rule):
    """A check of the run before its first step.

    A subclass implements :meth:`measure` and :meth:`judge`. All pre-flight checks of a Trainer share one span of
    time, in the order of its callbacks: a check that no longer fits in says so and is skipped, on all ranks alike.

    Args:
        budget: Seconds that the pre-flight checks of a run may take together; None for no limit.
        on_error: ``"warn"`` or ``"raise"``; see :class:`~lightning_rules.Rule`.

    Attributes:
        spent: Seconds that this check took.

    Raises:
        ValueError: ``budget`` is not a positive number.
    """

    kind = "check"

    def __init__(self, budget: float | None = 10.0, on_error: Literal["warn", "raise"] = "warn") -> None:
        super().__init__(on_error)
        if budget is not None and not budget > 0:
            raise ValueError(f"Expected `budget` to be a positive number of seconds or None, but got {budget!r}.")
        self.budget = budget
        self.spent = 0.0

    def setup(self, trainer: Any, pl_module: Any, stage: str) -> None:
        """Begin with no time spent."""
        super().setup(trainer, pl_module, stage)
        self.spent = 0.0

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        """Measure and judge, within the time that is left; a resumed run was checked when it began."""
        if trainer.global_step > 0 or trainer.ckpt_path:
            return
        checks = [callback for callback in trainer.callbacks if isinstance(callback, PreflightCheck)]
        if checks[0] is self and trainer.is_global_zero:
            log.info(f"Checking the run before its first step{_at_most(self.budget)}.")
        deadline = Deadline(self._time_left(trainer, checks))
        self.observe(trainer, lambda: self._measured(View(trainer, pl_module), deadline), self.judge)
        self.spent = deadline.spent

    def _time_left(self, trainer: Any, checks: Sequence[PreflightCheck]) -> float:
        """What the checks before this one have left over; the least of all ranks. A collective."""
        spent = sum(check.spent for check in checks)
        left = math.inf if self.budget is None else self.budget - spent
        return min(gather(trainer, left))

    def _measured(self, view: View, deadline: Deadline) -> Any:
        deadline.require(0.0, "this check")
        return self.measure(view, deadline)

    @abstractmethod
    def measure(self, view: View, deadline: Deadline) -> Any:
        """This rank's numbers, small and on the host, measured without a trace.

        Ranks may not wait for one another here: one of them may be out of time, or may have raised.

        Raises:
            NotApplicable: The rule has nothing to say about this run.
            OutOfTime: The measurement does not fit into the time that is left.
        """

    @abstractmethod
    def judge(self, ranks: Sequence[Any]) -> Iterable[Finding]:
        """Findings from the numbers of all ranks, in the order of ranks; pure."""


def _at_most(budget: float | None) -> str:
    return "" if budget is None else f", for at most {budget:g} s"


__all__ = ["Deadline", "Finding", "NotApplicable", "PreflightCheck", "View"]
