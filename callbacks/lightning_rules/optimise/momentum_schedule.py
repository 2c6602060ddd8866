"""The rule momentum-schedule."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Literal

from lightning_rules.finding import Finding, Severity
from lightning_rules.rule import NotApplicable, Rule

NAME = "momentum-schedule"


class MomentumSchedule(Rule):
    """Momentum grows over the run: 0.5, then 0.9, then 0.99.

    Why: At the start the direction of descent changes fast, and a long memory carries the weights past the turn; later
        gradients are mostly noise, which a long memory averages out.

    What it does: Before each batch sets ``momentum`` (SGD) or the first of ``betas`` (Adam and its kin) in every group
        of every optimiser that has one. The values are reached at equal distances over the run, and between two of
        them 1 - momentum falls geometrically. The length of a step is held: a gradient moves SGD's weights by
        lr / (1 - momentum) in all, so that ``dampening`` is set to keep what the optimiser began with (Adam's average
        needs no such care). Without this, 0.99 takes steps 10 times as long as 0.9: on scikit-learn's digits a small
        network at a rate of 0.03 then ended at 91% instead of 97%, and at 0.1 diverged. Progress is the larger of the
        shares of ``max_epochs`` and ``max_steps``.

    Fires when: It never alarms. It says what it schedules, or why it does not apply: no optimiser has momentum switched
        on (RMSprop's cannot be held to its step), or the length of the run is unknown.

    Under DDP: Progress is counted in batches and steps, which are the same on all ranks; nothing is communicated.

    Cost: A few numbers a batch.

    Example:
        >>> from lightning.pytorch import Trainer
        >>> trainer = Trainer(callbacks=[MomentumSchedule()], logger=False)

    Source: Goodfellow, Bengio and Courville (2016), "Deep Learning", section 8.3.2; Sutskever et al. (2013), "On the
        importance of initialization and momentum in deep learning", section 3.

    Args:
        values: Momenta at equal distances over the run, the first at its start, the last at its end; two or more, each
            at least 0 and below 1.
        on_error: ``"warn"`` or ``"raise"``; see :class:`~lightning_rules.Rule`.

    Raises:
        ValueError: ``values`` is out of range, or (when the fit starts) a learning-rate schedule moves the momentum
            too: OneCycleLR and CyclicLR with ``cycle_momentum``.
    """

    name = NAME
    source = 'Goodfellow, Bengio and Courville (2016), "Deep Learning", section 8.3.2'
    kind = "enforce"

    def __init__(self, values: Sequence[float] = (0.5, 0.9, 0.99), on_error: Literal["warn", "raise"] = "warn") -> None:
        super().__init__(on_error)
        if len(values) < 2 or not all(0 <= value < 1 for value in values):
            raise ValueError(
                f"Expected `values` to be two or more numbers from 0 to below 1, but got {values}; 0.5, 0.9 and 0.99 "
                "are usual."
            )
        self.values = values
        self._scheduled = False

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        """Find the momenta; refuse a second schedule of them."""
        refuse_cycles(trainer)
        found = self.observe(trainer, lambda: see_optimizers(trainer), lambda ranks: [_told(ranks[0], self.values)])
        self._scheduled = any("optimizers" in finding.evidence for finding in found)

    def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:
        """Set the momenta for this batch."""
        if self._scheduled:
            momentum = momentum_at(progress(trainer, batch_idx), self.values)
            for optimizer in trainer.optimizers:
                for group in optimizer.param_groups:
                    set_momentum(group, momentum)


def momentum_at(done: float, values: Sequence[float]) -> float:
    """The momentum after a share of the run, from 0 to 1; pure."""
    place = min(max(done, 0.0), 1.0) * (len(values) - 1)
    index = min(int(place), len(values) - 2)
    part = place - index
    rest: float = (1 - values[index]) ** (1 - part) * (1 - values[index + 1]) ** part
    return 1 - rest


def progress(trainer: Any, batch_idx: int) -> float:
    """The share of the run that is done, from 0 to 1."""
    done = 0.0
    if trainer.max_epochs and trainer.max_epochs > 0:
        within = batch_idx / trainer.num_training_batches  # 0 where the number of batches is unknown, infinity
        done = (trainer.current_epoch + within) / trainer.max_epochs
    if trainer.max_steps > 0:
        done = max(done, trainer.global_step / trainer.max_steps)
    return done


def set_momentum(group: dict[str, Any], momentum: float) -> None:
    """Set a group's momentum; SGD's step keeps the length that the group began with.

    What it began with is kept in the group, as torch keeps ``initial_lr``, and so in the optimiser's checkpoint.
    """
    if "betas" in group:
        group["betas"] = (momentum, *group["betas"][1:])
    elif _is_sgd(group):
        begun = group.setdefault("initial_momentum", group["momentum"])
        damped = group.setdefault("initial_dampening", group["dampening"])
        if group.get("nesterov") and momentum > 0:  # a gradient counts 1 + momentum (1 - dampening) / (1 - momentum)
            share = begun * (1 - damped) / (1 - begun) * (1 - momentum) / momentum
        else:
            share = (1 - damped) * (1 - momentum) / (1 - begun)
        group["momentum"], group["dampening"] = momentum, 1 - share


def _is_sgd(group: dict[str, Any]) -> bool:
    """Whether momentum is switched on, and the step can be held; one without dampening, as RMSprop's, cannot."""
    return group.get("initial_momentum", group.get("momentum", 0)) > 0 and "dampening" in group


def see_optimizers(trainer: Any) -> list[str]:
    """The classes of the optimisers whose momentum is scheduled.

    Raises:
        NotApplicable: There is none, or nobody knows when the run ends.
    """
    names = [
        type(optimizer).__name__
        for optimizer in trainer.optimizers
        if any("betas" in group or _is_sgd(group) for group in optimizer.param_groups)
    ]
    if not names:
        others = ", ".join(type(optimizer).__name__ for optimizer in trainer.optimizers) or "none"
        raise NotApplicable(f"no optimiser has momentum that can be scheduled (SGD with momentum, Adam): {others}.")
    if trainer.max_steps <= 0 and not (trainer.max_epochs and trainer.max_epochs > 0):
        raise NotApplicable("the length of the run is unknown: neither max_epochs nor max_steps is set.")
    return names


def _told(names: list[str], values: Sequence[float]) -> Finding:
    shown = ", ".join(f"{value:g}" for value in values)
    message = f"The momentum of {' and '.join(names)} goes over {shown} in the course of the run."
    evidence = {"optimizers": len(names), "first": values[0], "last": values[-1]}
    return Finding(NAME, Severity.INFO, message, evidence=evidence)


def refuse_cycles(trainer: Any) -> None:
    """Refuse to run beside a learning-rate schedule that moves the momentum.

    Raises:
        ValueError: There is one.
    """
    for config in trainer.lr_scheduler_configs:
        for scheduler in _parts(config.scheduler):
            if getattr(scheduler, "cycle_momentum", False):
                raise ValueError(
                    f"MomentumSchedule and {type(scheduler).__name__} would both set the momentum: make the scheduler "
                    "with cycle_momentum=False, or leave MomentumSchedule out."
                )


def _parts(scheduler: Any) -> Iterator[Any]:
    """A scheduler and those inside it (SequentialLR, ChainedScheduler)."""
    yield scheduler
    for part in getattr(scheduler, "_schedulers", ()):
        yield from _parts(part)
