"""What the returned training loss would be if the network knew nothing but the prior of its targets."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lightning_rules.batches import leaves
from lightning_rules.deadline import Deadline
from lightning_rules.losses import LossCall
from lightning_rules.priors import constant_output, tally_of
from lightning_rules.view import View

BATCHES = 4
SECONDS = 1.0  # after which no further batch is begun
SCALES = ("Mul", "Div", "Alias", "Clone", "ToCopy", "View", "Squeeze", "Unsqueeze", "Mean", "Sum")
SAME_SCALE = 1e-3  # how far the returned loss over that of the loss functions may differ from batch to batch


@dataclass(frozen=True)
class PriorLoss:
    """The loss of the best constant output on a few training batches.

    Attributes:
        mean: Its mean over the batches, on the scale of what ``training_step`` returns.
        error: The standard error of that mean.
    """

    mean: float
    error: float


def prior_loss(view: View) -> PriorLoss | None:
    """Measure it, before the first batch; it leaves no trace.

    Returns:
        None where it cannot be had: the loss is none of torch's, or has further terms, or its targets are made by the
        network or at random, so that no constant output is a yardstick.
    """
    try:
        deadline = Deadline(SECONDS)
        batches: list[Any] = view.batches(BATCHES)
        pairs = [_losses(view, batch) for place, batch in enumerate(batches) if place == 0 or deadline.left]
    except Exception:  # NotApplicable, or a step that cannot be run by itself: the curve alone is judged
        return None
    if any(pair is None for pair in pairs):
        return None
    scales, priors = np.array(pairs, dtype=np.float64).T
    if not (np.isfinite(priors).all() and np.isfinite(scales).all()) or scales[0] <= 0:
        return None
    if np.abs(scales / scales[0] - 1).max() > SAME_SCALE:
        return None
    values = priors * scales
    error = float(values.std(ddof=1) / len(values) ** 0.5) if len(values) > 1 else 0.1 * abs(float(values[0]))
    return PriorLoss(float(values.mean()), error)


def _losses(view: View, batch: Any) -> tuple[float, float] | None:
    """For one batch: the returned loss over what the loss functions gave, and the loss of the best constants."""
    with view.step(batch, evaluation=True) as step:
        loss, calls = step.loss, step.calls
        if loss is None or loss.numel() != 1 or len(step.losses) != 1 or not _is_made_of(loss, calls):
            return None
        if not all(_has_given_targets(call, batch) for call in calls):
            return None
        value = sum(float(call.value.detach()) for call in calls)
        return float(loss.detach()) / value, sum(_best_constant(view, call, batch) for call in calls)


def _is_made_of(loss: Tensor, calls: Sequence[LossCall]) -> bool:
    """Whether a loss is the sum of these calls up to a constant factor, with no further term that is trained."""
    ends = {call.value.grad_fn for call in calls if call.value.dim() == 0 and float(call.value.detach()) != 0.0}
    if len(ends) != len(calls) or not calls:
        return False
    reached, level = set(), [loss.grad_fn]
    while level:
        node = level.pop()
        if node in ends:
            reached.add(node)
            continue
        kind = "" if node is None else node.name().partition("Backward")[0]
        above = [] if node is None else [one for one, _ in node.next_functions if one is not None]
        if not above or kind not in ("Add", *SCALES) or (kind != "Add" and len(above) > 1):
            return False
        level += above
    return reached == ends


def _has_given_targets(call: LossCall, batch: Any) -> bool:
    """Whether the targets are classes, or values that stand in the batch: not what a network or a generator made."""
    target = call.target
    if not target.is_floating_point():
        return True
    if target.requires_grad:
        return False
    pool = [leaf.detach().cpu().double() for _, leaf in leaves(batch) if leaf.numel() >= target.numel()]
    wanted = target.detach().cpu().double().flatten()
    return any(
        leaf.numel() == wanted.numel() and torch.allclose(leaf.flatten(), wanted, equal_nan=True) for leaf in pool
    )


def _best_constant(view: View, call: LossCall, batch: Any) -> float:
    """The loss of the best constant output, reduced as the call reduces it; on this batch where not on all data."""
    bias = call.head.bias if call.head is not None else None
    width = call.output.shape[call.class_dim] if call.output.dim() > 1 or call.kind == "softmax" else 1
    outputs = width if bias is None or call.kind == "softmax" else bias.numel()
    counted = tally_of(view, call, batch, outputs)
    if call.kind == "softmax" and call.arguments["reduction"] == "mean":
        share = counted.frequencies  # by weight, smoothed: the mean of the loss over all that was counted
        return float(-(share * np.log(share)).sum())
    output = constant_output(call, counted.constant)
    with torch.no_grad():
        reduced: Tensor = call.function(**{**call.arguments, "input": output})
    return float(reduced)
