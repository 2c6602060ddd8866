"""How much of one model's gain over another a third one keeps. Pure functions on the scores of the same examples."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from lightning_rules.combine.reading import Task
from lightning_rules.combine.scores import predicted

RESAMPLES = 2000
_AT_ONCE = 10_000_000  # elements in memory while examples are drawn


@dataclass(frozen=True)
class KeptGain:
    """A share, and the gain that it is a share of, with the 95% intervals of the bootstrap (Efron 1979).

    Attributes:
        share: How much of the gain is kept: 1 is all of it, below 0 is worse than without.
        low: Lower end of its interval.
        high: Upper end.
        gain: The whole gain, mean over examples.
        gain_low: Lower end of its interval; where it is not above 0, the share says nothing.
        gain_high: Upper end.
    """

    share: float
    low: float
    high: float
    gain: float
    gain_low: float
    gain_high: float


def example_scores(values: Tensor, targets: Tensor, task: Task) -> dict[str, Tensor]:
    """Each example's scores [N], by name; more is better.

    Args:
        values: Answers [N, C], [N, L] or [N, D], on the scale of logits.
        targets: As :func:`scores.comparable_targets` has them.
        task: What they mean.

    Returns:
        "accuracy" (of its labels, the share that is right) and "likelihood" (log, in nats) of classifiers;
        "squared error", negative, of regressions.
    """

    def mean(scores: Tensor) -> Tensor:
        return scores.double().reshape(len(targets), -1).mean(dim=1)

    if task == "regression":
        return {"squared error": -mean((values - targets).square())}
    right = mean(predicted(values, task) == targets)
    if task == "multiclass":
        return {"accuracy": right, "likelihood": -mean(F.cross_entropy(values, targets, reduction="none"))}
    loss = F.binary_cross_entropy_with_logits(values, targets, reduction="none")
    return {"accuracy": right, "likelihood": -mean(loss)}


def kept_gain(without: Tensor, student: Tensor, teacher: Tensor, seed: int = 0) -> KeptGain:
    """The share of the teacher's gain over a model without teacher that the student keeps.

    Args:
        without: Scores of the model that had no teacher [N], more is better.
        student: The student's, of the same examples.
        teacher: The teacher's.
        seed: Of the resampling.
    """
    scores = torch.stack([without, student, teacher]).double()
    generator = torch.Generator().manual_seed(seed)
    count = scores.shape[1]
    means = []
    for chunk in torch.split(torch.arange(RESAMPLES), max(1, _AT_ONCE // count)):
        drawn = torch.randint(count, (len(chunk), count), generator=generator)
        means.append(scores[:, drawn].mean(dim=2))
    base, kept, whole = torch.cat(means, dim=1)
    ends = torch.tensor([0.025, 0.975], dtype=torch.double)
    gain_low, gain_high = (whole - base).quantile(ends).tolist()
    low, high = ((kept - base) / (whole - base)).nan_to_num(0.0).quantile(ends).tolist()
    gain = float((scores[2] - scores[0]).mean())
    share = float((scores[1] - scores[0]).mean()) / gain if gain else float("nan")
    return KeptGain(share, low, high, gain, gain_low, gain_high)
