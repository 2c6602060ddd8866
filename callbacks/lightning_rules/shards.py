"""Strategies that give each rank only a part of the parameters."""

from __future__ import annotations

from typing import Any

from lightning_rules.rule import NotApplicable

SHARDING = ("FSDP", "DeepSpeed", "ModelParallel")


def shards(trainer: Any) -> bool:
    """Whether each rank holds only a part of the parameters."""
    return any(name in type(trainer.strategy).__name__ for name in SHARDING)


def refuse_shards(trainer: Any) -> None:
    """Refuse a run in which no rank sees a whole parameter.

    Raises:
        NotApplicable: The strategy shards the parameters over the ranks.
    """
    if shards(trainer):
        strategy = type(trainer.strategy).__name__
        raise NotApplicable(f"{strategy} shards the parameters, and each rank sees only a part of them.")
