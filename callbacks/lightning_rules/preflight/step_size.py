"""The rule step-size."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

from lightning_rules.deadline import Deadline
from lightning_rules.finding import Finding, Severity
from lightning_rules.preflight.step_trial import Trial, try_steps
from lightning_rules.preflight_check import PreflightCheck
from lightning_rules.view import View

NAME = "step-size"
# Pairs of what one step changes the weights by, as a share of their size, and what the loss climbs to, in multiples of
# where it began: on 25 healthy configurations, three seeds each, at most 0.43 and 2.4, and never both.
GROSS = ((0.3, 5.0), (0.8, 1.5), (2.0, 0.0))
UNDONE, MOVING = 3.0, 0.05  # a trial that ends at this multiple of where it began, in steps of at least that size
# Shares of the loss and of the weights that the whole run could change. Healthy runs of 100 steps or more: from 0.5.
LITTLE, STILL = 0.05, 0.08
FEWEST_PLANNED = 100  # steps at the peak rate; a shorter run is a trial of something else
TRAINED = 0.7  # of the prior's loss: a network that starts below knows something, and may be meant to change little


class StepSize(PreflightCheck):
    """The learning rate neither throws the weights away nor leaves them where they are.

    Why: The learning rate is the most important hyperparameter. One that is a hundred times too high or a thousand
        times too low for the loss and the network at hand fails in a way that looks like a hard problem. Goodfellow
        has an update at about 1% of a weight's size, not at 50% or 0.001%.

    What it does: Takes the first 30 steps of the run with the user's own optimiser, clipping, accumulated batches and
        planned rates (a warm-up is passed through in 15 steps), on the run's first batches, and undoes them. Where the
        loss does not fall, it goes on for up to 150 steps, since healthy starts recover. Only gross failures speak.

    Fires when: The loss ceases to be finite (error). One step changes the weights by twice their size, or by 80% (30%)
        of it while the loss climbs to 1.5 times (5 times) where it began, or the trial ends at 3 times that (warning:
        too high). To first order the whole planned run, its schedule counted in, can lower the loss by less than 5%
        and, at the pace of the trial, move the weights by less than 8% (warning: too low); not for networks that start
        below the loss of the best constant, as in fine-tuning, nor for runs of fewer than 100 steps. A loss or a
        gradient that is not finite before the first step is told for a person's eye, since no rate is to blame.
        Manual optimisation and several optimisers: does not apply.

    Under DDP: Each rank takes the steps by itself on its own batches, without rules that clip; it speaks where most of
        the ranks agree.

    Cost: 30 training steps (0.1 to 0.7 s for small networks on digits), up to 150 where the loss does not fall; two
        more copies of the parameters while it runs. No trace is left.

    Example:
        >>> from lightning.pytorch import Trainer
        >>> trainer = Trainer(callbacks=[StepSize()], logger=False)

    Source: Goodfellow, Bengio and Courville (2016), "Deep Learning", sections 11.4.1 (learning rate) and 11.5 (updates
        of about 1%).

    Args:
        budget: Seconds that the pre-flight checks of a run may take together; None for no limit.
        on_error: ``"warn"`` or ``"raise"``; see :class:`~lightning_rules.Rule`.
    """

    name = NAME
    source = (
        'Goodfellow, Bengio and Courville (2016), "Deep Learning", sections 11.4.1 (learning rate) and 11.5 '
        "(updates of "
        "about 1%)"
    )

    def __init__(self, budget: float | None = 10.0, on_error: Literal["warn", "raise"] = "warn") -> None:
        super().__init__(budget, on_error)

    def measure(self, view: View, deadline: Deadline) -> Trial:
        """A short trial.

        Raises:
            NotApplicable: The module optimises manually or with several optimisers, or its steps cannot be run.
            OutOfTime: Ten steps do not fit into the time that is left.
        """
        return try_steps(view, deadline)

    def judge(self, ranks: Sequence[Trial]) -> list[Finding]:
        """The finding of the median rank, by severity."""
        found = sorted((judge(trial) for trial in ranks), key=lambda finding: finding.severity)
        return [found[(len(found) - 1) // 2]]


def judge(trial: Trial) -> Finding:
    """The finding on one trial; pure."""
    if trial.broken:
        message = f"the {trial.broken} is not finite before the first step, so that the rate cannot be judged."
        return _finding(trial, Severity.INFO, message)
    if not trial.moved:
        return _finding(trial, Severity.INFO, "the optimiser moves none of its parameters, whatever its rate.")
    high = _too_high(trial)
    if high:
        severity = Severity.WARNING if math.isfinite(trial.losses[-1]) else Severity.ERROR
        advice = "Lower the learning rate by a factor of 10 to 100, or let LRFinder find one."
        if trial.summed:
            advice = (
                'The loss is summed over the batch: take its mean (reduction="mean"), or divide the rate by as much.'
            )
        return _finding(trial, severity, f"a learning rate of {trial.rate:.3g} is too high: {high}", advice)
    reach = _reach(trial)
    if reach is not None and reach[0] < LITTLE and reach[1] < STILL:
        message = (
            f"a learning rate of {trial.rate:.3g} is too low: the whole run ({trial.planned:.0f} steps at that "
            f"rate) can "
            f"lower the loss of {trial.start:.3g} by {reach[0]:.2g} of it, and move the weights by {reach[1]:.2g} "
            f"of their "
            "size."
        )
        advice = "Raise the learning rate, by a factor of 100 or so; look whether the loss is scaled down on the way."
        return _finding(trial, Severity.WARNING, message, advice)
    message = f"a learning rate of {trial.rate:.3g} takes the loss from {trial.start:.3g} to {trial.end:.3g} in "
    message += f"{len(trial.losses)} steps, changing the weights by {_median(trial.ratios):.2g} of their size a step."
    return _finding(trial, Severity.OK, message)


def _too_high(trial: Trial) -> str:
    """What shows that the rate is too high; empty where nothing does."""
    if not math.isfinite(trial.losses[-1]):
        return f"the loss is {trial.start:.3g} at the start, and no longer finite at step {len(trial.losses)}."
    began = max(abs(trial.start), trial.prior or 0.0)
    climbed, overthrown = trial.highest / began if began else 0.0, max(trial.ratios, default=0.0)
    if any(overthrown >= share and climbed >= times for share, times in GROSS):
        return (
            f"a single step changes the weights by {overthrown:.2g} of their size, where about 0.01 is usual, and the "
            f"loss goes from {trial.start:.3g} up to {trial.highest:.3g}."
        )
    if trial.end >= UNDONE * began > 0 and overthrown >= MOVING:
        return f"the loss goes from {trial.start:.3g} to {trial.end:.3g} in {len(trial.losses)} steps."
    return ""


def _reach(trial: Trial) -> tuple[float, float] | None:
    """The shares of the loss and of the weights that the planned run can change at most; None where it is not known."""
    if trial.planned is None or trial.planned < FEWEST_PLANNED or not trial.start:
        return None
    if trial.prior is None or trial.start < TRAINED * trial.prior:
        return None
    return trial.decrease * trial.planned / abs(trial.start), trial.moved * trial.planned / len(trial.losses)


def _median(values: Sequence[float]) -> float:
    return sorted(values)[len(values) // 2] if values else 0.0


def _finding(trial: Trial, severity: Severity, message: str, advice: str = "") -> Finding:
    evidence = {
        "rate": trial.rate,
        "loss": trial.start,
        "loss_at_end": trial.end,
        "prior_loss": trial.prior,
        "largest_change": max(trial.ratios, default=0.0),
        "median_change": _median(trial.ratios),
        "planned_steps": trial.planned,
        "decrease_a_step": trial.decrease,
        "moved": trial.moved,
        "steps": len(trial.losses),
    }
    return Finding(NAME, severity, f"{trial.optimizer}: {message}", advice, evidence)
