"""The configuration of a run as it was resolved: LightningCLI's, or else what the module was made with."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass, field
from typing import Any, Literal

import yaml  # type: ignore[import-untyped]

from lightning_rules.reproduce.plain_values import class_path, mask_secrets, plain


@dataclass(frozen=True)
class ResolvedConfig:
    """A configuration.

    Args:
        text: YAML; None where there is none.
        source: ``"cli"``: what LightningCLI parsed, to be given to it by ``--config``; ``"hparams"``: the
            hyperparameters of module and data module; None where there are none.
        masked: Places that held a secret and hold ``***`` now.
    """

    text: str | None = None
    source: Literal["cli", "hparams"] | None = None
    masked: list[str] = field(default_factory=list)


def resolved_config(trainer: Any, module: Any) -> ResolvedConfig:
    """The configuration of a run, from LightningCLI of either namespace or from hyperparameters."""
    text = _of_command_line(trainer)
    if text is not None:
        return _without_secrets(text, "cli")
    parts = {"model": module, "data": getattr(trainer, "datamodule", None)}
    known = {name: _of_hyperparameters(part) for name, part in parts.items()}
    found = {name: config for name, config in known.items() if config}
    return _without_secrets(yaml.safe_dump(found, sort_keys=False), "hparams") if found else ResolvedConfig()


def _of_command_line(trainer: Any) -> str | None:
    """What LightningCLI's SaveConfigCallback would save, whether or not it has been told to."""
    for callback in trainer.callbacks:
        config, dump = getattr(callback, "config", None), getattr(getattr(callback, "parser", None), "dump", None)
        if config is not None and callable(dump):
            with contextlib.suppress(Exception):  # a parser that is none of LightningCLI's
                return str(dump(config, skip_none=False))
    return None


def _of_hyperparameters(part: Any) -> dict[str, Any] | None:
    try:
        arguments = {name: value for name, value in dict(part.hparams).items() if name != "_instantiator"}
    except Exception:  # none were saved, or they are no mapping
        return None
    return {"class_path": class_path(type(part)), "init_args": plain(arguments)} if arguments else None


def _without_secrets(text: str, source: Literal["cli", "hparams"]) -> ResolvedConfig:
    try:
        config = yaml.safe_load(text)
    except yaml.YAMLError:  # tags of the user's own
        return ResolvedConfig(text, source)
    masked = mask_secrets(config)
    return ResolvedConfig(yaml.safe_dump(config, sort_keys=False) if masked else text, source, masked)
