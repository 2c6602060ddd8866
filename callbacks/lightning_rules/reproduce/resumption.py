"""The judgement of exact-resume: what stands between a run and the same bits."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch.utils.data import DataLoader

from lightning_rules.finding import Finding, Severity
from lightning_rules.reproduce.generators import generators_of
from lightning_rules.reproduce.seeded_batches import is_stateful, obstacle
from lightning_rules.shards import shards

NAME = "exact-resume"


@dataclass(frozen=True)
class Resumption:
    """What one rank knows when training starts.

    Attributes:
        obstacles: Why a resume of this run could not be exact, as ends of sentences.
        resumed: Where the run goes on: optimiser steps and batches of the epoch; None in a fresh run.
        checkpoint: The path that it goes on from.
        inexact: Why this resume is not exact; empty where it is.
    """

    obstacles: list[str] = field(default_factory=list)
    resumed: tuple[int, int] | None = None
    checkpoint: str = ""
    inexact: str = ""


def obstacles_of(trainer: Any) -> list[str]:
    """Why a resume of this run cannot be exact, as ends of sentences."""
    found = []
    for loader in getattr(trainer.fit_loop._combined_loader, "flattened", []):
        workers = getattr(loader, "num_workers", 0)
        if is_stateful(loader):
            reason = f"the workers of {type(loader).__name__} begin new random numbers" if workers else None
        else:
            reason = obstacle(loader)
        if reason is None and workers and isinstance(loader, DataLoader) and generators_of(loader.dataset):
            reason = f"{type(loader.dataset).__name__} has a random number generator of its own in each worker"
        found += [reason] if reason else []
    if shards(trainer):
        found.append(f"{type(trainer.strategy).__name__} shards parameters and their gradients")
    if trainer.strategy.root_device.type == "cuda" and not torch.are_deterministic_algorithms_enabled():
        found.append("CUDA may sum in another order each time, without SeedEverything(SEED, deterministic=True)")
    if trainer.world_size > 2:
        found.append(f"{trainer.world_size} ranks may sum the first gradients after a resume in another order")
    module = trainer.lightning_module
    late = [name for name in ("on_train_batch_end", "on_validation_end") if _overrides(module, name)]
    found += [f"{type(module).__name__}.{name} runs after a checkpoint was saved in that hook" for name in late]
    return found


def judge(ranks: Sequence[Resumption]) -> list[Finding]:
    """Say what stands between this run and an exact resume."""
    obstacles = list(dict.fromkeys(reason for rank in ranks for reason in rank.obstacles))
    inexact = next((rank.inexact for rank in ranks if rank.inexact), "")
    findings = []
    if inexact:
        message = f"This run was resumed from {ranks[0].checkpoint}, but not to the same bits: {inexact}."
        advice = "Its weights will be as good, but not the same; resume with the same ranks, data and rules."
        findings.append(Finding(NAME, Severity.WARNING, message, advice))
    elif ranks[0].resumed is not None:
        step, batch = ranks[0].resumed
        evidence = {"step": step, "batches": batch, "ranks": len(ranks)}
        findings.append(
            Finding(
                NAME,
                Severity.INFO,
                f"Went on after step {step}, exactly, from {ranks[0].checkpoint}.",
                evidence=evidence,
            )
        )
    if obstacles:
        message = f"If this run is killed, a resume cannot give the same bits: {'; '.join(obstacles)}."
        findings.append(Finding(NAME, Severity.INFO, message, "What can be restored will be."))
    elif not findings:
        findings.append(Finding(NAME, Severity.OK, "A resume of this run gives the same bits."))
    return findings


def unfit(state: Any, trainer: Any) -> str:
    """Why a checkpoint cannot be resumed exactly; empty where it can."""
    if state is None:
        return "the checkpoint was saved without this rule"
    if state["hook"] is None:
        return "the checkpoint was saved in the middle of a batch, or after an error"
    if state["world_size"] != trainer.world_size:
        return f"it was saved by {state['world_size']} ranks, and now there are {trainer.world_size}"
    return ""


def _overrides(module: Any, name: str) -> bool:
    return getattr(type(module), name).__module__.partition(".")[0] not in ("lightning", "pytorch_lightning")
