"""LightningModules out of checkpoints: read safely, made by the class that is named, with the weights in the file."""

from __future__ import annotations

import inspect
import os
import sys
from argparse import Namespace
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from lightning_rules.untouched import untouched

HYPER_PARAMETERS = ("hyper_parameters", "hparams_name", "hparams_type")


def read_checkpoint(path: str | os.PathLike[str]) -> dict[str, Any]:
    """A Lightning checkpoint, its tensors memory-mapped: they are read from the disk when they are used.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: It is damaged, no Lightning checkpoint, or only to be had by unpickling, which is never done here.
    """
    file = Path(path)
    if not file.is_file():
        raise FileNotFoundError(f"There is no checkpoint {path}: name a .ckpt file that a fit has written.")
    try:
        loaded = torch.load(file, map_location="cpu", mmap=True, weights_only=True)
    except Exception as error:
        raise ValueError(_why_unreadable(file, error)) from error
    if not isinstance(loaded, dict) or not isinstance(loaded.get("state_dict"), dict):
        raise ValueError(f"{path} is no Lightning checkpoint: it has no `state_dict`; name a .ckpt file.")
    return loaded


def _why_unreadable(file: Path, error: Exception) -> str:
    try:
        unsafe = list(torch.serialization.get_unsafe_globals_in_checkpoint(file))
    except Exception:
        unsafe = []
    if unsafe:
        return (
            f"{file} holds {', '.join(unsafe[:3])}, which only unpickling makes, and that may run any code: save it "
            "again with plain values in its hyperparameters and callbacks."
        )
    reason = str(error).strip().partition("\n")[0].partition(". ")[0] or type(error).__name__
    return f"{file} is damaged or no checkpoint ({reason}): restore it from a copy, or leave it out."


def load_module(path: str | os.PathLike[str], module_class: type | None = None) -> Any:
    """The LightningModule of a checkpoint, on the CPU, in evaluation mode.

    Its weights are those of the file, read from the disk as they are used, so that more can be loaded than fits.

    Args:
        path: A checkpoint of Lightning, from ``fit`` or from :func:`save_ensemble`.
        module_class: The class of the module; by default the one that the checkpoint names (those that LightningCLI
            has written do), which must have been imported already.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: It is damaged, names no class, names one that has not been imported, or holds other weights than
            the class has.
    """
    checkpoint = read_checkpoint(path)
    found = module_class or named_class(checkpoint.get("hyper_parameters", {}), path)
    with untouched():  # modules draw random numbers while they are made
        module = build(found, checkpoint, path)
    if callable(getattr(module, "on_load_checkpoint", None)):
        module.on_load_checkpoint(checkpoint)
    try:
        module.load_state_dict(checkpoint["state_dict"], strict=getattr(module, "strict_loading", True), assign=True)
    except RuntimeError as error:
        raise ValueError(
            f"The weights in {path} are not those of {found.__name__} ({_first_difference(error)}): the class has "
            "changed since, or another one was trained."
        ) from error
    return module.eval()


def named_class(hyper_parameters: Mapping[str, Any], what: str | os.PathLike[str]) -> type:
    """The class that hyperparameters name; it is never imported here, for a file must not run code.

    Raises:
        ValueError: None is named, or it has not been imported.
    """
    name = hyper_parameters.get("_class_path")
    if not isinstance(name, str):
        raise ValueError(f"{what} does not name the class of its module: give it as `module_class`.")
    module, _, attribute = name.rpartition(".")
    found = getattr(sys.modules.get(module), attribute, None)
    if not isinstance(found, type) or not hasattr(found, "load_from_checkpoint"):
        raise ValueError(f"{what} was made by {name}, which is not imported: import it first, or give `module_class`.")
    return found


def description(module_class: type, checkpoint: Mapping[str, Any]) -> dict[str, Any]:
    """What :func:`build` needs to make the module again: its class and hyperparameters, as a checkpoint holds them."""
    kept = {name: checkpoint[name] for name in HYPER_PARAMETERS if checkpoint.get(name) is not None}
    named = {"_class_path": f"{module_class.__module__}.{module_class.__qualname__}"}
    return {**kept, "hyper_parameters": {**kept.get("hyper_parameters", {}), **named}}


def build(module_class: type, described: Mapping[str, Any], what: str | os.PathLike[str]) -> Any:
    """A module with fresh weights, from the hyperparameters in a checkpoint or a :func:`description`.

    Args:
        module_class: Its class.
        described: Holds ``hyper_parameters``, and ``hparams_name`` where they are one argument of that name.
        what: Where the description comes from, for messages.

    Raises:
        ValueError: The class cannot be made with them.
    """
    values = dict(described.get("hyper_parameters") or {})
    by_cli = values.pop("_instantiator", None) is not None
    values.pop("_class_path", None)
    name = described.get("hparams_name")
    parameters = inspect.signature(module_class).parameters
    if name and name in parameters:
        kind = described.get("hparams_type")
        values = {name: Namespace(**values) if kind == "Namespace" else values}
    elif not any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values()):
        values = {name: value for name, value in values.items() if name in parameters}
    try:
        return _by_cli(module_class, values) if by_cli else module_class(**values)
    except Exception as error:
        reason = str(error).strip().partition("\n")[0]
        raise ValueError(
            f"{module_class.__name__} cannot be made again from the hyperparameters in {what} ({reason}): call "
            "`self.save_hyperparameters()` first in its `__init__`, and train again."
        ) from error


def _by_cli(module_class: type, values: dict[str, Any]) -> Any:
    """Values as YAML has them, with classes named in them, which LightningCLI's parser makes."""
    try:
        from lightning.pytorch.cli import instantiate_module
    except ImportError:  # without jsonargparse: enough where values are plain
        return module_class(**values)
    return instantiate_module(module_class, values)


def _first_difference(error: RuntimeError) -> str:
    lines = [line.strip() for line in str(error).splitlines()[1:] if line.strip()]
    text = lines[0] if lines else str(error)
    return text if len(text) <= 200 else f"{text[:200]}..."
