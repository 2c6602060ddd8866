"""Several answers as one: averages over members, weights fitted on validation, and greedy selection. Pure functions."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from lightning_rules.combine.reading import Answer, Task

NEGLIGIBLE = 0.001
Average = Literal["probabilities", "logits"]
Weighting = Literal["equal", "fitted", "greedy"]


def averaged(
    values: Tensor,
    task: Task,
    average: Average = "probabilities",
    weights: Tensor | None = None,
    variances: Tensor | None = None,
) -> Answer:
    """One answer from those of several members.

    Probabilities are averaged as they are and given back on the scale of logits, so that softmax or sigmoid yields
    the average. Means of a regression are averaged, and the spread of the means between members is added to the
    average of their variances: the variance of the mixture.

    Args:
        values: The members' logits or means [M, N, ...], classes in dimension 2.
        task: What they mean.
        average: What to average; "logits" is the (renormalised) geometric mean of the probabilities.
        weights: One weight for each member [M], not negative, with sum 1; None weighs all alike.
        variances: The members' variances, as ``values``; None where they give none.

    Returns:
        For "multiclass" log probabilities [N, C, ...]; for "multilabel" logits [N, L]; for "regression" means and
        variances [N, D].
    """
    count = len(values)
    weights = torch.full((count,), 1 / count) if weights is None else weights
    weights = weights.to(values).reshape(-1, *[1] * (values.dim() - 1))
    if task == "regression":
        mean = (weights * values).sum(0)
        variance = (weights * (values - mean).square()).sum(0)
        return Answer(mean, variance if variances is None else variance + (weights * variances).sum(0))
    if average == "logits":
        mean = (weights * values).sum(0)
        return Answer(mean.log_softmax(dim=1) if task == "multiclass" else mean)
    if task == "multiclass":
        return Answer((values.log_softmax(dim=2) + weights.log()).logsumexp(dim=0))
    yes, no = ((F.logsigmoid(sign * values) + weights.log()).logsumexp(dim=0) for sign in (1, -1))
    return Answer(yes - no)


def mean_loss(answer: Answer, targets: Tensor, task: Task) -> Tensor:
    """Cross-entropy, binary cross-entropy or mean squared error: what weights are chosen by.

    Args:
        answer: From :func:`averaged`.
        targets: As :func:`scores.comparable_targets` has them.
        task: What they mean.
    """
    if task == "multiclass":
        return F.cross_entropy(answer.values, targets)
    if task == "multilabel":
        return F.binary_cross_entropy_with_logits(answer.values, targets)
    return F.mse_loss(answer.values, targets)


def fitted_weights(
    values: Tensor, targets: Tensor, task: Task, average: Average = "probabilities", steps: int = 100
) -> Tensor:
    """The weights [M], not negative, with sum 1, under which the average has the least loss.

    The loss is convex in the weights, so there is one minimum; L-BFGS finds it from equal weights.

    Args:
        values: The members' answers [M, N, ...] on validation examples.
        targets: Their targets.
        task: What they mean.
        average: What is averaged.
        steps: The most steps of L-BFGS.
    """
    values, targets = values.double(), targets.double() if targets.is_floating_point() else targets
    free = torch.zeros(len(values), dtype=torch.double, requires_grad=True)
    optimizer = torch.optim.LBFGS([free], max_iter=steps, line_search_fn="strong_wolfe", tolerance_change=1e-12)

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = mean_loss(averaged(values, task, average, free.softmax(dim=0)), targets, task)
        loss.backward()  # type: ignore[no-untyped-call]
        return loss

    with torch.enable_grad():
        optimizer.step(closure)  # type: ignore[no-untyped-call]
    weights = free.detach().softmax(dim=0).float()
    weights[weights < NEGLIGIBLE] = 0  # a network that runs for nothing
    return weights / weights.sum()


def greedy_weights(
    values: Tensor, targets: Tensor, task: Task, average: Average = "probabilities", rounds: int | None = None
) -> Tensor:
    """Weights [M] by greedy forward selection with replacement (Caruana et al. 2004).

    Beginning with the best member, each round adds the one, perhaps again, with which the average has the least loss;
    the best of all rounds counts, and how often each member is in it gives its weight.

    Args:
        values: The members' answers [M, N, ...] on validation examples.
        targets: Their targets.
        task: What they mean.
        average: What is averaged.
        rounds: How many members to add; by default three for each.
    """

    def loss_of(counts: Tensor) -> float:
        return float(mean_loss(averaged(values, task, average, counts / counts.sum()), targets, task))

    counts = _greedily(len(values), loss_of, rounds or 3 * len(values))
    return counts / counts.sum()


def _greedily(members: int, loss_of: Callable[[Tensor], float], rounds: int) -> Tensor:
    counts, best, best_loss = torch.zeros(members), torch.zeros(members), float("inf")
    for _ in range(rounds):
        tried: Sequence[Tensor] = [counts + one for one in torch.eye(members)]
        losses = [loss_of(each) for each in tried]
        chosen = min(range(members), key=losses.__getitem__)
        counts = tried[chosen]
        if losses[chosen] < best_loss:
            best, best_loss = counts, losses[chosen]
    return best
