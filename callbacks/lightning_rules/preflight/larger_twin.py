"""The user's module built anew from its hyperparameters, as it is and a size larger."""

from __future__ import annotations

import inspect
import re
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from lightning_rules.rule import NotApplicable

WIDTHS = re.compile(
    r"hidden|width|channel|chans|filter|unit|neuron|planes|embed|d_model|(^|_)dims?$|nhid|ninp|n_embd|d_ff|feedforward"
)
DEPTHS = re.compile(r"layer|depth|block")
FIXED = re.compile(
    r"^(in|out|input|output|num_in|n_in|data|img|image)(_|$)|input|output|class|vocab|kernel|patch|seq|len|drop|head|pad"
)
FACTOR = 2


def hyperparameters(module: Any) -> dict[str, Any]:
    """What the module's class was called with, as far as ``save_hyperparameters`` has kept it.

    Raises:
        NotApplicable: Nothing was kept, or not all that the class needs.
    """
    kept = dict(module.hparams)
    wanted = inspect.signature(type(module).__init__).parameters
    open_ended = any(parameter.kind is parameter.VAR_KEYWORD for parameter in wanted.values())
    given = {name: value for name, value in kept.items() if open_ended or name in wanted}
    kinds = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    needed = [p.name for p in list(wanted.values())[1:] if p.kind in kinds and p.default is p.empty]
    missing = [name for name in needed if name not in given]
    if missing or not given:
        raise NotApplicable(
            f"{type(module).__name__} does not keep what it was made with"
            f"{' (' + ', '.join(missing) + ')' if missing else ''}: call save_hyperparameters() in its __init__ with "
            "the width as an argument of its own."
        )
    return given


def larger_by_default(given: Mapping[str, Any]) -> dict[str, Any]:
    """The hyperparameters that name a width, doubled; where there is none, those that name a depth.

    Raises:
        NotApplicable: None of them does.
    """
    for pattern in (WIDTHS, DEPTHS):
        named = {name: value for name, value in given.items() if pattern.search(name) and not FIXED.search(name)}
        doubled = {name: _doubled(value) for name, value in named.items() if _is_size(value)}
        if doubled:
            return doubled
    raise NotApplicable(
        f"none of the hyperparameters ({', '.join(given)}) is known to be a width or a depth: say which value is a "
        "size larger, as in CapacityCheck(larger={'backbone': 'resnet34'})."
    )


def _is_size(value: Any) -> bool:
    if isinstance(value, (list, tuple)):
        return len(value) > 0 and all(_is_size(part) for part in value)
    return isinstance(value, int) and not isinstance(value, bool) and value > 0


def _doubled(value: Any) -> Any:
    return type(value)(_doubled(part) for part in value) if isinstance(value, (list, tuple)) else FACTOR * value


def build(original: Any, given: Mapping[str, Any], seed: int) -> Any:
    """A fresh module of the same class on the original's device, attached to its Trainer.

    Raises:
        NotApplicable: The class cannot be called with these values.
    """
    torch.manual_seed(seed)
    try:
        module = type(original)(**given)
        module.trainer = original.trainer
        module.configure_model()
        module.setup("fit")
    except Exception as error:
        said = str(error).partition(chr(10))[0]
        raise NotApplicable(
            f"{type(original).__name__} could not be built with {_changed(original, given)} ({said})."
        ) from error
    module = original.trainer.precision_plugin.convert_module(module)
    return module.to(original.device).train()


def _changed(original: Any, given: Mapping[str, Any]) -> str:
    changed = {name: value for name, value in given.items() if original.hparams.get(name) != value}
    return ", ".join(f"{name}={value!r}" for name, value in (changed or given).items())


def trainable_count(module: nn.Module) -> int:
    """How many values are trained."""
    return sum(parameter.numel() for parameter in module.parameters() if parameter.requires_grad)
