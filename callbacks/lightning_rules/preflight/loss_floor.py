"""Yardsticks of a loss on one batch: what a constant reaches, and what nobody can go below."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from lightning_rules.losses import LossCall
from lightning_rules.priors import constant_output, per_example, tally


def constant_loss(call: LossCall) -> float:
    """The loss of the best output that is the same for all examples of the batch.

    Raises:
        NotApplicable: The targets do not fit the outputs.
    """
    many = call.output.dim() > 1 or call.kind == "softmax"
    outputs = int(call.output.shape[call.class_dim]) if many else 1
    best = constant_output(call, tally(call, call.target, outputs, "the batch").constant)
    return mean_loss(call, best)


def mean_loss(call: LossCall, output: Tensor | None = None) -> float:
    """The loss per example, whatever the step's reduction; examples whose loss is NaN are left out."""
    losses = per_example(call, call.output.detach() if output is None else output)
    known = losses[torch.isfinite(losses)] if not bool(torch.isfinite(losses).all()) and _nan_targets(call) else losses
    return float(known.mean())


def _nan_targets(call: LossCall) -> bool:
    return call.target.is_floating_point() and bool(call.target.isnan().any())


def floor_of(call: LossCall, inputs: Sequence[Tensor]) -> float:
    """The least loss of any network on this batch: above 0 for soft or smoothed targets, or twins that differ.

    Args:
        call: The loss call.
        inputs: The tensors that enter the network: examples with the same input get the same output.
    """
    mass = _mass(call)
    if mass is None:
        return _floor_of_values(call, inputs)
    mass = _shared_by_twins(mass, inputs)
    total = mass.sum(-1, keepdim=True)
    losses = torch.special.xlogy(mass, total).sub(torch.special.xlogy(mass, mass)).sum(-1)
    if call.function in (F.multilabel_soft_margin_loss,):
        losses = losses.mean(-1, keepdim=True)
    return float(losses.flatten(1).mean() if losses.dim() > 1 else losses.mean())


def _mass(call: LossCall) -> Tensor | None:
    """The weight of each outcome in the loss, outcomes last; the loss is -(mass * log probability).sum()."""
    target = call.target.detach().cpu()
    weight = call.arguments.get("weight")
    weight = None if weight is None else weight.detach().cpu().double()
    if call.kind == "softmax":
        return _mass_of_classes(call, target, weight)
    if call.kind != "sigmoid":
        return None
    target = target.double()
    positive = call.arguments.get("pos_weight")
    positive = torch.ones(()) if positive is None else positive.detach().cpu()
    mass = torch.stack([positive.double() * target, 1 - target], -1)
    return mass if weight is None else mass * weight.unsqueeze(-1)


def _mass_of_classes(call: LossCall, target: Tensor, weight: Tensor | None) -> Tensor:
    classes = int(call.output.shape[call.class_dim])
    if target.is_floating_point():
        chosen = target.double().movedim(call.class_dim, -1)
    else:
        known = (target != call.arguments["ignore_index"]) & (target >= 0) & (target < classes)
        chosen = F.one_hot(target.long().masked_fill(~known, 0), classes).double() * known.unsqueeze(-1)
    smoothing = float(call.arguments.get("label_smoothing", 0.0))
    chosen = (1 - smoothing) * chosen + smoothing / classes * chosen.sum(-1, keepdim=True)
    return chosen if weight is None else chosen * weight


def _floor_of_values(call: LossCall, inputs: Sequence[Tensor]) -> float:
    """For values only twins keep the loss up: their mean is the best one can say, or nearly so."""
    target = call.target.detach().double().cpu()
    if target.dim() == 0 or target.shape != call.output.shape:
        return 0.0
    shared = _shared_by_twins(target, inputs)
    return 0.0 if torch.equal(shared, target) else mean_loss(call, shared.to(call.output))


def _shared_by_twins(values: Tensor, inputs: Sequence[Tensor]) -> Tensor:
    """Values averaged over the examples whose inputs are equal."""
    count = values.shape[0] if values.dim() > 0 else 0
    rows = [
        leaf.detach().cpu().reshape(count, -1) for leaf in inputs if count and leaf.dim() and leaf.shape[0] == count
    ]
    if not rows:
        return values
    keys = torch.cat([row.double() for row in rows], 1)
    _, group = torch.unique(keys, dim=0, return_inverse=True)
    groups = int(group.max()) + 1
    if groups == count:
        return values
    sums = torch.zeros(groups, *values.shape[1:], dtype=values.dtype).index_add_(0, group, values)
    sizes = torch.bincount(group, minlength=groups).to(values.dtype).reshape(-1, *(1,) * (values.dim() - 1))
    return (sums / sizes)[group]
