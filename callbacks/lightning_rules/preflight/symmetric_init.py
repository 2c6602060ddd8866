"""Whether units of a layer begin alike and stay alike, and whether anything but biases can begin to move."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import nn

from lightning_rules.audit import Part
from lightning_rules.deadline import Deadline
from lightning_rules.finding import Finding, Severity
from lightning_rules.preflight.model_seen import ModelSeen, distinct_rows

NAME, FLAT = "symmetric-init", "flat-start"
LAYERS = (nn.Linear, nn.modules.conv._ConvNd, nn.RNNBase, nn.RNNCellBase, nn.MultiheadAttention, nn.Bilinear)
ALIKE = 0.25  # distinct rows over rows: gates and heads of one layer may differ where its units do not


@dataclass(frozen=True)
class WeightSeen:
    """One weight matrix of a layer, and its gradient.

    Attributes:
        name: The parameter's name.
        rows: How many units it makes.
        distinct: How many of these differ in their weights.
        zero: Whether all weights are zero.
        gradient_distinct: How many of these differ in their gradients.
        gradient_zero: Whether the whole gradient is zero.
        gradient_finite: Whether the gradient is finite.
    """

    name: str
    rows: int
    distinct: int
    zero: bool
    gradient_distinct: int
    gradient_zero: bool
    gradient_finite: bool


def measure(seen: ModelSeen, deadline: Deadline) -> list[WeightSeen]:
    """The weight matrices that get a gradient."""
    trace = seen.trace
    found = []
    for path, part in seen.module.named_modules():
        if not isinstance(part, LAYERS) or isinstance(part, nn.modules.conv._ConvTransposeNd):
            continue
        for name, weight in part._parameters.items():
            full = f"{path}.{name}".lstrip(".")
            gradient = trace.gradients.get(full)
            if weight is None or weight.dim() < 2 or weight[0].numel() < 2 or gradient is None or not gradient.reached:
                continue
            found.append(
                WeightSeen(
                    full,
                    len(weight),
                    distinct_rows(weight),
                    not bool(weight.any()),
                    gradient.distinct_rows,
                    gradient.zero,
                    gradient.finite,
                )
            )
    return found


def judge(ranks: Sequence[list[WeightSeen]]) -> list[Finding]:
    """What holds on all ranks: a unit that differs on one of them breaks free."""
    weights = [_together(same) for same in zip(*ranks, strict=True)]
    if not weights or not all(weight.gradient_finite for weight in weights):
        return []
    if all(weight.gradient_zero for weight in weights):
        return [_stuck(weights)]
    alike = [weight for weight in weights if _alike(weight)]
    if not alike:
        message = f"Units of all {len(weights)} weight matrices differ in weights or gradients."
        return [Finding(NAME, Severity.OK, message)]
    first = alike[0]
    message = (
        f"The {first.rows} units of `{first.name}` have {first.distinct} distinct rows of weights and "
        f"{first.gradient_distinct} of gradients: they are copies of one another, and stay it."
    )
    message = message[:-1] + (f" ({len(alike)} such layers)." if len(alike) > 1 else ".")
    advice = "Initialise weights with random numbers (torch.nn.init.kaiming_normal_ or the layer's default)."
    evidence = {"layers": len(alike), "rows": first.rows, "distinct": first.distinct}
    return [Finding(NAME, Severity.ERROR, message, advice, evidence)]


def _together(same: tuple[WeightSeen, ...]) -> WeightSeen:
    first = same[0]
    return WeightSeen(
        first.name,
        first.rows,
        first.distinct,
        first.zero,
        max(weight.gradient_distinct for weight in same),
        all(weight.gradient_zero for weight in same),
        all(weight.gradient_finite for weight in same),
    )


def _alike(weight: WeightSeen) -> bool:
    """Units alike in weights and gradients; zero weights without a gradient may wait for the layer after them."""
    if weight.rows < 2 or (weight.zero and weight.gradient_zero):
        return False
    most = max(1, int(ALIKE * weight.rows))
    return weight.distinct <= most and weight.gradient_distinct <= most


def _stuck(weights: list[WeightSeen]) -> Finding:
    zeros = [weight.name for weight in weights if weight.zero]
    evidence = {"weights": len(weights), "zero_weights": len(zeros)}
    if zeros:
        message = (
            f"No weight matrix gets a gradient ({len(weights)} looked at, {len(zeros)} all zero, `{zeros[0]}` first)"
        )
        advice = "Initialise weights with random numbers; zeros are for biases, and the last layer of a branch."
        return Finding(NAME, Severity.ERROR, f"{message}: only biases can move.", advice, evidence)
    message = f"The gradient of all {len(weights)} weight matrices is exactly zero: the network cannot begin to move."
    advice = "Look for units that are all off (ReLU after a large negative bias), a clamp, or a margin already met."
    return Finding(FLAT, Severity.WARNING, message, advice, evidence)


PART = Part((NAME, FLAT), measure, judge)
