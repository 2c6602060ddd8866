"""What reaches the last layer of a network, batch by batch, with the targets and the raw inputs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lightning_rules.batches import leaves
from lightning_rules.losses import Kind, LossCall, seen_losses
from lightning_rules.rule import NotApplicable
from lightning_rules.view import View

RESHAPES = (
    "View",
    "UnsafeView",
    "Reshape",
    "Squeeze",
    "Unsqueeze",
    "Flatten",
    "Alias",
    "ToCopy",
    "LogSoftmax",
    "Sigmoid",
)
LARGEST_SIDE = 32  # pixels: larger images are averaged down for the probe of raw inputs
LARGEST_INPUT = 4096  # values of an example; more than that are not probed


@dataclass(frozen=True)
class Features:
    """Rows of several batches, on the host.

    Attributes:
        values: What reaches the last layer, [N, F].
        targets: Class indices [N] for softmax, else [N, outputs].
        raw: The inputs themselves, [N, D]; None where rows are not examples, or inputs are no numbers.
    """

    values: Tensor
    targets: Tensor
    raw: Tensor | None


def last_layer(view: View, batch: Any) -> tuple[str, nn.Linear, Kind, int]:
    """The linear layer that feeds the loss, by name, with the kind of the loss and the number of outputs.

    For use on loan.

    Raises:
        NotApplicable: No linear layer feeds one of torch's loss functions directly.
    """
    with seen_losses(view.module) as calls:
        view.loss(batch, 0)
    for call in calls:
        head = call.head
        if head is not None and isinstance(head.layer, nn.Linear) and _targets(call) is not None:
            one = ("Select",) if head.layer.out_features == 1 else ()  # output[:, 0]
            if all(name in (*RESHAPES, *one) for name in head.passes):
                return head.name, head.layer, call.kind, head.layer.out_features
    raise NotApplicable("no linear last layer feeds one of torch's loss functions directly.")


def features_of(view: View, layer: nn.Linear, batches: Sequence[Any]) -> Features:
    """Run the training step on batches, in the modes the module is in, and keep what the layer is given.

    For use on loan.
    """
    kept: list[tuple[Tensor, Tensor]] = []
    raws: list[Tensor | None] = []
    given: list[Tensor] = []
    handle = layer.register_forward_pre_hook(lambda part, inputs: given.append(inputs[0].detach()))
    try:
        for index, batch in enumerate(batches):
            given.clear()
            with seen_losses(view.module) as calls:
                view.loss(batch, index)
            rows = next((_rows(call, given) for call in calls if call.head and call.head.layer is layer), None)
            if rows is not None:
                kept.append(rows)
                raws.append(_raw(view, batch, len(rows[0])))
    finally:
        handle.remove()
    if not kept:
        raise NotApplicable("the last layer was given nothing that belongs to the targets.")
    raw = [value for value in raws if value is not None]
    alike = len(raw) == len(raws) and len({value.shape[1] for value in raw}) == 1
    values, targets = (torch.cat(parts) for parts in zip(*kept, strict=True))
    known = targets >= 0 if targets.dim() == 1 else targets.isfinite().all(1)
    return Features(values[known], targets[known], torch.cat(raw)[known] if alike else None)


def _targets(call: LossCall) -> Tensor | None:
    """Class indices [N], or values [N, outputs]; None for probabilities of classes, and what has another shape."""
    target = call.target
    if call.kind != "softmax":
        return target.detach().float().cpu()
    if target.is_floating_point():
        return None
    ignored = int(call.arguments.get("ignore_index", -100))
    flat = target.detach().flatten().cpu()
    return torch.where(flat == ignored, -1, flat)


def _rows(call: LossCall, given: list[Tensor]) -> tuple[Tensor, Tensor] | None:
    target = _targets(call)
    if len(given) != 1 or target is None:
        return None
    values = given[0].float().cpu().flatten(0, -2)
    if call.kind != "softmax":
        if target.numel() % len(values):
            return None
        target = target.reshape(len(values), -1)
    return (values, target) if len(target) == len(values) else None


def _raw(view: View, batch: Any, rows: int) -> Tensor | None:
    """The float inputs of a batch, an example a row."""
    inputs, _ = view.split(batch)
    parts = []
    for _, part in leaves(inputs):
        if not part.is_floating_point() or part.dim() == 0 or len(part) != rows:
            continue
        part = part.detach().float().cpu()
        if part.dim() == 4 and max(part.shape[2:]) > LARGEST_SIDE:
            part = F.adaptive_avg_pool2d(part, LARGEST_SIDE)
        parts.append(part.flatten(1) if part.dim() > 1 else part[:, None])
    raw = torch.cat(parts, 1) if parts else None
    return raw if raw is not None and raw.shape[1] <= LARGEST_INPUT and bool(raw.isfinite().all()) else None
