"""Agreement between the processes of a run."""

from __future__ import annotations

from typing import Any, TypeVar

import torch.distributed

T = TypeVar("T")


def gather(trainer: Any, value: T) -> list[T]:
    """The values of all ranks, in the order of ranks; identical on each of them.

    A collective: every rank calls it at the same point of the program, whatever it found. Where the strategy runs no
    torch process group (one process, or XLA), the list holds this rank's value alone.

    Args:
        trainer: The run's Trainer.
        value: Anything that pickles; small, on the host.
    """
    if trainer.world_size == 1 or not (torch.distributed.is_available() and torch.distributed.is_initialized()):
        return [value]
    values: list[Any] = [None] * torch.distributed.get_world_size()
    torch.distributed.all_gather_object(values, value)
    return values
