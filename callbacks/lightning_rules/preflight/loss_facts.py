"""What one call of a loss function was given, as plain numbers: shapes, ranges, sums, and what squashed the values."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from lightning_rules.losses import MOVES, LossCall
from lightning_rules.preflight.layer_runs import node_name

SQUASHING = ("Softmax", "LogSoftmax", "Sigmoid", "LogSigmoid", "Tanh", "Relu")
SUM_TOLERANCE = 1e-3


@dataclass(frozen=True)
class LossFacts:
    """One call of a loss function.

    Attributes:
        name: The function's name.
        output: Shape of the network's output.
        target: Shape of the target.
        reduction: As given.
        squashed: The node that squashed the output right before the loss: "Softmax", "Sigmoid" ...; "" for none.
        sums: "rows" where the output sums to 1 over the classes for each example, "columns" where it sums to 1 over
            the batch for each class, "log rows" and "log columns" where its exponential does; else "".
        lowest: The smallest value of the output.
        highest: The largest.
        target_lowest: The smallest target.
        target_highest: The largest.
        below: Share of targets under the output's range, as far as a squashing node limits it.
        above: Share of targets over it.
        whole: Whether the targets are whole numbers.
        distinct: How many distinct values they have.
        one_hot: Whether each row of the target is a one among zeros.
        reconstructs: Whether the target is a part of the inputs.
        ignored: Share of targets that equal ``ignore_index``.
        dropped: Share of targets, where there is one an example, that name a class and yet weigh nothing.
        smoothing: Label smoothing.
        weights: Lowest, highest, number of zeros and finiteness of the class weights; None where there are none.
        total_weight: Sum over examples of the weights with which their mean loss enters what the step returns:
            1 for a mean, the number of examples for a sum; None where it is not known.
        examples: Length of the output's first dimension.
    """

    name: str
    output: tuple[int, ...]
    target: tuple[int, ...]
    reduction: str = "mean"
    squashed: str = ""
    sums: str = ""
    lowest: float = 0.0
    highest: float = 0.0
    target_lowest: float = 0.0
    target_highest: float = 0.0
    below: float = 0.0
    above: float = 0.0
    whole: bool = False
    distinct: int = 0
    one_hot: bool = False
    reconstructs: bool = False
    ignored: float = 0.0
    dropped: float = 0.0
    smoothing: float = 0.0
    weights: tuple[float, float, int, bool] | None = None
    total_weight: float | None = None
    examples: int = 0


def squashing(output: Tensor) -> str:
    """The node that squashed a value, changes of shape left aside; "" for none."""
    node = output.grad_fn
    while node is not None:
        name = node_name(node)
        if name in SQUASHING:
            return name
        above = [parent for parent, _ in node.next_functions if parent is not None]
        if name not in MOVES or len(above) != 1:
            return ""
        node = above[0]
    return ""


@torch.no_grad()
def facts_of(call: LossCall, loss: Tensor | None, inputs: list[Tensor]) -> LossFacts:
    """Look at one call of a loss function.

    Args:
        call: Within its graph.
        loss: What the step returned, within its graph.
        inputs: The batch's tensors on the host, to see whether the target is one of them.
    """
    output, target = call.output.detach().float(), call.target.detach()
    squashed = squashing(call.output)
    numbers = target.float()
    known = numbers[numbers.isfinite()]
    below, above = _out_of_range(squashed, known)
    few = known.flatten()[:100_000]
    return LossFacts(
        name=call.name,
        output=tuple(output.shape),
        target=tuple(target.shape),
        reduction=str(call.arguments.get("reduction", "mean")),
        squashed=squashed,
        sums=_sums(output),
        lowest=float(output.min()) if output.numel() else 0.0,
        highest=float(output.max()) if output.numel() else 0.0,
        target_lowest=float(known.min()) if known.numel() else 0.0,
        target_highest=float(known.max()) if known.numel() else 0.0,
        below=below,
        above=above,
        whole=bool(known.numel()) and bool((few == few.round()).all()),
        distinct=len(set(few.tolist())),
        one_hot=_one_hot(numbers),
        reconstructs=_is_input(target, inputs),
        ignored=_ignored(call, target),
        dropped=_dropped(call, target),
        smoothing=float(call.arguments.get("label_smoothing") or 0.0),
        weights=_weights(call),
        total_weight=_total_weight(call, loss),
        examples=len(output) if output.dim() else 0,
    )


def _sums(output: Tensor) -> str:
    """Along which dimension the values, or their exponentials, are probabilities."""
    if output.dim() < 2 or output.shape[1] < 2 or len(output) < 2 or not bool(output.isfinite().all()):
        return ""
    if bool((output == output[:1]).all()):
        return ""  # a constant: the bias of a head whose weights are zero
    for prefix, values in (("", output), ("log ", output.exp())):
        if bool((values < 0).any()) or bool((values > 1 + SUM_TOLERANCE).any()):
            continue
        for name, dim in (("rows", 1), ("columns", 0)):
            if bool(((values.sum(dim=dim) - 1).abs() < SUM_TOLERANCE).all()):
                return prefix + name
    return ""


def _out_of_range(squashed: str, target: Tensor) -> tuple[float, float]:
    limits = {"Softmax": (0.0, 1.0), "Sigmoid": (0.0, 1.0), "Tanh": (-1.0, 1.0), "Relu": (0.0, float("inf"))}
    if squashed not in limits or not target.numel():
        return 0.0, 0.0
    lowest, highest = limits[squashed]
    margin = 1e-3
    return float((target < lowest - margin).float().mean()), float((target > highest + margin).float().mean())


def _one_hot(target: Tensor) -> bool:
    if target.dim() != 2 or target.shape[1] < 2 or len(target) < 2:
        return False
    plain = bool(((target == 0) | (target == 1)).all())
    return plain and bool((target.sum(dim=1) == 1).all()) and bool((target.sum(dim=0) > 0).sum() > 1)


def _is_input(target: Tensor, inputs: list[Tensor]) -> bool:
    host = target.cpu()
    same = (part for part in inputs if part.numel() == host.numel() and part.dim() > 1)
    return any(bool(torch.equal(part.flatten().to(host.dtype), host.flatten())) for part in same)


def _ignored(call: LossCall, target: Tensor) -> float:
    index = call.arguments.get("ignore_index")
    if index is None or target.is_floating_point() or not target.numel():
        return 0.0
    return float((target == index).float().mean())


def _dropped(call: LossCall, target: Tensor) -> float:
    if target.is_floating_point() or target.dim() != 1 or not target.numel():
        return 0.0
    index, weights = call.arguments.get("ignore_index"), call.arguments.get("weight")
    nothing = (target == index) & (target >= 0) if index is not None else torch.zeros_like(target, dtype=torch.bool)
    if isinstance(weights, Tensor) and weights.dim() == 1:
        nothing = nothing | (weights.to(target.device) == 0)[target.clamp(0, len(weights) - 1)]
    return float(nothing.float().mean())


def _weights(call: LossCall) -> tuple[float, float, int, bool] | None:
    weights = call.arguments.get("pos_weight")
    if weights is None and call.name in ("cross_entropy", "nll_loss"):
        weights = call.arguments.get("weight")
    if not isinstance(weights, Tensor) or not weights.numel():
        return None
    weights = weights.detach().float()
    return float(weights.min()), float(weights.max()), int((weights == 0).sum()), bool(weights.isfinite().all())


def _total_weight(call: LossCall, loss: Tensor | None) -> float | None:
    """With which weight the mean loss of an example enters what is returned: 1 for a mean over the batch."""
    if loss is None or loss.grad_fn is None or loss.numel() != 1 or call.output.dim() == 0:
        return None
    try:
        with torch.enable_grad():
            slopes: tuple[Tensor | None, ...] = torch.autograd.grad(
                loss.sum(), call.value, retain_graph=True, allow_unused=True
            )
    except RuntimeError:
        return None  # the step has freed its graph
    if slopes[0] is None:
        return None
    total = float(slopes[0].double().sum())
    examples = len(call.output)
    if call.value.dim() > 0:  # reduction "none": one value an example, or several
        return total * examples / call.value.numel()
    return total * examples if call.arguments.get("reduction") == "sum" else total
