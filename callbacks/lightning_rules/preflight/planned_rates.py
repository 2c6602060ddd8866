"""The learning rates that a run's schedulers will set, read from copies that are stepped through the planned run."""

from __future__ import annotations

import copy
import math
import time
import types
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from lightning_rules.deadline import Deadline
from lightning_rules.namespace import namespace_of
from lightning_rules.rule import NotApplicable

BEYOND = 5000  # steps of the schedulers that are looked at after the planned end
TIMED = 200  # steps after which the time of the rest is estimated


@dataclass(frozen=True)
class Plan:
    """How a run is cut into steps and epochs.

    Attributes:
        steps: Optimiser steps in the whole run.
        batches: Batches in an epoch.
        accumulated: Batches in a step.
    """

    steps: int
    batches: int
    accumulated: int = 1

    @property
    def steps_per_epoch(self) -> int:
        """Optimiser steps in an epoch; the last may have fewer batches."""
        return math.ceil(self.batches / self.accumulated)

    @property
    def epochs(self) -> int:
        """Epochs begun."""
        return math.ceil(self.steps / self.steps_per_epoch)


@dataclass(frozen=True)
class Stepped:
    """A scheduler and when it is stepped: at each ``frequency``-th batch or epoch."""

    scheduler: Any
    interval: str
    frequency: int


@dataclass(frozen=True)
class Rates:
    """What schedulers do to an optimiser.

    Attributes:
        planned: The highest rate of its groups at each step of the run.
        beyond: The same after it, were the schedulers stepped on.
        moves: How often a scheduler was stepped in the run, before its last step.
        failure: What a scheduler raised, and nothing if none did; ``planned`` ends there.
    """

    planned: list[float]
    beyond: list[float]
    moves: int
    failure: str = ""


def plan_of(trainer: Any) -> Plan:
    """The planned length of a run.

    Raises:
        NotApplicable: It has no end, or an epoch has none.
    """
    steps, batches = trainer.estimated_stepping_batches, trainer.num_training_batches
    if not (math.isfinite(steps) and steps > 0):
        raise NotApplicable("the run has no planned end.")
    batches = batches if math.isfinite(batches) else int(steps) * trainer.accumulate_grad_batches
    return Plan(int(steps), int(batches), int(trainer.accumulate_grad_batches))


def stepped_of(trainer: Any, optimizer: Any) -> list[Stepped]:
    """The schedulers of an optimiser that Lightning steps without a metric."""
    configs = [one for one in trainer.lr_scheduler_configs if not one.reduce_on_plateau]
    mine = [one for one in configs if getattr(one.scheduler, "optimizer", None) is optimizer]
    return [Stepped(one.scheduler, one.interval, int(one.frequency)) for one in mine]


def swapped(stepped: Sequence[Stepped]) -> list[Stepped]:
    """The same schedulers, each stepped at the other interval."""
    other = {"step": "epoch", "epoch": "step"}
    return [replace(one, interval=other[one.interval], frequency=1) for one in stepped]


def inner(scheduler: Any) -> Iterator[Any]:
    """A scheduler and those that it is made of."""
    yield scheduler
    for one in getattr(scheduler, "_schedulers", ()):
        yield from inner(one)


def written(scheduler: Any) -> str:
    """A scheduler as one writes it, with those it is made of."""
    inside = ", ".join(written(one) for one in getattr(scheduler, "_schedulers", ()))
    return type(scheduler).__name__ + (f"({inside})" if inside else "")


def cyclic(scheduler: Any) -> bool:
    """Whether a scheduler is made to let the rate rise again."""
    named = any(word in type(scheduler).__name__ for word in ("Restart", "Cyclic"))
    return named or getattr(scheduler, "cycle_limit", 1) != 1


def looks_outside(scheduler: Any) -> bool:
    """Whether a scheduler asks the module or the Trainer for more than how often it was stepped."""
    parts = [value for one in inner(scheduler) for value in (*vars(one).values(), *getattr(one, "lr_lambdas", ()))]
    return any(_knows_the_run(value) for value in parts)


def _knows_the_run(value: Any) -> bool:
    cells = getattr(value, "__closure__", None) or ()
    held = [getattr(cell, "cell_contents", None) for cell in cells if _filled(cell)]
    return any(
        isinstance(one, torch.nn.Module) or hasattr(one, "fit_loop")
        for one in (value, getattr(value, "__self__", None), *held)
    )


