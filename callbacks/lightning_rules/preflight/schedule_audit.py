"""The rule schedule-audit."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from lightning_rules.deadline import Deadline
from lightning_rules.finding import Finding, Severity
from lightning_rules.preflight.planned_rates import (
    BEYOND,
    Plan,
    Stepped,
    cyclic,
    inner,
    looks_outside,
    plan_of,
    rates_of,
    stepped_of,
    swapped,
    written,
)
from lightning_rules.preflight.plateau import Plateau, judge_plateau
from lightning_rules.preflight.rate_shape import FALLEN, RISEN, Shape, dead, shape_of
from lightning_rules.preflight_check import PreflightCheck
from lightning_rules.rule import NotApplicable
from lightning_rules.view import View

NAME = "schedule-audit"
SHORT = 20  # steps; a run shorter than this is a trial, and its schedule was made for another
FAR = 1.5  # times the highest rate of the run: a schedule that goes there had more to give
HELD = 0.9  # of the peak at the end: the schedule has not decayed
DECAYED = 0.02  # of the peak at the end: it has


@dataclass(frozen=True)
class Schedule:
    """The schedule of one optimiser.

    Attributes:
        names: Its schedulers, as one writes them.
        interval: ``"step"`` or ``"epoch"``, or both.
        frequency: The largest that is set.
        plan: The planned run.
        shape: What the rates do.
        other: What they would do at the other interval; None where it was not looked at.
        failure: What a scheduler raised.
        cyclic: Whether it is made to rise again.
        outside: Whether it asks the module or the Trainer, which stand still while it is read.
    """

    names: str
    interval: str
    frequency: int
    plan: Plan
    shape: Shape
    other: Shape | None = None
    failure: str = ""
    cyclic: bool = False
    outside: bool = False


class ScheduleAudit(PreflightCheck):
    """The learning-rate schedule fits the run that is planned.

    Why: A schedule borrowed from a run of another length, or stepped at another interval than it was made for, decays
        to nothing early, or never leaves its warm-up; the loss then flattens, and nothing fails. Karpathy disables
        decay at first for this reason.

    What it does: Copies each optimiser's schedulers, onto groups without parameters, steps the copies through the
        planned run as Lightning will (interval, frequency, accumulated batches), on beyond its end, and, where the
        curve looks odd, at the other interval.

    Fires when: A scheduler raises before the run ends, or the rate is 0 throughout (error). The rate is below 1% of
        its peak for half of the run, or below 0.1% for a quarter of it (warning; cosines, squares and the usual steps
        to nothing at the end stay far from that). Further steps would lead to 1.5 times the highest rate of the run:
        it never leaves its warm-up (warning). At the other interval the same schedule decays once, exactly within
        the run, and as it is it does not, or goes up and down (warning). A CosineAnnealingLR ends on its way up
        (warning). ReduceLROnPlateau waits for a loss to grow or an accuracy to shrink (warning). A run that ends
        before its schedule does, or a scheduler that is never stepped: for a person's eye. Manual optimisation, runs
        without a planned end and runs under 20 steps: does not apply.

    Under DDP: The schedule is the same on every rank; each reads its own.

    Cost: No forward pass; about 10 microseconds for each planned step.

    Example:
        >>> from lightning.pytorch import Trainer
        >>> trainer = Trainer(callbacks=[ScheduleAudit()], max_epochs=30, logger=False)

    Source: Karpathy (2019), "A Recipe for Training Neural Networks", step 3, "do not trust learning rate decay
        defaults".

    Args:
        budget: Seconds that the pre-flight checks of a run may take together; None for no limit.
        on_error: ``"warn"`` or ``"raise"``; see :class:`~lightning_rules.Rule`.
    """

    name = NAME
    source = (
        'Karpathy (2019), "A Recipe for Training Neural Networks", step 3, "do not trust learning rate decay defaults"'
    )

    def __init__(self, budget: float | None = 10.0, on_error: Literal["warn", "raise"] = "warn") -> None:
        super().__init__(budget, on_error)

    def measure(self, view: View, deadline: Deadline) -> list[Schedule | Plateau]:
        """The shape of each optimiser's schedule.

        Raises:
            NotApplicable: There is no scheduler, or the run has no planned end or is too short.
            OutOfTime: The run has too many steps.
        """
        trainer, module = view.trainer, view.module
        if not trainer.lr_scheduler_configs:
            raise NotApplicable("the run has no learning-rate scheduler.")
        if not module.automatic_optimization:
            raise NotApplicable("the module optimises manually, and only it knows when it steps its schedulers.")
        plan = plan_of(trainer)
        if trainer.fast_dev_run or plan.steps < SHORT:
            raise NotApplicable(f"a run of {plan.steps} steps is too short to be what its schedule was made for.")
        seen: list[Schedule | Plateau] = [
            Plateau(str(one.monitor), str(getattr(one.scheduler, "mode", "min")))
            for one in trainer.lr_scheduler_configs
            if one.reduce_on_plateau
        ]
        for optimizer in trainer.optimizers:
            stepped = stepped_of(trainer, optimizer)
            if stepped:
                seen.append(_schedule(trainer, module, optimizer, stepped, plan, deadline))
        return seen

    def judge(self, ranks: Sequence[list[Schedule | Plateau]]) -> list[Finding]:
        """Judge the schedules of the first rank; all have the same."""
        return [judge(one) for one in ranks[0]]


def _schedule(
    trainer: Any, module: Any, optimizer: Any, stepped: Sequence[Stepped], plan: Plan, deadline: Deadline
) -> Schedule:
    rates = rates_of(trainer, module, optimizer, stepped, plan, deadline)
    shape = shape_of(rates, plan.steps)
    other = None
    if len({one.interval for one in stepped}) == 1 and (
        shape.end >= HELD * shape.peak or dead(shape) or shape.rebounds
    ):
        other = shape_of(rates_of(trainer, module, optimizer, swapped(stepped), plan, deadline), plan.steps)
    parts = [one for outer in stepped for one in inner(outer.scheduler)]
    return Schedule(
        names=" with ".join(written(one.scheduler) for one in stepped),
        interval=" and ".join(dict.fromkeys(one.interval for one in stepped)),
        frequency=max(one.frequency for one in stepped),
        plan=plan,
        shape=shape,
        other=other,
        failure=rates.failure,
        cyclic=any(cyclic(part) for part in parts),
        outside=any(looks_outside(one.scheduler) for one in stepped),
    )


def judge(seen: Schedule | Plateau) -> Finding:
    """Findings on one schedule; pure."""
    if isinstance(seen, Plateau):
        return judge_plateau(NAME, seen)
    for judged in (_judge_broken, _judge_warm_up, _judge_early_end, _judge_up_and_down, _judge_too_slow):
        finding = judged(seen)
        if finding is not None:
            return finding
    shape = seen.shape
    if shape.lowest == shape.peak:
        return _finding(seen, Severity.INFO, f"holds the rate at {shape.end:.3g} throughout the run.")
    if shape.end >= RISEN * shape.peak and shape.settles <= FALLEN * shape.peak and not seen.cyclic:
        message = f"ends at {_percent(shape.end / shape.peak)} of its peak: the run is over before the schedule is."
        return _finding(seen, Severity.INFO, message, "Make the schedule as long as the run.")
    return _finding(seen, Severity.OK, f"goes from {shape.start:.3g} over {shape.peak:.3g} to {shape.end:.3g}.")


def _judge_broken(seen: Schedule) -> Finding | None:
    shape = seen.shape
    if shape.stopped is not None:
        message = f"stops the run at step {shape.stopped} of {seen.plan.steps} with {seen.failure.rstrip('.')}."
        advice = f"Make the schedule as long as the run: {seen.plan.steps} steps, or {seen.plan.epochs} epochs."
        return _finding(seen, Severity.ERROR, message, advice)
    if seen.outside and shape.lowest == shape.peak:
        return _finding(
            seen, Severity.INFO, "asks the module or the Trainer for its rate, and cannot be read beforehand."
        )
    if shape.peak == 0 and shape.beyond == 0:
        return _finding(
            seen,
            Severity.ERROR,
            "holds the learning rate at 0 in the whole run.",
            "Give it a rate above 0 to start from.",
        )
    return None


def _judge_warm_up(seen: Schedule) -> Finding | None:
    shape, other = seen.shape, seen.other
    if seen.cyclic or shape.beyond < FAR * shape.peak or (shape.moves > 0 and shape.end < HELD * shape.peak):
        return None
    if shape.moves == 0 and shape.end == shape.peak and seen.frequency > 1:
        message = f"is never stepped: its frequency of {seen.frequency} {seen.interval}s is more than "
        message += f"{'an epoch has' if seen.interval == 'step' else 'the run has'}."
        return _finding(seen, Severity.WARNING, message, "Lower `frequency`.")
    if shape.beyond_after == BEYOND and shape.end > shape.start:
        message = f"rises to the end of the run, from {shape.start:.3g} to {shape.end:.3g}, and would rise on."
        return _finding(
            seen, Severity.WARNING, message, "Let the rate fall towards the end, not rise: a factor below 1."
        )
    message = (
        f"never leaves its warm-up: the rate reaches {shape.peak:.3g} in the {seen.plan.steps} steps of the run, and "
        f"{shape.beyond:.3g} only {shape.beyond_after} {_unit(seen)} later."
    )
    if other is not None and seen.interval == "epoch" and other.peak >= FAR * shape.peak and other.peak_at < HELD:
        return _wrong_interval(seen, message)
    advice = "Shorten the warm-up to a small part of the run (5% or so), or train longer."
    return _finding(seen, Severity.WARNING, message, advice)


def _judge_early_end(seen: Schedule) -> Finding | None:
    if not dead(seen.shape):
        return None
    alive = seen.shape.alive[0]
    message = (
        f"decays to nothing early: after {_percent(alive)} of the run (step {alive * seen.plan.steps:.0f} of "
        f"{seen.plan.steps}) the rate stays below 1% of its peak, and ends at {seen.shape.end:.2g}."
    )
    if seen.interval == "step" and seen.other is not None and not dead(seen.other) and seen.plan.steps_per_epoch > 1:
        return _wrong_interval(seen, message)
    advice = (
        "Decay more slowly, so that the rate is small only near the end of the run; start from a constant rate and "
        "tune "
        "the decay last."
    )
    return _finding(seen, Severity.WARNING, message, advice)


def _judge_up_and_down(seen: Schedule) -> Finding | None:
    shape, other = seen.shape, seen.other
    if seen.cyclic or not shape.rebounds:
        return None
    times = (
        f"rises again {shape.rebounds} times after it has decayed, and ends at {_percent(shape.end / shape.peak)} "
        f"of its peak."
    )
    if seen.interval == "step" and other is not None and _fits(other):
        return _wrong_interval(seen, times)
    if "CosineAnnealingLR" in seen.names and shape.end >= RISEN * shape.peak:
        advice = f"Set T_max to the length of the run: {seen.plan.steps} steps, or {seen.plan.epochs} epochs."
        return _finding(seen, Severity.WARNING, times, advice)
    return _finding(seen, Severity.INFO, times, "If it is meant to decay once, set its length to that of the run.")


def _judge_too_slow(seen: Schedule) -> Finding | None:
    shape, other = seen.shape, seen.other
    if seen.interval != "epoch" or other is None or shape.end < HELD * shape.peak or not _fits(other):
        return None
    message = f"decays by {_percent(1 - shape.end / shape.peak)} in the whole run, because it is stepped once an epoch."
    return _wrong_interval(seen, message)


def _fits(shape: Shape) -> bool:
    """Whether a schedule decays once, over the run, and is down when it ends."""
    return not shape.rebounds and not dead(shape) and shape.end <= DECAYED * shape.peak and shape.alive[0] > 0.8


def _wrong_interval(seen: Schedule, message: str) -> Finding:
    other = "epoch" if seen.interval == "step" else "step"
    advice = (
        f'It is stepped at the wrong interval, or its length is in the wrong unit: return {{"interval": "{other}"}} '
    )
    advice += f"with the scheduler, or count its length in {seen.interval}s."
    return _finding(seen, Severity.WARNING, message, advice)


def _finding(seen: Schedule, severity: Severity, message: str, advice: str = "") -> Finding:
    shape = seen.shape
    evidence: dict[str, float | int | str | bool | None] = {
        "interval": seen.interval,
        "steps": seen.plan.steps,
        "epochs": seen.plan.epochs,
        "start": shape.start,
        "peak": shape.peak,
        "end": shape.end,
        "alive": shape.alive[0],
        "beyond": shape.beyond,
    }
    return Finding(NAME, severity, f"{seen.names} {message}", advice, evidence)


def _unit(seen: Schedule) -> str:
    return "epochs" if seen.interval == "epoch" else "steps"


def _percent(share: float) -> str:
    return f"{share:.0%}" if share >= 0.01 or share == 0 else f"{share:.2%}"
