"""The learning rates of an optimiser and of what schedules them: read, set for a trial, multiplied for good."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from lightning_rules.rule import NotApplicable

# Attributes in which schedulers of torch and timm hold rates, each a number or one for each group. Those of timm that
# are increments of a warm-up scale with the rates they lead to.
HELD = (
    *("base_lrs", "_last_lr", "max_lrs", "eta_min", "min_lrs"),
    *("base_values", "lr_min", "warmup_lr_init", "warmup_steps"),
)
IN_GROUPS = ("lr", "initial_lr", "max_lr", "min_lr", "swa_lr")


def peak_rates(optimizer: torch.optim.Optimizer, schedulers: list[Any]) -> list[float]:
    """The rate of each group that its schedule starts from or climbs to; a warm-up may hold it lower at present.

    Raises:
        NotApplicable: All of them are zero.
    """
    peaks = [_peak(group) for group in optimizer.param_groups]
    for scheduler in schedulers:
        for one in _with_inner(scheduler):
            peaks = [max(pair) for pair in zip(peaks, getattr(one, "max_lrs", peaks), strict=True)]
    if not max(peaks) > 0:
        raise NotApplicable("all learning rates are 0, and ratios between groups cannot be kept.")
    return peaks


def _peak(group: dict[str, Any]) -> float:
    if "initial_lr" not in group:
        return float(group["lr"])
    # Schedulers of timm multiply by `lr_scale`, where its layer-wise decay has put one.
    return float(group.get("max_lr", group["initial_lr"])) * float(group.get("lr_scale", 1.0))


def set_rates(optimizer: torch.optim.Optimizer, rates: list[float]) -> None:
    """Give each group a rate, in a new number or tensor: the old one stays as it is."""
    for group, rate in zip(optimizer.param_groups, rates, strict=True):
        group["lr"] = torch.full_like(group["lr"], rate) if isinstance(group["lr"], Tensor) else rate


def refuse_unknown_schedulers(schedulers: list[Any]) -> None:
    """Refuse schedulers that hold rates in no place that is known.

    Raises:
        NotApplicable: Multiplying the rates would not hold beyond their next step.
    """
    for scheduler in schedulers:
        for one in _with_inner(scheduler):
            if not any(hasattr(one, name) for name in HELD) and not hasattr(one, "_schedulers"):
                raise NotApplicable(
                    f"{type(one).__name__} holds its rates in no place that torch's or timm's schedulers have."
                )


def multiply_rates(optimizer: torch.optim.Optimizer, schedulers: list[Any], factor: float) -> None:
    """Multiply all rates, so that the whole schedule is what it was, times a factor; ratios between groups stay.

    Args:
        optimizer: The optimiser.
        schedulers: Its schedulers, of torch or timm; those they are made of are reached.
        factor: What to multiply by.
    """
    for group in optimizer.param_groups:
        for name in IN_GROUPS:
            if group.get(name) is not None:
                group[name] = _times(group[name], factor)
    seen: set[int] = set()
    for scheduler in schedulers:
        for one in _with_inner(scheduler):
            if id(one) in seen:
                continue
            seen.add(id(one))
            for name in HELD:
                if vars(one).get(name) is not None:
                    setattr(one, name, _times(getattr(one, name), factor))


def _times(value: Any, factor: float) -> Any:
    """Numbers and lists anew, tensors in place: a compiled or captured step holds on to them."""
    if isinstance(value, (list, tuple)):
        return type(value)(_times(item, factor) for item in value)
    if isinstance(value, Tensor):
        return value.mul_(factor)
    return value * factor


def _with_inner(scheduler: Any) -> Iterator[Any]:
    """A scheduler and those it is made of (SequentialLR, ChainedScheduler; timm's PlateauLRScheduler)."""
    yield scheduler
    for inner in (*getattr(scheduler, "_schedulers", ()), *_as_tuple(getattr(scheduler, "lr_scheduler", None))):
        yield from _with_inner(inner)


def _as_tuple(value: Any) -> tuple[Any, ...]:
    return () if value is None else (value,)
