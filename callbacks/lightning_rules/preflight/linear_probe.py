"""A linear layer trained on fixed features: what can be read off them."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from lightning_rules.losses import Kind

PENALTIES = (1e-4, 1e-2, 1.0, 30.0)  # on the squared weights of standardised features, as a part of the mean loss
HELD_OUT = 5  # every fifth training example chooses the penalty
ITERATIONS = 60


def probe(kind: Kind, outputs: int, train: tuple[Tensor, Tensor], evaluate: tuple[Tensor, Tensor]) -> Tensor:
    """How well a linear layer on these features does.

    Args:
        kind: Of the loss: ``"softmax"``, ``"sigmoid"``, or squared error for all others.
        outputs: How many outputs the layer has.
        train: Features [N, F] and targets, [N] for softmax, else [N, outputs], that the layer learns from.
        evaluate: The same of other examples.

    Returns:
        For each example to evaluate on, [M]: whether it is wrong for softmax, else its loss.
    """
    mean, deviation = train[0].mean(0), train[0].std(0, correction=0)
    scale = torch.where(deviation > 1e-12 * (1 + mean.abs()), 1 / deviation.clamp_min(1e-30), 0.0)
    features, others = (train[0] - mean) * scale, (evaluate[0] - mean) * scale
    held = torch.arange(len(features)) % HELD_OUT == 0
    first = (features[~held], train[1][~held])

    def tried(penalty: float) -> float:
        return float(_scores(kind, _fit(kind, outputs, *first, penalty), features[held], train[1][held]).mean())

    best = min(PENALTIES, key=tried)
    return _scores(kind, _fit(kind, outputs, features, train[1], best), others, evaluate[1])


def constant(kind: Kind, outputs: int, train: Tensor, evaluate: Tensor) -> Tensor:
    """As :func:`probe`, of the best constant output: the majority class, the base rates, the mean."""
    nothing = (torch.zeros(len(train), 1), train), (torch.zeros(len(evaluate), 1), evaluate)
    return probe(kind, outputs, *nothing)


def _fit(kind: Kind, outputs: int, features: Tensor, targets: Tensor, penalty: float) -> tuple[Tensor, Tensor]:
    weight = torch.zeros(features.shape[1], outputs, dtype=features.dtype, requires_grad=True)
    bias = torch.zeros(outputs, dtype=features.dtype, requires_grad=True)
    optimizer = torch.optim.LBFGS([weight, bias], max_iter=ITERATIONS, line_search_fn="strong_wolfe")

    def closure() -> Any:
        optimizer.zero_grad()
        loss = _losses(kind, features @ weight + bias, targets).mean() + penalty * weight.square().sum()
        loss.backward()  # type: ignore[no-untyped-call]
        return loss

    with torch.enable_grad():
        optimizer.step(closure)  # type: ignore[no-untyped-call]
    return weight.detach(), bias.detach()


def _losses(kind: Kind, output: Tensor, target: Tensor) -> Tensor:
    if kind == "softmax":
        return F.cross_entropy(output, target, reduction="none")
    if kind == "sigmoid":
        return F.binary_cross_entropy_with_logits(output, target, reduction="none").mean(1)
    return (output - target).square().mean(1)


def _scores(kind: Kind, layer: tuple[Tensor, Tensor], features: Tensor, targets: Tensor) -> Tensor:
    output = features @ layer[0] + layer[1]
    return (output.argmax(1) != targets).double() if kind == "softmax" else _losses(kind, output, targets).double()
