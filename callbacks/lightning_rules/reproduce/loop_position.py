"""Where Lightning's loops stand when a checkpoint is written, and how to go on from there.

Lightning 2.6.6 goes on from a checkpoint by guessing from its counters in which hook it was written. Measured: a run
resumed from the end of a training batch leaves out the validation that was due, one resumed from a validation steps a
scheduler twice or not at all, one resumed from the end of an epoch draws that epoch's batches with epoch 0's order.
Here the hook is written down, and the rest of it is carried out.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Literal

# between batches; in on_train_batch_end; in on_validation_end; in on_train_epoch_end, or after it
Hook = Literal["between", "train_batch_end", "validation_end", "train_epoch_end"]


def current_hook(trainer: Any, validated: bool) -> Hook | None:
    """The hook in which the loops stand; None where a batch is in flight and nothing can be repeated.

    Args:
        trainer: The run's Trainer.
        validated: Whether a validation has reached ``on_validation_end`` and training has not gone on since.
    """
    epoch = trainer.fit_loop.epoch_progress.current
    batch = trainer.fit_loop.epoch_loop.batch_progress.current
    if trainer.validating:
        return "validation_end" if validated else None
    if epoch.ready == epoch.processed:
        return "train_epoch_end"
    if batch.ready != batch.processed:
        return None
    return "between" if batch.completed == batch.processed else "train_batch_end"


def settle(loops: dict[str, Any], hook: Hook) -> None:
    """Change the counters of a checkpoint to those between two batches, or after an epoch's end.

    Args:
        loops: The checkpoint's ``loops``, changed in place.
        hook: Where it was written.
    """
    fit = loops["fit_loop"]
    for counter in ("total", "current"):
        batch = fit["epoch_loop.batch_progress"][counter]
        batch["started"] = batch["processed"] = batch["completed"] = batch["ready"]
        if hook == "train_epoch_end":
            epoch = fit["epoch_progress"][counter]
            epoch["completed"] = epoch["processed"]


def loops_of(trainer: Any) -> Iterator[Any]:
    """The fit loop and all loops in it."""
    fit = trainer.fit_loop
    yield fit
    yield fit.epoch_loop
    yield from (fit.epoch_loop.automatic_optimization, fit.epoch_loop.manual_optimization, fit.epoch_loop.val_loop)


def forget_restart(trainer: Any) -> None:
    """Let the loops go on as if they had never been restored."""
    for loop in loops_of(trainer):
        loop._restarting = False
        loop._loaded_from_state_dict = False
        loop._resuming_from_checkpoint = False
        loop.reset_restart_stage()


def batches_done(trainer: Any) -> int:
    """How many batches of this epoch have been trained."""
    return int(trainer.fit_loop.epoch_loop.batch_progress.current.ready)


def step_plateau_schedulers(trainer: Any) -> None:
    """What is left of an epoch after ``on_train_epoch_end``: schedulers that look at a metric."""
    loop = trainer.fit_loop
    if not loop.epoch_loop._num_ready_batches_reached():
        return
    loop.epoch_progress.current.completed -= 1  # they count by the epoch that ends
    try:
        loop.epoch_loop.update_lr_schedulers("epoch", update_plateau_schedulers=True)
    finally:
        loop.epoch_progress.current.completed += 1


def gradients_in_flight(trainer: Any) -> bool:
    """Whether gradients are accumulated that no optimiser step has used yet; where nobody knows, True."""
    if not trainer.lightning_module.automatic_optimization:
        return True
    done = batches_done(trainer)
    last = trainer.fit_loop.epoch_loop._num_ready_batches_reached()
    return bool(done % trainer.accumulate_grad_batches) and not last


def reloads(trainer: Any) -> list[float]:
    """In which epochs Lightning has last asked for loaders anew, for training and validation."""
    fit = trainer.fit_loop
    return [float(fit._last_train_dl_reload_epoch), float(fit.epoch_loop.val_loop._last_val_dl_reload_epoch)]


def set_reloads(trainer: Any, epochs: list[float]) -> None:
    """The inverse of :func:`reloads`."""
    fit = trainer.fit_loop
    fit._last_train_dl_reload_epoch, fit.epoch_loop.val_loop._last_val_dl_reload_epoch = epochs
