"""Whether two layers in a row could be one: nothing but changes of shape stands between them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from torch import nn

from lightning_rules.audit import Part
from lightning_rules.deadline import Deadline
from lightning_rules.finding import Finding, Severity
from lightning_rules.preflight.layer_runs import LayerRun
from lightning_rules.preflight.model_seen import ModelSeen, Trace

NAME, DEPTH = "missing-nonlinearity", "depth"
CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
MIXING = ("Bmm", "ScaledDot", "Baddbmm", "Mul", "Sum", "Mean")  # attention or a gate: more than a product of weights
DEEP = 20  # weighted layers in a row without normalisation or skip
VANISHED = 1e-8  # gradient of the first layer over that of the last, inputs' scale left out
NORMS = (nn.modules.batchnorm._NormBase, nn.LayerNorm, nn.GroupNorm)


@dataclass(frozen=True)
class StackSeen:
    """How layers follow one another.

    Attributes:
        pairs: Layers that feed one another directly: names, widths (in, between, out).
        through_norm: The same with only a batch norm between.
        plain_depth: Weighted layers in a network without normalisation and skips; 0 where there are some.
        gradient_ratio: First weighted layer's gradient over the last one's, each per unit of its input, as
            :func:`through_depth` has it; None where there are fewer than three.
    """

    pairs: tuple[tuple[str, str, int, int, int], ...]
    through_norm: tuple[tuple[str, str, int, int, int], ...]
    plain_depth: int
    gradient_ratio: float | None


def measure(seen: ModelSeen, deadline: Deadline) -> StackSeen:
    """Walk over the layers of one step."""
    trace = seen.trace
    owners = _owners(seen)
    made = {run.name: run for run in trace.runs}
    pairs, through = [], []
    for run in trace.runs:
        before = made.get(run.source or "")
        if before is None:
            continue
        if pair := _pair(before, run, owners):
            pairs.append(pair)
        elif isinstance(before.module, nn.modules.batchnorm._BatchNorm) and before.readers == 1:
            first = made.get(before.source or "")
            if first is not None and (pair := _pair(first, run, owners)):
                through.append(pair)
    return StackSeen(
        tuple(dict.fromkeys(pairs)), tuple(dict.fromkeys(through)), _plain_depth(trace), _gradient_ratio(trace)
    )


def _owners(seen: ModelSeen) -> dict[int, int]:
    """Which optimiser moves each parameter, by the parameter's identity."""
    return {
        id(parameter): place
        for place, optimizer in enumerate(seen.optimizers)
        for group in optimizer.param_groups
        for parameter in group["params"]
    }


def _pair(first: LayerRun, second: LayerRun, owners: dict[int, int]) -> tuple[str, str, int, int, int] | None:
    """Two layers that could be one of no fewer weights' worth: the first is no bottleneck and feeds nothing else."""
    a, b = _widths(first.module), _widths(second.module)
    same_kind = isinstance(first.module, nn.Linear) == isinstance(second.module, nn.Linear)
    if a is None or b is None or not same_kind or first is second or first.readers != 1:
        return None
    if a[1] < min(a[0], b[1]) or first.source_node.startswith(MIXING) or not _train_together(first, second, owners):
        return None
    return first.name, second.name, a[0], a[1], b[1]


def _train_together(first: LayerRun, second: LayerRun, owners: dict[int, int]) -> bool:
    """Whether one optimiser moves both; a generator and its discriminator have one each."""
    weights = [getattr(run.module, "weight", None) for run in (first, second)]
    moved = [owners.get(id(weight)) for weight in weights if weight is not None and weight.requires_grad]
    return len(moved) == 2 and moved[0] == moved[1]


def _widths(layer: nn.Module) -> tuple[int, int] | None:
    """Inputs and outputs of a layer that mixes all of its inputs."""
    if type(layer) is nn.Linear:
        return layer.in_features, layer.out_features
    if isinstance(layer, CONVOLUTIONS) and layer.groups == 1:
        return layer.in_channels * math.prod(layer.kernel_size), layer.out_channels
    return None


