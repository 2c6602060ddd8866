"""The rule capacity-check."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any, Literal

import numpy as np
import torch

from lightning_rules.deadline import Deadline
from lightning_rules.finding import Finding, Severity
from lightning_rules.preflight.larger_twin import build, hyperparameters, larger_by_default, trainable_count
from lightning_rules.preflight_check import PreflightCheck
from lightning_rules.rule import NotApplicable
from lightning_rules.short_training import train
from lightning_rules.view import View

NAME = "capacity-check"
BATCHES = 15  # the same for all trainings, in turns
SEEDS = (0, 1, 2)
RATES = (1e-3, 5e-3)  # of Adam; each size counts with the one that suits it
SURE = 3.0  # standard errors of the mean over seeds
FLOOR = 0.02  # of the loss at the start: nothing is left to gain
LEARNS = 0.2  # of the loss at the start that training takes away, where a comparison says something
WORSE = 0.1  # of what the network itself gains


@dataclass(frozen=True)
class CapacitySeen:
    """The training loss of both sizes after the same short trainings, one entry a seed.

    Attributes:
        change: What was changed: ``"hidden=64 -> 128"``.
        parameters: Trained values of the network, and of the larger one.
        start: The network's mean loss over the batches at first.
        here: Its mean loss over the last pass, at the rate that suits it.
        larger: The larger network's.
    """

    change: str
    parameters: tuple[int, int]
    start: tuple[float, ...]
    here: tuple[float, ...]
    larger: tuple[float, ...]


class CapacityCheck(PreflightCheck):
    """A little more capacity lowers the training loss.

    Why: A network that is too small for its data shows it: a larger one reaches a lower training loss in as many
        steps. If it does not, something else than capacity holds it back, and making it larger is no way out.

    What it does: Builds the module anew from its saved hyperparameters, as it is and with larger ones (by default all
        widths doubled, or all depths where no width is named), and trains both with Adam at two rates from three
        seeds on the same 15 batches. Each size counts with the rate that suits it; what is compared is the loss over
        the last pass, seed by seed.

    Fires when: The larger network's loss is higher by more than 10% of what the network itself has learned and by
        three standard errors, at all seeds, though the network learns and is far from zero (warning). No difference
        beyond noise, or a loss near zero: information. Lower: ok.

    Under DDP: Each rank trains on its own batches, outside the process group; all tell the mean. Sharded strategies
        (FSDP, DeepSpeed): does not apply.

    Cost: 12 trainings of ``steps`` steps; on digits and one core 2 s for a small LSTM, 10 s for a small transformer,
        50 s for timm's test_resnet beside resnet10t. For ``check``, not for each fit. No trace is left.

    Example:
        >>> from lightning.pytorch import Trainer
        >>> trainer = Trainer(callbacks=[CapacityCheck(larger={"hidden": 256}, budget=None)], logger=False)

    Source: Karpathy (2019), "A Recipe for Training Neural Networks", step 2, "verify decreasing training loss".

    Args:
        larger: The hyperparameters to change, by name, with their larger values: ``{"backbone": "resnet34"}``. By
            default those whose names say width are doubled.
        steps: How many steps each training takes.
        budget: Seconds that the pre-flight checks of a run may take together; None for no limit.
        on_error: ``"warn"`` or ``"raise"``; see :class:`~lightning_rules.Rule`.

    Raises:
        ValueError: ``steps`` is less than two passes over the 15 batches.
    """

    name = NAME
    source = 'Karpathy (2019), "A Recipe for Training Neural Networks", step 2, "verify decreasing training loss"'

    def __init__(
        self,
        larger: dict[str, int | float | str | list[int]] | None = None,
        steps: int = 60,
        budget: float | None = 10.0,
        on_error: Literal["warn", "raise"] = "warn",
    ) -> None:
        super().__init__(budget, on_error)
        if steps < 2 * BATCHES:
            raise ValueError(f"Expected `steps` to be at least {2 * BATCHES}, but got {steps!r}.")
        self.larger = larger
        self.steps = steps

    def measure(self, view: View, deadline: Deadline) -> CapacitySeen:
        """Train both sizes."""
        if len(view.trainer.optimizers) != 1 or not view.module.automatic_optimization:
            raise NotApplicable("the run has no single optimiser, and so no single aim to train for.")
        given = hyperparameters(view.module)
        change = larger_by_default(given) if self.larger is None else dict(self.larger)
        unknown = [name for name in change if name not in given]
        if unknown:
            raise NotApplicable(f"{', '.join(unknown)} is none of the hyperparameters ({', '.join(given)}).")
        batches: list[Any] = view.batches(BATCHES)
        with view.on_loan():
            counts = tuple(trainable_count(build(view.module, values, 0)) for values in (given, {**given, **change}))
            told = ", ".join(f"{name}={given[name]} -> {value}" for name, value in change.items())
            if counts[1] <= counts[0]:
                raise NotApplicable(f"{told} gives {counts[1]:,} trained values in place of {counts[0]:,}.")
            here = self._trained(view, given, batches, deadline)
            larger = self._trained(view, {**given, **change}, batches, deadline)
        start = tuple(float(np.mean(losses[: len(batches)])) for losses in here)
        ends = [tuple(float(np.mean(losses[-len(batches) :])) for losses in runs) for runs in (here, larger)]
        return CapacitySeen(told, (counts[0], counts[1]), start, ends[0], ends[1])

    def _trained(
        self, view: View, given: Mapping[str, Any], batches: Sequence[Any], deadline: Deadline
    ) -> list[list[float]]:
        """The losses of each seed, step by step, at the better of the rates."""
        by_rate: list[list[list[float]]] = []
        for rate in RATES:
            runs = []
            for seed in SEEDS:
                once = Deadline()
                runs.append(self._losses(view, given, batches, rate, seed))
                if not by_rate and seed == SEEDS[0]:
                    deadline.require(once.spent * (len(RATES) * len(SEEDS) - 1), f"trainings of {self.steps} steps")
            by_rate.append(runs)
        return min(by_rate, key=lambda runs: _end(runs, len(batches)))

    def _losses(
        self, view: View, given: Mapping[str, Any], batches: Sequence[Any], rate: float, seed: int
    ) -> list[float]:
        module = build(view.module, given, seed)
        twin = View(view.trainer, module)
        parameters = [parameter for parameter in module.parameters() if parameter.requires_grad]
        with twin.on_loan() as lent:
            torch.manual_seed(seed)
            return list(islice(train(twin, lent, batches, torch.optim.Adam(parameters, lr=rate)), self.steps))

    def judge(self, ranks: Sequence[CapacitySeen]) -> list[Finding]:
        """The verdict on the mean over ranks."""
        return [judge_capacity(ranks)]


def _end(runs: Sequence[Sequence[float]], last: int) -> float:
    end = float(np.mean([losses[-last:] for losses in runs]))
    return end if math.isfinite(end) else math.inf


def judge_capacity(ranks: Sequence[CapacitySeen]) -> Finding:
    """Whether the larger network ends lower; pure."""
    start, here, larger = (
        np.mean([getattr(seen, name) for seen in ranks], axis=0) for name in ("start", "here", "larger")
    )
    gained = here - larger
    error = float(np.std(gained, ddof=1) / math.sqrt(len(gained)))
    first, small, large, gain = (float(np.mean(values)) for values in (start, here, larger, gained))
    before, after = ranks[0].parameters
    change = f"{ranks[0].change} ({before:,} to {after:,} trained values)"
    evidence = {"start": first, "loss": small, "larger_loss": large, "standard_error": error}

    def finding(severity: Severity, says: str, advice: str = "") -> Finding:
        told = f"training loss {small:.3g} as it is, {large:.3g} with {change}, from {first:.3g}"
        return Finding(NAME, severity, f"{says}: {told}.", advice, evidence)

    if not np.isfinite([first, small, large]).all():
        return finding(Severity.INFO, "The short trainings were not stable, so that sizes could not be compared")
    if 0 <= small < FLOOR * first:
        return finding(Severity.INFO, "The network needs no more capacity for a few batches")
    if gain > 0 and (gain > SURE * error or all(gained > 0)):
        return finding(Severity.OK, "More capacity lowers the training loss")
    learned = first - small
    if learned > LEARNS * abs(first) and -gain > max(WORSE * learned, SURE * error) and all(gained < 0):
        advice = (
            "Look at what grows with the size: initial scale, missing normalisation or skip connections, a bottleneck "
            "that does not grow along."
        )
        return finding(Severity.WARNING, "More capacity raises the training loss", advice)
    return finding(Severity.INFO, "More capacity makes no difference beyond noise")
