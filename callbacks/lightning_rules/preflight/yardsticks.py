"""What the loss of one batch is to be compared with, and labels beside predictions."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from lightning_rules.batches import leaves
from lightning_rules.losses import LossCall
from lightning_rules.preflight.batch_parts import input_leaves
from lightning_rules.preflight.loss_floor import constant_loss, floor_of, mean_loss
from lightning_rules.rule import attempt
from lightning_rules.view import View

SHOWN = 5


@dataclass(frozen=True)
class Yardsticks:
    """What the loss of one batch is compared with.

    Attributes:
        name: The loss function.
        constant: The loss of the best constant output.
        floor: The least loss of any network.
        supervised: Whether the loss's targets are a part of the batch that is no input.
        dense: Whether there is more than one target an example.
        values: How many targets there are.
        shapes: Shapes of output and target, in words, where they are broadcast against one another; else "".
        squashed: The layer (softmax, sigmoid, ...) found right before a loss that expects none; else "".
    """

    name: str
    constant: float
    floor: float
    supervised: bool
    dense: bool
    values: int
    shapes: str
    squashed: str


def yardsticks_of(view: View, batch: Any) -> tuple[Yardsticks | None, float]:
    """What to compare with, and the loss as it is."""
    with view.step(batch) as step:
        if len(step.calls) != 1:
            return None, float("nan") if step.loss is None else float(step.loss.detach().sum())
        call = step.calls[0]
        inputs = attempt(lambda: input_leaves(view, batch))[0] or []
        floor = attempt(lambda: floor_of(call, inputs))[0] or 0.0
        rows = call.target.shape[0] if call.target.dim() else 1
        soft = call.kind == "softmax" and call.target.is_floating_point()
        values = call.target.numel() // (call.output.shape[call.class_dim] if soft else 1)
        broadcast = call.kind != "softmax" and call.output.shape != call.target.shape
        shapes = f"{list(call.output.shape)} and {list(call.target.shape)}" if broadcast else ""
        return Yardsticks(
            name=call.name,
            constant=constant_loss(call),
            floor=floor,
            supervised=_is_supervised(call, batch, inputs),
            dense=values > rows and not broadcast,
            values=values,
            shapes=shapes,
            squashed=_squashed(call),
        ), mean_loss(call)


def _squashed(call: LossCall) -> str:
    """A softmax or sigmoid whose output is given to a loss that applies its own."""
    if call.function not in (F.cross_entropy, F.binary_cross_entropy_with_logits):
        return ""
    name = call.output.grad_fn.name().partition("Backward")[0] if call.output.grad_fn is not None else ""
    return {"Softmax": "a softmax", "Sigmoid": "a sigmoid"}.get(name, "")


def _is_supervised(call: LossCall, batch: Any, inputs: list[Tensor]) -> bool:
    """Whether what the loss compares with is made of a part of the batch that is no input."""
    given = {id(leaf) for leaf in inputs}
    target = call.target.detach().cpu().flatten().double()
    others = [leaf for _, leaf in leaves(batch) if id(leaf) not in given]
    same = any(leaf.numel() == len(target) and torch.equal(leaf.flatten().double(), target) for leaf in others)
    return same or any(_is_one_hot_of(target, leaf) for leaf in others)


def _is_one_hot_of(target: Tensor, leaf: Tensor) -> bool:
    if leaf.is_floating_point() or leaf.dim() != 1 or len(leaf) == 0 or len(target) % len(leaf):
        return False
    hot = target.reshape(len(leaf), -1)
    return hot.shape[1] > 1 and bool((hot.argmax(1) == leaf).all()) and bool((hot.sum(1) == 1).all())


def beside(call: LossCall) -> str:
    """Labels beside predictions, of the first five examples: ``"3: 7 (0.21), 1: 1 (0.98)"``."""
    output, target = call.output.detach().float().cpu()[:SHOWN], call.target.detach().cpu()[:SHOWN]
    if call.kind == "softmax" and output.dim() == 2 and not target.is_floating_point():
        best = output.softmax(1).max(1)
        return ", ".join(
            f"{int(t)}: {int(i)} ({p:.2f})" for t, i, p in zip(target, best.indices, best.values, strict=True)
        )
    if output.numel() != target.numel() or output.numel() > SHOWN:
        return ""
    values = output.sigmoid() if call.function is F.binary_cross_entropy_with_logits else output
    return ", ".join(f"{t:.3g}: {o:.3g}" for t, o in zip(target.flatten(), values.flatten(), strict=True))