def _weighted(trace: Trace) -> list[LayerRun]:
    return [run for run in trace.runs if _widths(run.module) is not None]


def _plain_depth(trace: Trace) -> int:
    """How many weighted layers stand in a row, each read once, without normalisation anywhere."""
    runs = _weighted(trace)
    normed = any(isinstance(run.module, NORMS) or "Norm" in type(run.module).__name__ for run in trace.runs)
    return 0 if normed or trace.branches else len({run.name for run in runs})


def _gradient_ratio(trace: Trace) -> float | None:
    sizes: list[float] = []
    for run in _weighted(trace):
        gradient = trace.gradients.get(f"{run.name}.weight".lstrip("."))
        if gradient is not None and gradient.reached and gradient.finite and gradient.rms > 0 and run.input_rms > 0:
            sizes.append(gradient.rms / run.input_rms)
    return through_depth(sizes)


def through_depth(sizes: Sequence[float]) -> float | None:
    """What becomes of the gradient from last layer to first: in all, or without its largest step, what is milder.

    A head or a gate that is nearly closed at the start makes one step down, a branch that is nearly closed one down
    and one up; depth makes many in one direction.

    Args:
        sizes: The gradient at each layer, first layer first; positive.
    """
    steps = sorted((math.log(size / after) for size, after in pairwise(sizes)), key=abs)
    return math.exp(min(sum(steps), sum(steps[:-1]), key=abs)) if len(steps) > 1 else None


def judge(ranks: Sequence[StackSeen]) -> list[Finding]:
    """Findings on the first rank's network, which is that of all."""
    return [*judge_pairs(ranks[0]), *judge_depth(ranks[0])]


def judge_pairs(seen: StackSeen) -> list[Finding]:
    """Whether layers follow one another without a non-linearity; pure."""
    found = []
    for pairs, severity, between in (
        (seen.pairs, Severity.WARNING, "nothing"),
        (seen.through_norm, Severity.INFO, "only a batch norm"),
    ):
        if not pairs:
            continue
        first, second, a, b, c = pairs[0]
        more = f" ({len(pairs) - 1} more such pairs)" if len(pairs) > 1 else ""
        message = f"{between.capitalize()} non-linear stands between `{first}` ({a} to {b}) and `{second}` ({b} to {c})"
        if severity is Severity.INFO:
            message = f"Only a batch norm stands between `{first}` ({a} to {b}) and `{second}` ({b} to {c})"
        advice = f"Put an activation between them, or drop `{first}`: two linear layers are one."
        evidence: dict[str, Any] = {"pairs": len(pairs), "inputs": a, "width": b, "outputs": c}
        found.append(Finding(NAME, severity, f"{message}{more}.", advice, evidence))
    return found


def judge_depth(seen: StackSeen) -> list[Finding]:
    """Whether the gradient gets through the depth; pure."""
    ratio = seen.gradient_ratio
    evidence: dict[str, Any] = {"plain_depth": seen.plain_depth, "gradient_ratio": ratio}
    if ratio is not None and (0 < ratio < VANISHED or ratio > 1 / VANISHED):
        word = "vanishes" if ratio < 1 else "explodes"
        message = f"The gradient {word} with depth: the first layer's is {ratio:.1e} times the last's."
        advice = "Add normalisation or skip connections, use ReLU-like activations, or initialise for the depth."
        return [Finding(DEPTH, Severity.WARNING, message, advice, evidence)]
    if seen.plain_depth > DEEP:
        message = f"{seen.plain_depth} weighted layers stand in a row without normalisation or skip connections."
        advice = "If it trains slowly, add normalisation or skip connections."
        return [Finding(DEPTH, Severity.INFO, message, advice, evidence)]
    return []


PART = Part((NAME, DEPTH), measure, judge)
