"""Examples that hold nothing, or no numbers: no-junk."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from lightning_rules.audit import Part
from lightning_rules.data.data_seen import DataSeen, SplitSample
from lightning_rules.data.items import collated
from lightning_rules.data.network_seen import is_finite
from lightning_rules.deadline import Deadline
from lightning_rules.finding import Finding, Severity
from lightning_rules.rule import NotApplicable
from lightning_rules.untouched import untouched

NAME = "no-junk"
AT_LEAST = 8  # examples that must agree before "all the same" is said
BAD, GOOD = 4, 12  # examples with and without NaN in the batch that is tried
BYTES = 2**31  # stored inputs up to this size are looked at whole


@dataclass(frozen=True)
class Junk:
    """What one split holds that teaches nothing.

    Attributes:
        split: ``"training"`` or ``"validation"``.
        looked_at: Examples looked at.
        not_finite: Examples whose input holds a NaN or an infinity.
        targets_not_finite: Examples whose target does.
        loss_not_finite: Whether the step's loss is not finite with such examples while it is without; None where it
            was not tried or could not be.
        constant: Whether all inputs are one and the same.
        entering_constant: The same of what enters the first layer; None where unknown.
        still_features: Input values that are the same in all examples.
        features: Values an input.
        varied_targets: Whether targets differ.
    """

    split: str
    looked_at: int
    not_finite: int
    targets_not_finite: int
    loss_not_finite: bool | None
    constant: bool
    entering_constant: bool | None
    still_features: int
    features: int
    varied_targets: bool


def measure(seen: DataSeen, deadline: Deadline) -> list[Junk]:
    """Look at both splits.

    Raises:
        NotApplicable: The training inputs are no tensors of one shape.
    """
    if seen.train.inputs is None:
        raise NotApplicable("the training inputs are no tensors of one shape.")
    splits = [seen.train, *([seen.validation] if seen.validation is not None else [])]
    return [_junk_in(seen, sample) for sample in splits if sample.inputs is not None]


def _junk_in(seen: DataSeen, sample: SplitSample) -> Junk:
    inputs = sample.inputs
    assert inputs is not None
    whole = sample.plain if sample.plain is not None and sample.plain.nbytes <= BYTES else None
    bad = _not_finite(inputs if whole is None else whole)
    labels = sample.labels
    bad_targets = None if labels is None else _not_finite(labels)
    flat = inputs.flatten(1)
    still = (flat == flat[:1]).all(0)
    enough = len(flat) >= AT_LEAST
    return Junk(
        split=sample.name,
        looked_at=len(bad),
        not_finite=int(bad.sum()),
        targets_not_finite=0 if bad_targets is None else int(bad_targets.sum()),
        loss_not_finite=_breaks(seen, sample, bad if bad.any() else bad_targets),
        constant=enough and bool(still.all()),
        entering_constant=_still_entering(seen, sample) if enough else None,
        still_features=int(still.sum()),
        features=flat.shape[1],
        varied_targets=labels is None or bool((labels != labels[:1]).any()),
    )


def _not_finite(values: Tensor) -> Tensor:
    """Which rows hold a NaN or an infinity."""
    if not values.is_floating_point():
        return torch.zeros(len(values), dtype=torch.bool)
    return ~torch.isfinite(values.flatten(1) if values.dim() > 1 else values.unsqueeze(1)).all(1)


def _still_entering(seen: DataSeen, sample: SplitSample) -> bool | None:
    try:
        entered = seen.entered if sample.name == "training" else seen.entered_in_validation
    except NotApplicable:
        return None
    values = entered.values
    return None if values is None or entered.embeds or len(values) < AT_LEAST else bool((values == values[:1]).all())


def _breaks(seen: DataSeen, sample: SplitSample, bad: Tensor | None) -> bool | None:
    """Whether a few bad examples among good ones make the loss of training not finite."""
    if bad is None or not bad.any() or sample.size is None or sample.name != "training":
        return None
    worse, better = bad.nonzero().flatten().tolist()[:BAD], (~bad).nonzero().flatten().tolist()[:GOOD]
    with_bad, without = ([_index(sample, place, len(bad)) for place in chosen] for chosen in (worse + better, better))
    if not better:
        return None
    try:
        return not _finite_loss(seen, sample, with_bad) and _finite_loss(seen, sample, without)
    except Exception:  # the step cannot be run apart from the run
        return None


def _index(sample: SplitSample, place: int, rows: int) -> int:
    """Where in the data set a row stands, of all its rows or of the sample's."""
    if rows != sample.size:
        return sample.indices[place]
    return place if sample.drawn is None else int(sample.drawn[place])


def _finite_loss(seen: DataSeen, sample: SplitSample, indices: list[int]) -> bool:
    with untouched(None, sample.loader):
        batch: Any = collated(sample.loader, [sample.dataset[index] for index in indices])[0][1]
    return is_finite(seen.view, batch)


def judge(ranks: Sequence[list[Junk]]) -> Iterator[Finding]:
    """Findings on each split; the worst rank speaks for all."""
    clean = True
    for junks in zip(*ranks, strict=False):
        junk = max(junks, key=lambda seen: (seen.not_finite, seen.targets_not_finite, seen.constant))
        for finding in _findings(junk):
            clean = clean and finding.severity < Severity.WARNING
            yield finding
    if clean and ranks[0]:
        looked = " and ".join(f"{junk.looked_at:,} {junk.split}" for junk in ranks[0])
        yield Finding(NAME, Severity.OK, f"Inputs of {looked} examples are finite where it matters, and differ.")


def _findings(junk: Junk) -> Iterator[Finding]:
    if junk.not_finite:
        yield _told(junk, junk.not_finite, "input", "Drop these examples or fill the gaps before training.")
    if junk.targets_not_finite:
        advice = "Drop these examples, or leave their targets out of the loss by a mask."
        yield _told(junk, junk.targets_not_finite, "target", advice)
    if junk.constant or junk.entering_constant:
        where = "" if junk.constant else " as they enter the first layer"
        message = f"All {junk.split} inputs looked at are one and the same{where}: they carry no information."
        severity = Severity.ERROR if junk.varied_targets else Severity.INFO
        yield Finding(NAME, severity, message, "Look where the inputs are zeroed, overwritten or never filled.")
    elif junk.still_features > 0:
        message = (
            f"{junk.still_features:,} of {junk.features:,} input values never change in the {junk.split} examples."
        )
        yield Finding(NAME, Severity.INFO, message, "", {"still": junk.still_features, "features": junk.features})


def _told(junk: Junk, count: int, what: str, advice: str) -> Finding:
    message = f"{count:,} of {junk.looked_at:,} {junk.split} examples have NaN or infinity in their {what}"
    evidence = {"examples": count, "share": count / max(1, junk.looked_at)}
    if junk.loss_not_finite:
        return Finding(NAME, Severity.ERROR, f"{message}, and the loss with them is not finite.", advice, evidence)
    if junk.loss_not_finite is False:
        return Finding(NAME, Severity.INFO, f"{message}; the training step copes with them.", "", evidence)
    severity = Severity.WARNING if what == "input" else Severity.INFO
    return Finding(NAME, severity, f"{message}.", advice, evidence)


PART = Part((NAME,), measure, judge)
