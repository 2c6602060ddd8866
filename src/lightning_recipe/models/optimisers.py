"""Optimisers and learning-rate schedules by name, through timm, and the parameter groups they work on."""

import math
from collections.abc import Iterable, Sequence
from difflib import get_close_matches
from typing import Any

import lightning as L
from timm.optim import create_optimizer_v2, list_optimizers  # type: ignore[attr-defined]
from timm.scheduler.scheduler_factory import create_scheduler_v2
from torch import nn
from torch.optim import Optimizer

SCHEDULERS = ("cosine", "tanh", "poly", "step", "multistep", "wsd", "rsqrt")


def check_names(optimizer: str, scheduler: str | None) -> None:
    """Check the names at construction, long before `configure_optimizers` would stumble over them.

    Raises:
        ValueError: If timm knows no such optimiser or scheduler; the message offers the closest names.
    """
    known = [str(name) for name in list_optimizers()]
    if optimizer.lower() not in known:
        raise ValueError(
            f"optimizer={optimizer!r} is unknown to timm: choose one of timm.optim.list_optimizers()"
            f"{did_you_mean(optimizer, known)}."
        )
    if scheduler is not None and scheduler not in SCHEDULERS:
        raise ValueError(
            f"scheduler={scheduler!r} is unknown: choose one of {', '.join(SCHEDULERS)}, or null for a "
            f"constant rate{did_you_mean(scheduler, SCHEDULERS)}."
        )


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """Return ", such as a, b or c" with the names closest to `name`, or "" if none is close."""
    close = get_close_matches(name, list(known), n=3, cutoff=0.5)
    return f", such as {', '.join(close[:-1])}{' or ' if close[:-1] else ''}{close[-1]}" if close else ""


def parameter_groups(
    module: nn.Module,
    *,
    lr: float,
    weight_decay: float,
    slower: Sequence[nn.Parameter] = (),
    slower_scale: float = 1.0,
) -> list[dict[str, Any]]:
    """Group trainable parameters by learning rate and weight decay.

    There is one weight decay, as Ng advises (deeplearning.ai notes), and none on biases and norms, nor on
    what the model itself exempts through timm's `no_weight_decay()` (position embeddings).

    Each group holds its own `lr`. timm's `lr_scale` is not used: only timm's schedulers read it, so a
    constant rate would ignore it.

    Args:
        module: Whose parameters to group; those with `requires_grad=False` are left out.
        lr: Learning rate, above 0.
        weight_decay: Weight decay, at least 0.
        slower: Parameters of the pretrained part.
        slower_scale: Factor on their learning rate.

    Returns:
        Up to four non-empty groups with `params`, `lr`, `weight_decay` and a `name` to tell them apart.
    """
    slow = {id(parameter) for parameter in slower}
    exempt = {
        f"{prefix}.{name}" if prefix else name
        for prefix, child in module.named_modules()
        if callable(own := getattr(child, "no_weight_decay", None))
        for name in own()
    }
    groups: dict[str, dict[str, Any]] = {}
    for name, parameter in module.named_parameters():
        if not parameter.requires_grad:
            continue
        part = "backbone" if id(parameter) in slow else "head" if slow else "all"
        decays = parameter.ndim > 1 and not name.endswith(".bias") and name not in exempt
        group = groups.setdefault(
            f"{part}/{'decay' if decays else 'no-decay'}",
            {
                "params": [],
                "lr": lr * slower_scale if part == "backbone" else lr,
                "weight_decay": weight_decay if decays else 0.0,
            },
        )
        group["params"].append(parameter)
    return [{"name": name, **group} for name, group in groups.items()]


def create_optimizer(
    groups: list[dict[str, Any]], name: str, *, lr: float, options: dict[str, Any] | None = None
) -> Optimizer:
    """Create an optimiser by its timm name.

    Args:
        groups: From [`parameter_groups`][]; must not be empty.
        name: A name of `timm.optim.list_optimizers()`.
        lr: Learning rate of groups that have none of their own.
        options: Further arguments of the optimiser, such as `betas` or `momentum`.

    Raises:
        ValueError: If no parameter is trainable, or the optimiser does not take one of the options.
    """
    if not groups:
        raise ValueError("The model has no trainable parameter: unfreeze a part of it.")
    try:
        optimizer = create_optimizer_v2(groups, opt=name, lr=lr, **(options or {}))
    except TypeError as error:
        raise ValueError(f"optimizer_options={options} do not suit optimizer={name!r}: {error}.") from error
    return optimizer


def with_scheduler(
    optimizer: Optimizer,
    name: str | None,
    trainer: L.Trainer,
    *,
    warmup_epochs: float = 0.0,
    options: dict[str, Any] | None = None,
) -> dict[str, Any]:
    """Return what `configure_optimizers` returns: the optimiser, with timm's schedule if there is one.

    Schedules advance with every optimiser step and end with the run, whose length the trainer knows. Warm-up
    is linear from 0. (timm's plateau scheduler is deprecated and loses its state on resume: not offered.)

    Args:
        optimizer: The optimiser to schedule.
        name: One of `SCHEDULERS`, or None for a constant rate.
        trainer: Tells the length of the run (its number of steps per epoch is that of one rank).
        warmup_epochs: Length of the warm-up in epochs; may be a fraction; part of the run.
        options: Further arguments of `timm.scheduler.create_scheduler_v2`, such as `decay_epochs`.
            Absolute rates (`min_lr`, `warmup_lr`) hold for every group alike.

    Raises:
        ValueError: If the run has no known length, or timm's scheduler does not take the options.
    """
    if name is None and warmup_epochs == 0:
        return {"optimizer": optimizer}
    total = trainer.estimated_stepping_batches
    if math.isinf(total):
        raise ValueError(
            f"scheduler={name!r} needs a run of known length, but the trainer has neither max_epochs over a "
            "sized data set nor max_steps: set one of them, or scheduler: null."
        )
    per_epoch = max(1, math.ceil(trainer.num_training_batches / trainer.accumulate_grad_batches))
    settings: dict[str, Any] = {"warmup_lr": 0.0, "warmup_epochs": warmup_epochs, **(options or {})}
    try:
        scheduler, _ = create_scheduler_v2(
            optimizer,
            sched=name or "step",
            num_epochs=total / per_epoch,  # type: ignore[arg-type]  # a fraction will do
            step_on_epochs=False,
            updates_per_epoch=per_epoch,
            **(settings if name else {**settings, "decay_rate": 1.0}),
        )
    except (TypeError, ValueError) as error:
        raise ValueError(f"scheduler_options={options} do not suit scheduler={name!r}: {error}.") from error
    return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}
