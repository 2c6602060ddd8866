"""A step that is not taken: neither weights nor the optimiser's state change, on all ranks together."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.distributed
from torch import Tensor

from lightning_rules.gradient_norms import scale_all


def on_any_rank(trainer: Any, flag: Tensor) -> Tensor:
    """Whether a flag is set on any rank; a collective that the device carries out when it gets there."""
    if trainer.world_size == 1 or not (torch.distributed.is_available() and torch.distributed.is_initialized()):
        return flag
    count = flag.to(trainer.strategy.root_device, torch.float32)
    torch.distributed.all_reduce(count)
    return (count > 0).to(flag.device)


def scale_left(trainer: Any, optimizer: torch.optim.Optimizer, device: torch.device) -> Tensor | float:
    """By how much gradients are still scaled: a GradScaler leaves unscaling to optimisers that can do it."""
    scaler = _scaler(trainer)
    if scaler is None or not _obeys_found_inf(optimizer):
        return 1.0
    scale: Tensor = scaler.scale(torch.ones((), device=device))
    return scale


def skip(
    trainer: Any,
    optimizer: torch.optim.Optimizer,
    parameters: Sequence[Tensor],
    gradients: Sequence[Tensor | None],
    bad: Tensor,
) -> bool:
    """Let the optimiser's coming step do nothing if ``bad``.

    Fused optimisers of torch look at a flag on the device (as a GradScaler sets it) and leave everything as it is.
    Others leave out parameters without gradient, so that theirs are removed; for that ``bad`` is read by the host.
    Multiplying gradients by zero would not do: momentum and weight decay would still move the weights.

    Returns:
        Whether the host knows that the step is skipped.
    """
    if _obeys_found_inf(optimizer):
        if _scaler(trainer) is not None:  # it looks at the gradients again, and sets the flag itself
            scale_all(gradients, torch.where(bad, torch.nan, 1.0))
            return False
        if not _makes_momentum_now(optimizer):
            vars(optimizer)["found_inf"] = bad.float()
            return False
    if not bool(bad):
        return False
    for parameter in parameters:
        parameter.grad = None
    return True


def take_back(trainer: Any) -> None:
    """Clear the flags that :func:`skip` set; a GradScaler clears its own."""
    for optimizer in trainer.optimizers:
        vars(optimizer).pop("found_inf", None)


def _obeys_found_inf(optimizer: torch.optim.Optimizer) -> bool:
    """Whether its step takes ``grad_scale`` and ``found_inf``: torch's own with ``fused=True``."""
    fused = getattr(optimizer, "_step_supports_amp_scaling", False)
    return bool(fused) and type(optimizer).__module__.startswith("torch.optim")


def _makes_momentum_now(optimizer: torch.optim.Optimizer) -> bool:
    """Whether fused SGD is about to make its momentum, which a flagged step leaves uninitialised (torch 2.15)."""
    return any(
        group.get("momentum") and all(not optimizer.state.get(parameter) for parameter in group["params"])
        for group in optimizer.param_groups
    )


def _scaler(trainer: Any) -> Any:
    scaler = getattr(trainer.precision_plugin, "scaler", None)
    return scaler if scaler is not None and scaler.is_enabled() else None