def _filled(cell: types.CellType) -> bool:
    try:
        return cell.cell_contents is not None
    except ValueError:
        return False


def rates_of(
    trainer: Any, module: Any, optimizer: Any, stepped: Sequence[Stepped], plan: Plan, deadline: Deadline
) -> Rates:
    """Step copies of the schedulers through the planned run, and on.

    Raises:
        NotApplicable: The module steps them in a way of its own, or they cannot be copied.
        OutOfTime: The run has too many steps for the time that is left.
    """
    _refuse_own_steps(module, stepped)
    stand_in = _Groups(optimizer)
    shared = {id(optimizer): stand_in, id(trainer): trainer, id(module): module}
    try:
        # A deep copy each, but of one optimiser: two schedulers of one optimiser act on the same groups.
        copies = [replace(one, scheduler=copy.deepcopy(one.scheduler, dict(shared))) for one in stepped]
    except Exception as error:
        raise NotApplicable(f"the scheduler cannot be copied ({type(error).__name__}).") from error
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return _stepped_through(stand_in, copies, plan, deadline)


def _refuse_own_steps(module: Any, stepped: Sequence[Stepped]) -> None:
    own = type(module).lr_scheduler_step is not namespace_of(module).LightningModule.lr_scheduler_step
    if own and not all(hasattr(one.scheduler, "step_update") for one in stepped):
        raise NotApplicable("lr_scheduler_step is overridden, and only the module knows how it steps its schedulers.")


class _Groups:
    """Stands for an optimiser: groups with rates and without parameters."""

    def __init__(self, optimizer: Any) -> None:
        self.param_groups = [
            {
                name: value.clone() if isinstance(value, Tensor) else value
                for name, value in group.items()
                if name != "params"
            }
            | {"params": []}
            for group in optimizer.param_groups
        ]
        self.defaults = dict(optimizer.defaults)
        self.state: dict[Any, Any] = {}

    def step(self) -> None:
        """Move nothing."""

    @property
    def rate(self) -> float:
        return max(float(group["lr"]) for group in self.param_groups)


def _stepped_through(optimizer: _Groups, stepped: Sequence[Stepped], plan: Plan, deadline: Deadline) -> Rates:
    planned: list[float] = []
    moves, begun = 0, time.monotonic()
    for step in range(plan.steps):
        if step == TIMED:
            deadline.require(
                (time.monotonic() - begun) / TIMED * plan.steps, f"a reading of {plan.steps} planned steps"
            )
        planned.append(optimizer.rate)
        due = [one for one in stepped if _due(one, step, plan)]
        moves += bool(due) and step + 1 < plan.steps
        failure = _advance(due, step + 1, step // plan.steps_per_epoch + 1)
        if failure:
            return Rates(planned, [], moves, failure)
    beyond: list[float] = []
    for more in range(BEYOND):
        if _advance(stepped, plan.steps + more, plan.epochs + more):
            break
        beyond.append(optimizer.rate)
    return Rates(planned, beyond, moves)


def _due(one: Stepped, step: int, plan: Plan) -> bool:
    """Whether Lightning steps a scheduler after this optimiser step (lightning 2.6, ``_update_learning_rates``)."""
    place = step % plan.steps_per_epoch + 1
    if one.interval == "step":
        return min(place * plan.accumulated, plan.batches) % one.frequency == 0
    return place == plan.steps_per_epoch and (step // plan.steps_per_epoch + 1) % one.frequency == 0


def _advance(stepped: Sequence[Stepped], steps: int, epochs: int) -> str:
    """Step them; what one raised."""
    for one in sorted(stepped, key=lambda one: one.interval, reverse=True):  # "step" before "epoch", as Lightning does
        try:
            _advanced(one.scheduler, steps, epochs)()
        except Exception as error:
            return f"{type(error).__name__}: {str(error).partition(chr(10))[0]}"
    return ""


def _advanced(scheduler: Any, steps: int, epochs: int) -> Callable[[], Any]:
    if not hasattr(scheduler, "step_update"):
        return lambda: scheduler.step()
    if getattr(scheduler, "t_in_epochs", True):  # timm
        return lambda: scheduler.step(epochs)
    return lambda: scheduler.step_update(steps)
