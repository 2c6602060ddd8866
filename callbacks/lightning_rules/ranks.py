"""Agreement between the processes of a run."""

from __future__ import annotations

from collections.abc import Callable
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


def on_rank_zero(trainer: Any, step: Callable[[], T]) -> T:
    """Run a step on rank 0 alone, and end alike on all ranks: with its value, or with its error.

    A collective. A rank that failed alone would leave the others waiting for ever.

    Args:
        trainer: The run's Trainer.
        step: Returns anything that pickles; small, on the host.

    Raises:
        OSError: The step raised one; the same text on all ranks.
        RuntimeError: The step raised another exception; the same text on all ranks.
    """
    value, failure = None, None
    if trainer.is_global_zero:
        try:
            value = step()
        except Exception as error:
            failure = error
    told, value = gather(trainer, (_told(failure), value))[0]
    _raise(told, failure)
    return value  # type: ignore[return-value]


def raise_together(trainer: Any, failure: Exception | None) -> None:
    """Raise on all ranks if one of them failed. A collective.

    Args:
        trainer: The run's Trainer.
        failure: What this rank caught; None where all is well.

    Raises:
        OSError: The first rank that failed caught one; the same text on all ranks.
        RuntimeError: That rank caught another exception; the same text on all ranks.
    """
    _raise(next((told for told in gather(trainer, _told(failure)) if told), None), failure)


def _told(failure: Exception | None) -> tuple[bool, str] | None:
    """An exception for other processes, which may not be able to unpickle it: whether the disk is to blame, and why."""
    return None if failure is None else (isinstance(failure, OSError), str(failure) or type(failure).__name__)


def _raise(told: tuple[bool, str] | None, failure: Exception | None) -> None:
    if told is not None:
        raise (OSError if told[0] else RuntimeError)(told[1]) from failure
