"""Strategies that give each rank only a part of the parameters."""

from __future__ import annotations

from typing import Any

from lightning_rules.rule import NotApplicable

SHARDING = ("FSDP", "DeepSpeed", "ModelParallel")


def refuse_shards(trainer: Any) -> None:
    """Refuse a run in which no rank sees a whole parameter.

    Raises:
        NotApplicable: The strategy shards the parameters over the ranks.
    """
    strategy = type(trainer.strategy).__name__
    if any(name in strategy for name in SHARDING):
        raise NotApplicable(f"{strategy} shards the parameters, and each rank sees only a part of them.")
