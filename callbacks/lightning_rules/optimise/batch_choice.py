"""Which batch size was chosen, and what is said about it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from lightning_rules.finding import Finding, Severity
from lightning_rules.optimise.batch_trial import Trial

NAME = "largest-batch-size"


@dataclass(frozen=True)
class Choice:
    """What was decided, the same on all ranks.

    Attributes:
        before: Examples a batch and rank that the loader was made with.
        size: Examples a batch and rank from now on; 0 if none fits.
        accumulate: Batches an optimiser step.
        rate_factor: What rates are multiplied by.
        trials: What the tightest rank saw of each size, in the order of trial.
    """

    before: int
    size: int
    accumulate: int
    rate_factor: float
    trials: list[Trial]


def tightest(ranks: Sequence[Trial]) -> Trial:
    """The trial of the rank that has failed, or does not fit, or has least memory left."""

    def room(trial: Trial) -> tuple[bool, bool, float]:
        used = trial.peak / trial.available if trial.peak is not None and trial.available else 0.0
        return not trial.failure, trial.fits, -used

    return min(ranks, key=room)


def finding_of(choice: Choice, scaled: bool) -> Finding:
    """What is said: an error where nothing fits, else size, memory, accumulation and rates."""
    largest = choice.trials[-1]
    tried = ", ".join(str(trial.size) for trial in choice.trials)
    if not choice.size:
        return Finding(
            NAME,
            Severity.ERROR,
            f"Not even a batch of 1 example fits into memory ({largest.reason}; tried {tried}).",
            "Use a smaller network or smaller inputs, or lower precision.",
            {"batch_size": 0, "batch_size_before": choice.before},
        )
    taken = next(trial for trial in choice.trials if trial.size == choice.size)
    limit = next((f"; {trial.size} does not fit: {trial.reason}" for trial in choice.trials if not trial.fits), "")
    memory = (
        f", {taken.peak / 2**30:.3g} of {taken.available / 2**30:.3g} GiB" if taken.peak and taken.available else ""
    )
    steps = f", accumulated over {choice.accumulate} batches" if choice.accumulate > 1 else ""
    rates = f" Learning rates are multiplied by {choice.rate_factor:.3g}." if scaled and choice.rate_factor != 1 else ""
    evidence = {
        "batch_size": choice.size,
        "batch_size_before": choice.before,
        "accumulate": choice.accumulate,
        "rate_factor": choice.rate_factor,
        "peak_bytes": taken.peak,
        "available_bytes": taken.available,
    }
    message = f"Batches of {choice.size} examples a rank (it was {choice.before}){memory}{steps}; tried {tried}{limit}."
    return Finding(NAME, Severity.INFO, message + rates, evidence=evidence)
