"""How wrong the network is on a part of the data, measured in evaluation mode and alike for every part."""

from __future__ import annotations

import math
import time
from collections.abc import Iterable
from dataclasses import dataclass, fields
from typing import Any, Literal

import torch
from torch import Tensor

from lightning_rules.losses import Kind, LossCall
from lightning_rules.rule import NotApplicable
from lightning_rules.view import View

Unit = Literal["error rate", "squared error", "absolute error"]
UNITS: dict[Kind, Unit] = {
    "softmax": "error rate",
    "sigmoid": "error rate",
    "mean": "squared error",
    "median": "absolute error",
}


@dataclass(frozen=True)
class SplitError:
    """Sums over the answers on a part of the data; those of ranks add up.

    Attributes:
        answers: How many answers: examples, pixels or tokens, and labels where an example has several.
        error: Sum of their errors: 1 for a wrong class, the squared or absolute error of a value.
        square: Sum of the squares of these.
        guess: The same sum for the best constant answer.
    """

    answers: float = 0.0
    error: float = 0.0
    square: float = 0.0
    guess: float = 0.0

    def __add__(self, other: SplitError) -> SplitError:
        return SplitError(*(getattr(self, f.name) + getattr(other, f.name) for f in fields(self)))

    @property
    def mean(self) -> float:
        """The mean error."""
        return self.error / self.answers

    @property
    def guessed(self) -> float:
        """The mean error of the best constant answer."""
        return self.guess / self.answers

    @property
    def noise(self) -> float:
        """The standard error of the mean error."""
        variance = max(self.square / self.answers - self.mean**2, 0.0)
        never = 0.25 / self.answers**2 if self.square == self.error else 0.0  # of rates, so that none is quite sure
        return math.sqrt(max(variance / self.answers, never))


def error_on(view: View, batches: Iterable[Any], until: float) -> tuple[SplitError, Unit]:
    """Run ``training_step`` in evaluation mode on batches, whichever split they come from; nothing is left behind.

    Args:
        view: The run.
        batches: On the host.
        until: ``time.perf_counter()`` after which no further batch is begun.

    Raises:
        NotApplicable: The step calls none of torch's loss functions that tell what was answered.
    """
    outputs, targets, call = [], [], None
    for batch in batches:
        if call is not None and time.perf_counter() > until:
            break
        with view.step(batch, evaluation=True) as step:
            call = next(iter(step.calls), None)
            if call is None:
                raise NotApplicable("training_step calls none of torch's loss functions that say what was answered.")
            output, target = _answers(call)
            outputs.append(output)
            targets.append(target)
    if call is None:
        raise NotApplicable("there is no batch to measure the error on.")
    return sums(torch.cat(outputs), torch.cat(targets), call.kind), UNITS[call.kind]


def _answers(call: LossCall) -> tuple[Tensor, Tensor]:
    """What was answered and what is right, flat, on the host: classes for a softmax, yes or no, or values."""
    output, target = call.output.detach(), call.target.detach()
    if call.kind == "softmax":
        answer = output.argmax(call.class_dim)
        right = target.argmax(call.class_dim) if target.is_floating_point() else target
        known = (right != call.arguments.get("ignore_index", -100)).flatten()
        return answer.flatten()[known].cpu(), right.flatten()[known].cpu()
    if output.shape != target.shape:
        raise NotApplicable(f"outputs of shape {list(output.shape)} have targets of shape {list(target.shape)}.")
    if call.kind == "sigmoid":
        middle = 0.5 if call.name == "binary_cross_entropy" else 0.0
        return (output > middle).flatten().long().cpu(), (target > 0.5).flatten().long().cpu()
    known = torch.isfinite(target).flatten()
    return output.flatten()[known].double().cpu(), target.flatten()[known].double().cpu()


def sums(answers: Tensor, right: Tensor, kind: Kind) -> SplitError:
    """Add up errors.

    Args:
        answers: Classes or values, ``[n]``.
        right: The same that would have been right.
        kind: Of the loss.
    """
    if len(right) == 0:
        raise NotApplicable("no target counts: all are ignored.")
    if kind in ("softmax", "sigmoid"):
        wrong = float((answers != right).sum())
        return SplitError(len(right), wrong, wrong, float(len(right) - torch.bincount(right).max()))
    away, constant = (answers - right).abs(), right.mean() if kind == "mean" else right.median()
    power = 2 if kind == "mean" else 1
    error = away**power
    return SplitError(
        len(right), float(error.sum()), float((error**2).sum()), float(((right - constant).abs() ** power).sum())
    )
