"""Whether the size of the step depends on the size of the batch: a summed loss with an optimiser that follows it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from lightning_rules.audit import Part
from lightning_rules.deadline import Deadline
from lightning_rules.finding import Finding, Severity
from lightning_rules.preflight.model_seen import ModelSeen

NAME = "summed-loss"
TOO_FAR = 2.0  # rate x examples / (1 - momentum); healthy plain SGD on mean losses stays at or below 1
SUMMED = 0.5  # of the examples: a mean has weight 1 (times constants), a sum has as many as there are examples


@dataclass(frozen=True)
class SummedSeen:
    """How losses are added up, and how the optimiser answers.

    Attributes:
        losses: Of each call that sums over examples: its name, examples, and the weight of their mean loss.
        rate: The largest learning rate of the optimisers that follow the gradient's size; None where all normalise it.
        momentum: That optimiser's momentum.
        clipped: Whether gradients are clipped.
    """

    losses: tuple[tuple[str, int, float], ...]
    rate: float | None
    momentum: float
    clipped: bool


def measure(seen: ModelSeen, deadline: Deadline) -> SummedSeen:
    """The losses of one step that are summed over examples, and the plain optimisers' rate."""
    summed = tuple(
        (call.name, call.examples, call.total_weight)
        for call in seen.trace.losses
        if call.total_weight is not None and call.examples > 4 and call.total_weight >= SUMMED * call.examples
    )
    plain = [group for optimizer in seen.optimizers if _is_plain(optimizer) for group in optimizer.param_groups]
    rates = [(_peak(group), float(group.get("momentum", 0.0))) for group in plain]
    rate, momentum = max(rates, key=lambda pair: pair[0] / max(1e-6, 1 - pair[1]), default=(None, 0.0))
    return SummedSeen(summed, rate, momentum, bool(seen.trainer.gradient_clip_val))


def _is_plain(optimizer: Any) -> bool:
    """SGD and its kin, whose steps are as large as the gradient says."""
    return "SGD" in type(optimizer).__name__ and "betas" not in getattr(optimizer, "defaults", {})


def _peak(group: dict[str, Any]) -> float:
    return float(max(group["lr"], group.get("initial_lr", group["lr"])))


def judge(ranks: Sequence[SummedSeen]) -> list[Finding]:
    """Findings on the first rank's losses, which are those of all."""
    seen = ranks[0]
    found = []
    for name, examples, weight in dict.fromkeys(seen.losses):
        evidence: dict[str, float | int | str | bool | None] = {"examples": examples, "weight": weight}
        message = f"{name} is summed over the {examples} examples of a batch, so that gradients grow with its size"
        advice = "Average over the batch (reduction='mean'), or sum over the outputs of an example only."
        if seen.rate is None:
            found.append(Finding(NAME, Severity.INFO, f"{message}; the optimiser normalises it away.", "", evidence))
            continue
        reach = seen.rate * weight / max(1e-6, 1 - seen.momentum)
        evidence |= {"rate": seen.rate, "momentum": seen.momentum}
        severity = Severity.WARNING if reach > TOO_FAR and not seen.clipped else Severity.INFO
        message += f": SGD at {seen.rate:.3g} (momentum {seen.momentum:.2g}) steps as at {seen.rate * weight:.3g} "
        message += "with a mean." if severity is Severity.WARNING else "with a mean, within bounds."
        found.append(Finding(NAME, severity, message, advice, evidence))
    return found


PART = Part((NAME,), measure, judge)
