"""Which gradients are to be clipped, and where clipping does not apply."""

from __future__ import annotations

import logging
from typing import Any, get_args

import torch
from torch import nn

from lightning_rules.rule import NotApplicable
from lightning_rules.view import View

log = logging.getLogger(__name__)
WHOLE = ("FULL_SHARD", "SHARD_GRAD_OP")  # FSDP's first version: every parameter is cut over all ranks
KEPT_WHOLE = ("ignored_modules", "ignored_states", "ignored_parameters", "process_group", "device_mesh")


def refuse(method: str, max_norm: float, percentile: float, agc_factor: float, max_skipped: int, known: Any) -> None:
    """Refuse arguments out of range.

    Raises:
        ValueError: One sentence: what was given, what was expected.
    """
    methods = get_args(known)
    if method not in methods:
        raise ValueError(f"Expected `method` to be one of {', '.join(map(repr, methods))}, but got {method!r}.")
    if not 0 < max_norm < float("inf"):
        raise ValueError(f"Expected `max_norm` to be above 0 and finite, but got {max_norm!r}.")
    if not 0 < percentile <= 100:
        raise ValueError(f"Expected `percentile` to be above 0 and at most 100, but got {percentile!r}.")
    if not 0 < agc_factor < float("inf"):
        raise ValueError(f"Expected `agc_factor` to be above 0 and finite, but got {agc_factor!r}.")
    if isinstance(max_skipped, bool) or not isinstance(max_skipped, int) or max_skipped < 0:
        raise ValueError(f"Expected `max_skipped` to be a whole number, at least 0, but got {max_skipped!r}.")


def recurrent_layers(module: nn.Module) -> list[str]:
    """Paths of torch's recurrent layers and cells, and of classes made from them."""
    return [name for name, part in module.named_modules() if isinstance(part, (nn.RNNBase, nn.RNNCellBase))]


def stand_aside(trainer: Any, module: Any) -> None:
    """Whether to clip without being asked.

    Raises:
        NotApplicable: There is nothing recurrent, or somebody clips already.
    """
    if not recurrent_layers(module):
        raise NotApplicable(
            "the module has no recurrent layers; `method` 'max-norm', 'percentile' or 'agc' clips any network."
        )
    if trainer.gradient_clip_val:
        raise NotApplicable(
            f"Trainer(gradient_clip_val={trainer.gradient_clip_val}) clips already; remove it for this rule to clip "
            "and to skip what is not finite, or leave GradientClipping out."
        )
    if type(module).configure_gradient_clipping.__module__.partition(".")[0] not in ("lightning", "pytorch_lightning"):
        raise NotApplicable("the module clips in its own `configure_gradient_clipping`.")


def stand_aside_of_shards(trainer: Any, module: Any, units: bool) -> None:
    """Whether gradients can be had and measured as a whole; ``units``: whole units are compared.

    Raises:
        NotApplicable: They cannot.
    """
    strategy = trainer.strategy
    if "DeepSpeed" in type(strategy).__name__:
        raise NotApplicable("DeepSpeed clips by itself; set `gradient_clipping` in its configuration.")
    if any(isinstance(optimizer, torch.optim.LBFGS) for optimizer in trainer.optimizers):
        raise NotApplicable("LBFGS estimates curvature from whole gradients, and clipped ones mislead it.")
    flat = type(strategy).__name__ == "FSDPStrategy"
    if flat and (strategy.sharding_strategy.name not in WHOLE or any(map(strategy.kwargs.get, KEPT_WHOLE))):
        raise NotApplicable("FSDP shards only some parameters, or over some ranks, and hides which; use FULL_SHARD.")
    if units and (flat or any(hasattr(parameter, "device_mesh") for parameter in module.parameters())):
        raise NotApplicable("AGC compares whole units, and this strategy shards them.")


def heads_of(trainer: Any, module: Any) -> list[str]:
    """Paths of the layers that feed a loss; none where the training step cannot be watched."""
    try:
        view = View(trainer, module)
        with view.step(view.batches(1)[0]) as step:
            return sorted({call.head.name for call in step.calls if call.head is not None})
    except Exception:
        log.debug("The training step could not be watched: no layer is known to be the last.", exc_info=True)
        return []
