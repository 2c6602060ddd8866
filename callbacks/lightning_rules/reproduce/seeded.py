"""The judgement of seed-everything: what it knew when training started, and what there is to say about it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from lightning_rules.finding import Finding, Severity
from lightning_rules.reproduce import environment

NAME = "seed-everything"
Mode = Literal["fixed", "fresh", "workers"]


@dataclass(frozen=True)
class Seeded:
    """What one rank knows of its random numbers when training starts.

    Attributes:
        seed: The run's seed; None where the program's own seeding is left alone.
        mode: How the rule came by the seed.
        unseeded_start: Whether there were parameters before the first seed was set.
        own_workers: Loaders whose workers the user alone seeds.
        workers_before: Whether the program had asked Lightning to seed workers.
        has_workers: Whether a training loader reads in worker processes.
        main_process_reads: Whether one reads in the main process.
        state: Identifies the state of torch's generator; equal on two ranks if they draw the same numbers.
        weights: Fingerprint of the parameters.
        changed: Which versions differ from those in the checkpoint that the run resumes from.
    """

    seed: int | None
    mode: Mode
    unseeded_start: bool = False
    own_workers: int = 0
    workers_before: bool = False
    has_workers: bool = False
    main_process_reads: bool = False
    state: int = 0
    weights: str | None = None
    changed: str = ""


def judge(ranks: Sequence[Seeded]) -> list[Finding]:
    """Tell the seed, and what it could not reach, from what all ranks know."""
    first = ranks[0]
    evidence = {"seed": first.seed, "mode": first.mode, "ranks": len(ranks), "weights": first.weights}
    evidence |= environment.flags() | {f"version/{name}": is_ for name, is_ in environment.versions().items()}
    severity, message = _workers(ranks) if first.mode == "workers" else _seeded(ranks)
    findings = [Finding(NAME, severity, message, evidence=evidence)]
    if first.unseeded_start:
        findings.append(
            Finding(
                NAME,
                Severity.INFO,
                "The module's weights were made before the Trainer, and before a call of seed_everything.",
                "To repeat them too, call Lightning's seed_everything(seed) first, or make them in configure_model.",
            )
        )
    if first.mode != "workers" and first.own_workers and len(ranks) > 1:
        message = f"{first.own_workers} loaders have a generator and a worker_init_fn of their own, which were kept."
        advice = "Let worker_init_fn add the rank, or leave it out; else all ranks draw the same augmentations."
        findings.append(Finding(NAME, Severity.INFO, message, advice))
    if first.mode == "workers" and _draw_alike(ranks):
        message = f"All {len(ranks)} ranks draw the same random numbers in the main process, which reads the data."
        advice = "Add SeedEverything(seed), or num_workers, so that each rank augments in its own way."
        findings.append(Finding(NAME, Severity.INFO, message, advice))
    if first.changed:
        message = f"Since the checkpoint was written, versions have changed: {first.changed}."
        findings.append(Finding(NAME, Severity.INFO, message, "Install the recorded versions to get the same bits."))
    return findings


def _seeded(ranks: Sequence[Seeded]) -> tuple[Severity, str]:
    seed = ranks[0].seed
    apart = f"; each of {len(ranks)} ranks goes on with numbers of its own" if len(ranks) > 1 else ""
    if ranks[0].mode == "fresh":
        return Severity.INFO, f"Drew the seed {seed}; SeedEverything({seed}) repeats this run."
    return Severity.INFO, f"Seeded Python, NumPy and torch with {seed}{apart}."


def _workers(ranks: Sequence[Seeded]) -> tuple[Severity, str]:
    if len(ranks) == 1:
        return Severity.OK, "One process: torch keeps its workers' random numbers apart."
    if not any(rank.has_workers for rank in ranks):
        return Severity.OK, "No training loader has worker processes, whose random numbers would be kept apart."
    if ranks[0].workers_before:
        return Severity.OK, f"The workers of {len(ranks)} ranks were kept apart already."
    return Severity.INFO, f"Seeded the workers of {len(ranks)} ranks apart; nothing else was changed."


def _draw_alike(ranks: Sequence[Seeded]) -> bool:
    reads = all(rank.main_process_reads for rank in ranks)
    return reads and len(ranks) > 1 and len({rank.state for rank in ranks}) == 1


def judge_weights(ranks: Sequence[str | None]) -> list[Finding]:
    """An error where ranks would train different weights; nothing where they agree."""
    if len(set(ranks)) == 1:
        return []
    message = f"The {len(ranks)} ranks start training with different weights, and DDP keeps them different."
    advice = "Draw weights before the strategy is set up: in __init__, setup or configure_model."
    evidence = {f"weights of rank {rank}": crc for rank, crc in enumerate(ranks)}
    return [Finding(NAME, Severity.ERROR, message, advice, evidence)]
