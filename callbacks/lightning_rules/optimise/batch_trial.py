"""Whether steps with a batch of a given size fit into memory: tried, not reckoned."""

from __future__ import annotations

import gc
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import torch

from lightning_rules.optimise.resized_loader import largest_batches
from lightning_rules.rule import NotApplicable
from lightning_rules.trial_runs import TrialRuns
from lightning_rules.untouched import untouched

STEPS = 3  # an optimiser has all its state after the first
SAID = ("out of memory", "can't allocate memory", "not enough memory", "cannot allocate memory", "alloc_failed")


@dataclass(frozen=True)
class Trial:
    """What one rank saw of one batch size.

    Attributes:
        size: Examples in the batch.
        fits: Whether all steps fitted, with the margin to spare.
        reason: Why not; empty if they did.
        failure: What else a step raised; empty if nothing.
        peak: The most memory that was reserved on the device, in bytes; None where that is not counted (CPU).
        available: What this process could reserve, in bytes; None likewise.
    """

    size: int
    fits: bool
    reason: str = ""
    failure: str = ""
    peak: int | None = None
    available: int | None = None


def try_size(runs: TrialRuns, loader: Any, size: int, short: int, margin: float) -> Trial:
    """Take full steps on this rank alone, then one with the last, short batch; everything is put back.

    Ranks do not speak to each other meanwhile: one that has run out of memory leaves none waiting.

    Args:
        runs: What takes the steps.
        loader: The training loader, of any batch size.
        size: Examples in a batch.
        short: Examples in the last batch of a pass; 0 if there is none.
        margin: Share of the device's memory that has to stay free.
    """
    device = runs.trainer.strategy.root_device
    _start_counting(device)
    try:
        _take_steps(runs, loader, [size] * STEPS + [short] * (short > 0))
    except NotApplicable:
        raise
    except Exception as error:
        memory, text = is_out_of_memory(error), f"{type(error).__name__}: {str(error).partition(chr(10))[0]}"
        error.__traceback__ = None  # its frames hold the batch and all activations
        return Trial(size, False, reason="out of memory" if memory else "", failure="" if memory else text)
    finally:
        _free(device)
    peak, available = _counted(device)
    if peak is not None and available is not None and peak > (1 - margin) * available:
        return Trial(size, False, f"{peak / available:.0%} of the memory used", peak=peak, available=available)
    return Trial(size, True, peak=peak, available=available)


def _take_steps(runs: TrialRuns, loader: Any, sizes: Sequence[int]) -> None:
    with untouched(None, loader):
        batches = list(largest_batches(loader, sorted(set(sizes), reverse=True)))
    by_size = dict(zip(sorted(set(sizes), reverse=True), batches, strict=True))
    with runs.lent():
        for number, size in enumerate(sizes):
            runs.trainer.strategy.optimizer_step(runs.optimizer, _closure(runs, by_size[size], number), runs.module)


def _closure(runs: TrialRuns, batch: Any, number: int) -> Any:
    def closure() -> Any:
        runs.optimizer.zero_grad()
        loss = runs.view.loss(batch, number)
        if loss is None:
            raise NotApplicable("training_step returned no loss.")
        runs.trainer.strategy.backward(loss, runs.optimizer)
        return loss.detach()

    return closure


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an exception says that memory is spent, on any device; the CPU's and cuBLAS's have no class for it."""
    if isinstance(error, (torch.OutOfMemoryError, MemoryError)):
        return True
    return isinstance(error, RuntimeError) and any(said in str(error).lower() for said in SAID)


def _start_counting(device: torch.device) -> None:
    _free(device)
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)


def _counted(device: torch.device) -> tuple[int | None, int | None]:
    if device.type != "cuda":
        return None, None
    free, _ = torch.cuda.mem_get_info(device)
    return torch.cuda.max_memory_reserved(device), free + torch.cuda.memory_reserved(device)


def _free(device: torch.device) -> None:
    gc.collect()
    if device.type == "cuda":
        with suppress(RuntimeError):  # a device in trouble must not hide what brought it there
            torch.cuda.empty_cache()
