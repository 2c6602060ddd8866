"""Whether one input value alone tells the label: label-in-input."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from lightning_rules.audit import Part
from lightning_rules.data.class_counts import counted
from lightning_rules.data.data_seen import DataSeen
from lightning_rules.deadline import Deadline
from lightning_rules.finding import Finding, Severity
from lightning_rules.rule import NotApplicable

NAME = "label-in-input"
EXAMPLES = 2048
VALUES = 8_000_000  # of all examples together, at most, but for 200 examples
FEATURES = 8  # fewer: a table so narrow that one strong column is no wonder
EXPLAINED = 0.99  # share of a feature's variance between classes, and not within: the feature is the label in disguise
CORRELATED = 0.9999  # squared correlation with a regression target
ORDINARY = 0.9  # the same share for the feature at the 95th percentile: if it is above, the data are simply easy
AT_LEAST = 50  # examples
PER_CLASS = 4


@dataclass(frozen=True)
class Probe:
    """How well single features tell the label.

    Attributes:
        examples: Examples looked at.
        features: Features that vary, channel means included.
        best: The feature that tells most, position in the flattened input; the inputs' number of values and more for
            the means of channels.
        explained: Share of its variance that the label explains.
        usual: The same share for the feature at the 95th percentile.
        accuracy: Balanced accuracy of the nearest class mean of this feature on the other half of the examples; for
            regression the squared correlation there.
        classes: Number of classes; 0 for regression.
        values: Values an input.
    """

    examples: int
    features: int
    best: int
    explained: float
    usual: float
    accuracy: float
    classes: int
    values: int


def measure(seen: DataSeen, deadline: Deadline) -> Probe:
    """Fit each feature alone on half of the sample, and try the best one on the other half.

    Raises:
        NotApplicable: The inputs are ids or too narrow, or the target is neither a class nor a number.
    """
    train = seen.train
    inputs, targets = train.inputs, train.targets
    if inputs is None or targets is None or (train.discrete and inputs.dim() < 3):
        raise NotApplicable("there are no inputs of one shape with targets to compare them with.")
    if targets.numel() != len(targets) or not seen.labels_used or len(targets) < AT_LEAST:
        raise NotApplicable("the targets are no single class or number, one an example.")
    if inputs[0].numel() < FEATURES:
        raise NotApplicable(f"inputs of fewer than {FEATURES} values are not probed for the label.")
    calls, _ = seen.losses
    classes = counted(train, any(call.own and call.kind in ("softmax", "sigmoid") for call in calls))
    count = min(EXAMPLES, max(200, VALUES // inputs[0].numel()))
    step = max(1, len(inputs) // count)
    return probe(inputs[::step], targets[::step], bool(classes))


def probe(inputs: Tensor, targets: Tensor, classes: bool) -> Probe:
    """Try each feature alone.

    Args:
        inputs: ``[n, ...]``, floats.
        targets: ``[n]`` or ``[n, 1]``, class labels or numbers.
        classes: Which of the two.

    Raises:
        NotApplicable: There are too few classes or examples, or nothing varies.
    """
    values = inputs[0].numel()
    features = _with_means(inputs)
    targets = targets.flatten()
    known = torch.isfinite(features).all(1) & torch.isfinite(targets.double())
    features, targets = features[known], targets[known]
    if classes:
        _, targets, counts = torch.unique(targets, return_inverse=True, return_counts=True)
        kept = counts[targets] >= PER_CLASS
        features, targets = features[kept], targets[kept]
    order = torch.randperm(len(targets), generator=torch.Generator().manual_seed(0))  # labels may stand in a pattern
    features, targets = features[order], targets[order]
    if len(targets) < AT_LEAST or not bool((targets != targets[:1]).any()):
        raise NotApplicable("too few examples, or all have one label.")
    share = explained(features[::2], targets[::2], classes)
    best = int(share.argmax())
    varies = share > 0
    return Probe(
        examples=len(targets),
        features=int(varies.sum()),
        best=best,
        explained=float(share[best]),
        usual=float(share[varies].quantile(0.95)) if bool(varies.any()) else 0.0,
        accuracy=held_out(features[:, best], targets, classes),
        classes=len(torch.unique(targets)) if classes else 0,
        values=values,
    )


def _with_means(inputs: Tensor) -> Tensor:
    """All values of each example, and the means of its channels behind them."""
    flat = inputs.flatten(1)
    return torch.cat([flat, inputs.flatten(2).mean(2)], 1) if inputs.dim() > 2 else flat


def explained(features: Tensor, targets: Tensor, classes: bool) -> Tensor:
    """The share of each feature's variance that the target explains ``[features]``: between classes, or by a line."""
    centred = features - features.mean(0)
    total = centred.square().sum(0)
    varies = total > 1e-12 * features.square().sum(0).clamp_min(1e-30)
    if classes:
        sums = torch.zeros(int(targets.max()) + 1, features.shape[1]).index_add_(0, targets, centred)
        counts = torch.bincount(targets, minlength=len(sums)).clamp_min(1).unsqueeze(1)
        between = (sums.square() / counts).sum(0)
    else:
        line = targets.float() - targets.float().mean()
        between = (line @ centred).square() / line.square().sum().clamp_min(1e-30)
    return torch.where(varies, between / total.clamp_min(1e-30), torch.zeros_like(total)).clamp(0, 1)


def held_out(feature: Tensor, targets: Tensor, classes: bool) -> float:
    """How well one feature, fitted on the examples of even place, tells the target of the others."""
    ours, theirs = feature[::2], feature[1::2]
    if not classes:
        pair = torch.stack([theirs, targets[1::2].float()])
        return float(torch.corrcoef(pair)[0, 1].nan_to_num() ** 2)
    here, there = targets[::2], targets[1::2]
    labels = torch.unique(here)
    means = torch.stack([ours[here == label].mean() for label in labels])
    guessed = labels[(theirs.unsqueeze(1) - means).abs().argmin(1)]
    right = [float((guessed[there == label] == label).float().mean()) for label in torch.unique(there)]
    return sum(right) / len(right)


def judge(ranks: Sequence[Probe]) -> list[Finding]:
    """One finding; the sets are read alike on all ranks."""
    seen = ranks[0]
    evidence = {"feature": seen.best, "explained": seen.explained, "usual": seen.usual, "held_out": seen.accuracy}
    where = f"input value {seen.best}" if seen.best < seen.values else f"the mean of channel {seen.best - seen.values}"
    level = EXPLAINED if seen.classes else CORRELATED
    if seen.explained >= level and seen.accuracy >= level and seen.usual < ORDINARY:
        kind = f"one of {seen.classes} classes with a balanced accuracy of" if seen.classes else "the target with r² ="
        message = (
            f"The label can be read off {where} alone: it tells {kind} {seen.accuracy:.1%} on held-out training "
            f"examples, where 95% of the input values explain at most {seen.usual:.0%}: the label leaks into the input."
        )
        advice = "Take the label, and what is made from it, out of the inputs; it will not be there when it counts."
        return [Finding(NAME, Severity.WARNING, message, advice, evidence)]
    message = f"No single input value tells the label (the best, {where}, explains {seen.explained:.0%} of it)."
    return [Finding(NAME, Severity.OK, message, "", evidence)]


PART = Part((NAME,), measure, judge)
