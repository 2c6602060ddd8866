"""Dropout that is still at work in evaluation mode."""

from __future__ import annotations

import inspect
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn
from torch.overrides import TorchFunctionMode

from lightning_rules.view import View

# Which argument switches each of them on; attention has a rate only.
SWITCHED = {
    F.dropout: "training",
    F.dropout1d: "training",
    F.dropout2d: "training",
    F.dropout3d: "training",
    F.alpha_dropout: "training",
    F.feature_alpha_dropout: "training",
}


def dropout_in_evaluation(view: View, batch: Any) -> tuple[str, float] | None:
    """The first dropout that a module's forward applies although every module is in evaluation mode.

    Dropout that ``training_step`` applies itself, as an augmentation, does not count.

    Returns:
        The path of the module and the rate, or None.
    """
    mode = _SeeDropout()
    handles = []
    for name, part in view.module.named_modules():
        handles.append(part.register_forward_pre_hook(lambda *_, name=name: mode.inside.append(name)))
        handles.append(part.register_forward_hook(lambda *_: mode.inside.pop() and None, always_call=True))
    try:
        with mode, torch.compiler.set_stance("force_eager"), view.step(batch, evaluation=True):
            still = not any(part.training for part in view.module.modules() if isinstance(part, nn.Module))
    finally:
        for handle in handles:
            handle.remove()
    return mode.active if still else None


class _SeeDropout(TorchFunctionMode):
    """Records the first dropout that is on, inside a module's forward."""

    def __init__(self) -> None:
        super().__init__()
        self.inside: list[str] = []
        self.active: tuple[str, float] | None = None

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if self.active is None and self.inside and (func in SWITCHED or func is F.scaled_dot_product_attention):
            rate = _rate(func, args, kwargs or {})
            if rate > 0:
                self.active = (self.inside[-1], rate)
        return func(*args, **(kwargs or {}))


def _rate(func: Any, args: Any, kwargs: dict[str, Any]) -> float:
    if func is F.scaled_dot_product_attention:
        return float(args[4] if len(args) > 4 else kwargs.get("dropout_p", 0.0))
    bound = inspect.signature(func).bind(*args, **kwargs)
    bound.apply_defaults()
    return float(bound.arguments["p"]) if bound.arguments[SWITCHED[func]] else 0.0
