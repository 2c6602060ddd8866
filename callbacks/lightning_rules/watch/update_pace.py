"""The pace at which an optimiser moves weights, remembered over a window of measured steps; on the host, and small."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from statistics import median
from typing import Any

from lightning_rules.watch.weight_steps import Watched

WINDOW = 8  # measured steps
EARLY = 200  # steps of the run in which weights should not grow much
NEAR_PEAK = 0.5  # of the largest rate; below it the rate is on its way up or down
PARTS = ("names", "ratios", "rates", "began", "steps", "peak", "fastest", "grown")


@dataclass
class Pace:
    """How one optimiser has moved its weights.

    Attributes:
        kind: The optimiser's class.
        names: The judged weights.
        ratios: For the last measured steps the ratio of change to size of each weight.
        rates: For the same steps the largest learning rate of the groups.
        began: The size of each weight at first, at least what layers usually begin with.
        steps: Measured steps so far.
        peak: The largest rate so far, or the one that the schedule starts from.
        fastest: The largest windowed median ratio of any weight so far, at a rate near its peak; None before.
        grown: The largest factor by which half of the weights have grown in the first 200 steps.
    """

    kind: str
    names: list[str] = field(default_factory=list)
    ratios: deque[list[float]] = field(default_factory=lambda: deque(maxlen=WINDOW))
    rates: deque[float] = field(default_factory=lambda: deque(maxlen=WINDOW))
    began: list[float] = field(default_factory=list)
    steps: int = 0
    peak: float = 0.0
    fastest: float | None = None
    grown: float = 1.0

    def add(
        self, weights: Sequence[Watched], changes: Sequence[float], sizes: Sequence[float], rates: Any, step: int
    ) -> None:
        """One more measured step.

        Args:
            weights: Those that are judged.
            changes: The sum of absolute changes in the sample of each.
            sizes: The sum of absolute values in the sample of each, before.
            rates: For each group its rate, and the one that its schedule starts from.
            step: How many steps the run had made.
        """
        least = [weight.usual for weight in weights]
        whole = [max(total / w.length, w.usual) for total, w in zip(sizes, weights, strict=True)]
        names = [weight.name for weight in weights]
        if names != self.names:
            self.names, self.began = names, [max(now, 5 * low) for now, low in zip(whole, least, strict=True)]
            self.ratios.clear()
            self.rates.clear()
        moved = [total / weight.length for total, weight in zip(changes, weights, strict=True)]
        self.ratios.append([change / size for change, size in zip(moved, whole, strict=True)])
        self.rates.append(max((rate for rate, _ in rates), default=0.0))
        self.peak = max([self.peak, *(max(pair) for pair in rates)])
        self.steps += 1
        if names and step <= EARLY:
            self.grown = max(self.grown, median(now / then for now, then in zip(whole, self.began, strict=True)))
        if names and len(self.ratios) == WINDOW and min(self.rates) >= NEAR_PEAK * self.peak:
            self.fastest = max([self.fastest or 0.0, *self.usual_ratios])

    @property
    def usual_ratios(self) -> list[float]:
        """The median ratio of each weight over the window."""
        return [median(column) for column in zip(*self.ratios, strict=True)]

    def state(self) -> dict[str, Any]:
        """Plain values, for a checkpoint."""
        values = {name: getattr(self, name) for name in ("kind", *PARTS)}
        return {name: list(value) if isinstance(value, deque) else value for name, value in values.items()}

    @classmethod
    def of(cls, state: dict[str, Any]) -> Pace:
        """The inverse of :meth:`state`."""
        windows = {name: deque(state[name], maxlen=WINDOW) for name in ("ratios", "rates")}
        return cls(**{**state, **windows})


def rates_of(optimizer: Any) -> list[tuple[Any, Any]]:
    """For each group its rate, and the one that its schedule starts from; numbers, or tensors where they are that."""
    pairs = []
    for group in optimizer.param_groups:
        rate = group["lr"]
        rate = rate.clone() if hasattr(rate, "clone") else rate
        start = group.get("initial_lr", rate)
        pairs.append((rate, start.clone() if hasattr(start, "clone") else start))
    return pairs


def share_done(trainer: Any) -> float | None:
    """The share of the planned run that has passed; None where no end is known."""
    shares = []
    if trainer.max_steps and trainer.max_steps > 0:
        shares.append(trainer.global_step / trainer.max_steps)
    batches = trainer.num_training_batches
    if trainer.max_epochs and trainer.max_epochs > 0 and 0 < batches < float("inf"):
        done = trainer.current_epoch + (trainer.fit_loop.epoch_loop.batch_idx + 1) / batches
        shares.append(done / trainer.max_epochs)
    return min(1.0, max(shares)) if shares else None


def planned_steps(trainer: Any) -> float:
    """The steps of all optimisers that are planned; infinite where no end is known."""
    planned = trainer.estimated_stepping_batches
    return float(planned) if planned > 0 else float("inf")


def waits_for_progress(trainer: Any) -> bool:
    """Whether a scheduler lowers the rate where a metric stands still."""
    return any(getattr(config, "reduce_on_plateau", False) for config in trainer.lr_scheduler_configs)
