"""Quick probes: what can be told of the labels from the inputs, for examples that the probe has not seen."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from lightning_rules.data.probe_features import plain, pooled, random_features

FOLDS = 5
NEIGHBOURS = 5
RIDGE = 0.3  # of the number of examples; columns have variance 1
Features = dict[str, Tensor]


@dataclass(frozen=True)
class Probed:
    """How well one probe does on examples it was not fitted on.

    Attributes:
        probe: Which one: ``"neighbours"``, ``"linear"``, ``"kernel"`` or ``"patterns"``.
        scores: ``[n, k]``; column c says how much an example looks like class c. For numbers, ``[n, 1]``: the estimate.
        z: By how many standard deviations the scores of the right classes exceed those of labels dealt at random. Where
            examples score one another, each pair counts once.
        gain: Share of the way from chance to perfect: for classes (agreement - chance) / (1 - chance), for numbers the
            correlation.
        noise: The standard deviation of ``gain`` when labels are dealt at random.
    """

    probe: str
    scores: Tensor
    z: float
    gain: float
    noise: float


def features_of(*inputs: Tensor) -> list[Features]:
    """What each probe looks at, for one or more splits, standardised together."""
    together = torch.cat(inputs)
    rows = plain(together)
    made = {"neighbours": rows, "linear": rows}
    if rows.shape[1]:
        made["kernel"] = random_features(rows)
    patterns = pooled(together)
    if patterns is not None and patterns.shape[1]:
        made["patterns"] = patterns
    sizes = [len(split) for split in inputs]
    parts = {name: torch.split_with_sizes(value, sizes) for name, value in made.items()}
    return [{name: part[place] for name, part in parts.items()} for place in range(len(inputs))]


def targets_as_columns(targets: Tensor, classes: int) -> Tensor:
    """One column a class, 1 for the right one; numbers in one column with mean 0 and variance 1."""
    if classes:
        return F.one_hot(targets, classes).float()
    targets = targets.float()
    return ((targets - targets.mean()) / (targets.std() + 1e-12))[:, None]


def probe(features: Features, targets: Tensor, classes: int) -> list[Probed]:
    """Each probe's scores for all examples, each from a fit that has not seen the example.

    Args:
        features: From :func:`features_of`.
        targets: ``[n]``: classes 0 to ``classes`` - 1, or numbers.
        classes: How many; 0 for numbers.
    """
    columns = targets_as_columns(targets, classes)
    folds = torch.randperm(len(targets), generator=torch.Generator().manual_seed(0)) % FOLDS
    found = [judged("neighbours", neighbours(features["neighbours"], columns), columns, None)]
    for name in ("linear", "kernel", "patterns"):
        if name in features:
            found.append(judged(name, held_out(features[name], columns, folds), columns, folds))
    return found


def neighbours(rows: Tensor, columns: Tensor) -> Tensor:
    """The mean of the targets of the nearest examples."""
    distances = torch.cdist(rows, rows).fill_diagonal_(float("inf"))
    nearest = distances.topk(min(NEIGHBOURS, len(rows) - 1), largest=False).indices
    return columns[nearest].mean(1)


def held_out(rows: Tensor, columns: Tensor, folds: Tensor) -> Tensor:
    """Scores of ridge regression, for each fold from a fit to the others."""
    scores = torch.zeros_like(columns)
    gram, moments = rows.T @ rows, rows.T @ columns
    for fold in range(FOLDS):
        out = folds == fold
        left, kept = rows[out], int((~out).sum())
        offset = rows[~out].sum(0)[:, None] * columns[~out].mean(0)
        weights = solve(gram - left.T @ left, moments - left.T @ columns[out] - offset, kept)
        scores[out] = left @ weights
    return scores


def solve(gram: Tensor, moments: Tensor, count: int) -> Tensor:
    """The weights of ridge regression."""
    weights: Tensor = torch.linalg.solve(gram + RIDGE * count * torch.eye(len(gram)), moments)
    return weights


def fitted(name: str, features: Features, columns: Tensor) -> Callable[[Features], Tensor]:
    """A probe fitted to all examples: a function from the features of others to scores."""
    rows = features[name]
    if name == "neighbours":
        return lambda others: columns[torch.cdist(others[name], rows).topk(NEIGHBOURS, largest=False).indices].mean(1)
    weights = solve(rows.T @ rows, rows.T @ (columns - columns.mean(0)), len(rows))
    return lambda others: others[name] @ weights


def judged(name: str, scores: Tensor, columns: Tensor, folds: Tensor | None, mutual: bool = True) -> Probed:
    """How far scores and targets agree beyond chance; within folds, whose fits differ."""
    centred = scores.clone()
    for fold in range(FOLDS) if folds is not None else ():
        centred[folds == fold] -= scores[folds == fold].mean(0)
    # Within one split each pair of examples says the same twice: the sum varies by twice as much.
    pairs = 2**0.5 if mutual else 1.0
    z = agreement(centred, columns) / pairs
    if columns.shape[1] == 1:
        gain = float(torch.corrcoef(torch.stack([centred[:, 0], columns[:, 0]]))[0, 1].nan_to_num())
        return Probed(name, scores, z, gain, pairs * len(columns) ** -0.5)
    shares = columns.mean(0)
    said = F.one_hot(named(centred, shares), len(shares)).float()
    hits = float((said * columns).sum(1).mean())
    chance = float((said.mean(0) * shares).sum())
    noise = pairs * (chance * (1 - chance) / len(columns)) ** 0.5 / max(1e-9, 1 - chance)
    return Probed(name, scores, z, (hits - chance) / max(1e-9, 1 - chance), noise)


def named(scores: Tensor, shares: Tensor) -> Tensor:
    """The class that each row of scores speaks for; priors are taken out, so that a rare class is named at all."""
    return ((scores - scores.mean(0)) / (shares * (1 - shares)).sqrt().clamp(min=1e-6)).argmax(1)


def agreement(scores: Tensor, columns: Tensor) -> float:
    """The sum of the scores of the right targets, in standard deviations over all ways of dealing the targets.

    Hoeffding (1951), "A Combinatorial Central Limit Theorem": mean and variance of the sum over permutations are known
    without drawing any.
    """
    if columns.shape[1] == 1:
        centred = scores[:, 0] - scores[:, 0].mean()
        numbers = columns[:, 0] - columns[:, 0].mean()
        spread = (centred.square().sum() * numbers.square().sum() / (len(columns) - 1)).sqrt()
        return float((centred * numbers).sum() / spread.clamp(min=1e-12))
    counts = columns.sum(0)
    centred = scores - scores.mean(0)
    centred = centred - (centred * counts).sum(1, keepdim=True) / counts.sum()
    variance = (centred.square().sum(0) * counts).sum() / (len(columns) - 1)
    return float((centred * columns).sum() / variance.sqrt().clamp(min=1e-12))


def clusters(features: Features, examples: int = 1000) -> tuple[float, float]:
    """How much closer the nearest example is than chance has it.

    Returns:
        The median distance to the nearest example, divided by that of a normal distribution with the same covariance
        (and by that of columns dealt anew, and so for directions alone; the largest ratio counts, since heavy tails
        are no clusters); and divided by the median distance of any two. Pure noise has the first near 1.
    """
    rows = features["neighbours"][:examples]
    rows = rows - rows.mean(0)
    if rows.shape[1] < 2:
        return 1.0, 1.0
    _, spread, directions = torch.linalg.svd(rows, full_matrices=False)
    real = rows @ directions.T
    noise = torch.randn(real.shape, generator=torch.Generator().manual_seed(0)) * (spread / (len(rows) - 1) ** 0.5)
    ratios = [_nearest(real) / max(1e-12, _nearest(noise)), _nearest(rows) / max(1e-12, _nearest(_dealt(rows)))]
    if rows.shape[1] >= 4:
        ratios.append(_nearest(F.normalize(real)) / max(1e-12, _nearest(F.normalize(noise))))
    return max(ratios), _nearest(real) / max(1e-12, float(torch.pdist(real[:500]).median()))


def _dealt(rows: Tensor) -> Tensor:
    """The same columns, each in an order of its own."""
    order = torch.rand(rows.shape, generator=torch.Generator().manual_seed(1)).argsort(0)
    return rows.gather(0, order)


def _nearest(rows: Tensor) -> float:
    return float(torch.cdist(rows, rows).fill_diagonal_(float("inf")).amin(1).median())
