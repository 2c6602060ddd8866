"""Snapshots of one run at the ends of a cyclic learning rate (Huang et al. 2017)."""

from __future__ import annotations

import math
from typing import Any

from lightning_rules.rule import NotApplicable

RESTART = 1.5  # a rate this many times that of the step before is a restart
FALLEN = 0.5  # if since the last restart it has come down to this share of its peak


class Cycles:
    """Sets the rates of a run's optimiser to cosines that start anew, or watches the cycles of its own schedule.

    Args:
        count: How many cycles to set; None leaves rates alone and watches.
    """

    def __init__(self, count: int | None) -> None:
        self.count = count
        self.base: list[float] = []
        self.taken = 0
        self.step = -1
        self.last = self.peak = 0.0

    def begin(self, trainer: Any) -> None:
        """Look at the run's optimiser and length, before the first step.

        Raises:
            NotApplicable: Rates cannot be set: a schedule sets them already, there are several optimisers, or nobody
                knows how long the run will be.
        """
        if self.count is None:
            return
        if trainer.lr_scheduler_configs:
            raise NotApplicable("`cycles` sets the learning rate, and the module has a schedule of its own.")
        if len(trainer.optimizers) != 1:
            raise NotApplicable(f"`cycles` needs one optimiser, and the run has {len(trainer.optimizers)}.")
        if not math.isfinite(trainer.estimated_stepping_batches):
            raise NotApplicable("`cycles` needs to know how long the run is: set `max_epochs` or `max_steps`.")
        if not self.base:
            self.base = [group["lr"] for group in trainer.optimizers[0].param_groups]

    def ends(self, trainer: Any) -> bool:
        """Whether a cycle has just ended, told before a step; sets the rates of that step."""
        if not trainer.optimizers or trainer.global_step == self.step:
            return False  # a further batch of accumulated gradients
        self.step = trainer.global_step
        return self._watched(trainer) if self.count is None else self._set(trainer)

    def _set(self, trainer: Any) -> bool:
        assert self.count is not None
        length = math.ceil(trainer.estimated_stepping_batches / self.count)
        number, within = divmod(self.step, length)
        for group, base in zip(trainer.optimizers[0].param_groups, self.base, strict=True):
            group["lr"] = base * (1 + math.cos(math.pi * within / length)) / 2
        return bool(within == 0 and number > 0)

    def _watched(self, trainer: Any) -> bool:
        rate = float(trainer.optimizers[0].param_groups[0]["lr"])
        restarted = self.last > 0 and rate > RESTART * self.last and self.last < FALLEN * self.peak
        self.peak = rate if restarted else max(self.peak, rate)
        self.last = rate
        return restarted

    def state(self) -> dict[str, Any]:
        """What a resumed run has to know."""
        names = ("base", "taken", "step", "last", "peak")
        return {name: getattr(self, name) for name in names}

    def restore(self, state: dict[str, Any]) -> None:
        """The inverse of :meth:`state`."""
        vars(self).update(state)
