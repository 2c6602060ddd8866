"""What was clipped and skipped: counted on the device, read from it seldom, and judged."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

import torch
from torch import Tensor

from lightning_rules.finding import Finding, Severity

NAME = "gradient-clipping"
OFTEN = 0.01  # of all steps skipped: data or network are at fault, not a stray batch
SCALER_SKIPS = 16  # as often a GradScaler halves its first scale, 65,536, until it is 1
WINDOW = 1000  # norms that a percentile is taken of


@dataclass
class Tally:
    """Counts and norms of one optimiser's steps.

    Attributes:
        steps: Optimiser steps, skipped ones included; known without asking the device.
        clipped: How many were clipped.
        skipped: How many were skipped.
        row: How many were skipped in a row up to now.
        longest: The largest that ``row`` has been.
        norm_sum: Sum of the norms before clipping, skipped steps left out.
        norm_max: The largest of them.
        blame: For each parameter, in how many steps its gradient was not finite, ``[parameters]``.
        history: The last norms before clipping, NaN where there is none yet, ``[WINDOW]``.
        seen: How many norms went through the history.
    """

    steps: int
    clipped: Tensor
    skipped: Tensor
    row: Tensor
    longest: Tensor
    norm_sum: Tensor
    norm_max: Tensor
    blame: Tensor
    history: Tensor
    seen: Tensor

    @classmethod
    def empty(cls, parameters: int, device: torch.device, dtype: torch.dtype) -> Tally:
        """Nothing counted yet."""
        counts = [torch.zeros((), dtype=torch.int64, device=device) for _ in range(5)]
        norm_sum, norm_max = (torch.zeros((), dtype=dtype, device=device) for _ in range(2))
        blame = torch.zeros(parameters, dtype=torch.int64, device=device)
        history = torch.full((WINDOW,), torch.nan, dtype=dtype, device=device)
        clipped, skipped, row, longest, seen = counts
        return cls(0, clipped, skipped, row, longest, norm_sum, norm_max, blame, history, seen)

    def fit_to(self, norms: Tensor) -> None:
        """Move to the device of these norms, and make room for parameters that the optimiser was given since."""
        for field in fields(self):
            value = getattr(self, field.name)
            if isinstance(value, Tensor) and value.device != norms.device:
                setattr(self, field.name, value.to(norms.device))
        if len(self.blame) != len(norms):
            self.blame = torch.nn.functional.pad(self.blame, (0, len(norms) - len(self.blame)))

    def state(self) -> dict[str, Any]:
        """All values by name, on the host: what a checkpoint holds."""
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        return {name: value.cpu().clone() if isinstance(value, Tensor) else value for name, value in values.items()}

    def percentile(self, norm: Tensor, bad: Tensor, percent: float) -> Tensor:
        """Add a norm to the history unless it is bad, and return a percentile (0 to 100) of the history."""
        here = torch.arange(len(self.history), device=norm.device) == self.seen % len(self.history)
        self.history = torch.where(here & ~bad, norm, self.history)
        self.seen = self.seen + ~bad
        return torch.nanquantile(self.history, percent / 100)

    def add(self, norm: Tensor, norms: Tensor, clipped: Tensor, bad: Tensor) -> None:
        """Count one step.

        Args:
            norm: The norm of all gradients before clipping.
            norms: That of each.
            clipped: Whether gradients were made smaller.
            bad: Whether the step is skipped.
        """
        self.steps += 1
        self.clipped += clipped & ~bad
        self.skipped += bad
        self.row = (self.row + 1) * bad
        self.longest = torch.maximum(self.longest, self.row)
        known = torch.where(bad, 0.0, norm)
        self.norm_sum += known
        self.norm_max = torch.maximum(self.norm_max, known)
        self.blame += ~norms.isfinite()


@dataclass(frozen=True)
class StepsSeen:
    """What one rank counted over a fit, for one optimiser.

    Attributes:
        steps: Optimiser steps, skipped ones included.
        clipped: How many were clipped.
        skipped: How many were skipped.
        norm_sum: Sum of the norms before clipping over the steps that were not skipped.
        norm_max: The largest of them.
    """

    steps: int
    clipped: int
    skipped: int
    norm_sum: float
    norm_max: float

    @classmethod
    def of(cls, tally: Tally) -> StepsSeen:
        """A tally's numbers, on the host."""
        return cls(tally.steps, int(tally.clipped), int(tally.skipped), float(tally.norm_sum), float(tally.norm_max))


def judge_end(ranks: Sequence[Mapping[int, StepsSeen]], scaled: bool) -> list[Finding]:
    """How many steps were clipped and skipped, for each optimiser.

    Args:
        ranks: What each rank counted, by the optimiser's place in ``trainer.optimizers``.
        scaled: A GradScaler looks for its scale by skipping steps.
    """
    places = sorted(set().union(*ranks))
    return [
        judge_optimizer([rank[place] for rank in ranks if place in rank], scaled, place if len(places) > 1 else None)
        for place in places
    ]


def judge_optimizer(ranks: Sequence[StepsSeen], scaled: bool, place: int | None = None) -> Finding:
    """One optimiser's summary: shares over all ranks, the largest norm of any."""
    steps, skipped = sum(seen.steps for seen in ranks), sum(seen.skipped for seen in ranks)
    taken = max(1, steps - skipped)
    evidence = {
        "steps": ranks[0].steps,
        "clipped_share": sum(seen.clipped for seen in ranks) / steps,
        "skipped_share": skipped / steps,
        "norm_mean": sum(seen.norm_sum for seen in ranks) / taken,
        "norm_max": max(seen.norm_max for seen in ranks),
    }
    whose = "" if place is None else f" of optimiser {place}"
    message = (
        f"Clipped {evidence['clipped_share']:.1%} and skipped {evidence['skipped_share']:.1%} of {ranks[0].steps:,} "
        f"steps{whose}; before clipping the gradient norm was {evidence['norm_mean']:.3g} on average and "
        f"{evidence['norm_max']:.3g} at most."
    )
    if skipped / len(ranks) > (SCALER_SKIPS if scaled else 0) and skipped > OFTEN * steps:
        advice = (
            "Find the batches or the operation that make gradients infinite or NaN: a logarithm or a root of zero, "
            "a division by zero, a wrong value in the data, too high a rate."
        )
        return Finding(NAME, Severity.WARNING, message, advice, evidence)
    return Finding(NAME, Severity.INFO, message, evidence=evidence)


def judge_budget(row: int, budget: int, guilty: Sequence[Sequence[str]], parameters: int) -> Finding:
    """Too many steps in a row were skipped.

    Args:
        row: How many.
        budget: How many may be.
        guilty: For each rank, the names of the parameters whose gradients were not finite, in the module's order.
        parameters: How many parameters the optimiser has.
    """
    names = list(dict.fromkeys(name for rank in guilty for name in rank))
    where = (
        f"those of {len(names)} of {parameters} parameters, the last of them `{names[-1]}`" if names else "their norm"
    )
    message = f"Gradients were not finite in {row} steps in a row ({where}), and at most {budget} may be skipped."
    advice = (
        "Training stops with the last good weights: look for the operation after that parameter that gives infinity or "
        "NaN, or lower the rate."
    )
    evidence = {"skipped_in_a_row": row, "budget": budget, "parameters": len(names)}
    return Finding(NAME, Severity.ERROR, message, advice, evidence)
