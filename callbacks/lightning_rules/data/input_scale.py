"""Scale and offset of what enters the network: normalise-inputs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from lightning_rules.audit import Part
from lightning_rules.data.data_seen import DataSeen
from lightning_rules.deadline import Deadline
from lightning_rules.finding import Finding, Severity
from lightning_rules.rule import NotApplicable

NAME = "normalise-inputs"
LARGE = 30.0  # root mean square; raw pixels of 0..16 have 8, of 0..255 about 130, normalised inputs 1
SMALL = 0.005  # of values that are not zero; pixels divided by 255 twice have 0.002
UNEQUAL = 1000.0  # ratio of the scales of two features
UNEQUAL_ABOVE = 10.0  # and only where the larger one has this scale


@dataclass(frozen=True)
class Scale:
    """Scales of what enters the first weighted layer.

    Attributes:
        rms: Root mean square.
        rms_of_nonzero: The same without zeros, which padding and sparse inputs are full of.
        mean: Mean.
        lowest: Least value.
        highest: Greatest value.
        ratio: Largest over smallest scale of a feature, for tables of features; 1 otherwise.
        largest: Scale of the feature with the largest one.
        layer: The layer.
        normalised: As in :class:`~lightning_rules.data.network_seen.Entered`.
        examples: Examples looked at.
    """

    rms: float
    rms_of_nonzero: float
    mean: float
    lowest: float
    highest: float
    ratio: float
    largest: float
    layer: str
    normalised: str
    examples: int


def measure(seen: DataSeen, deadline: Deadline) -> Scale:
    """Look at the inputs of the first layer, of some training examples.

    Raises:
        NotApplicable: The network embeds ids, or what enters it is not made of the batch.
    """
    entered = seen.entered
    if entered.embeds or entered.values is None:
        raise NotApplicable("the network looks its inputs up in an embedding.")
    values = entered.values[torch.isfinite(entered.values.flatten(1)).all(1)].double()
    if not len(values):
        raise NotApplicable("no input is finite.")
    other = values[values != 0]
    scales = feature_scales(values)
    return Scale(
        rms=float(values.square().mean().sqrt()),
        rms_of_nonzero=float(other.square().mean().sqrt()) if len(other) else 0.0,
        mean=float(values.mean()),
        lowest=float(values.min()),
        highest=float(values.max()),
        ratio=float(scales.max() / scales.min()) if len(scales) else 1.0,
        largest=float(scales.max()) if len(scales) else 0.0,
        layer=entered.layer,
        normalised=entered.normalised,
        examples=len(values),
    )


def feature_scales(values: Tensor) -> Tensor:
    """Root mean square of each column's values that are not zero ``[features]``; empty for images and sequences."""
    if values.dim() != 2:
        return torch.empty(0)
    counts = (values != 0).sum(0)
    scales = (values.square().sum(0) / counts.clamp_min(1)).sqrt()
    return scales[(counts > 0) & (values != values[:1]).any(0)]


def judge(ranks: Sequence[Scale]) -> list[Finding]:
    """One finding, on the scale that the first rank saw: the sets are read alike on all ranks."""
    scale = ranks[0]
    evidence: dict[str, float | str] = {"rms": scale.rms, "mean": scale.mean, "lowest": scale.lowest}
    evidence |= {"highest": scale.highest, "feature_ratio": scale.ratio, "normalised": scale.normalised}
    seen = (
        f"Inputs enter {scale.layer} with mean {scale.mean:.3g}, root mean square {scale.rms:.3g} and values from "
        f"{scale.lowest:.3g} to {scale.highest:.3g}"
    )
    if scale.normalised:
        message = f"{seen}; a normalisation layer stands {scale.normalised} it."
        return [Finding(NAME, Severity.OK, message, "", evidence)]
    advice = "Normalise the inputs with mean and standard deviation of the training set, in every split alike."
    if scale.ratio > UNEQUAL and scale.largest > UNEQUAL_ABOVE:
        message = f"{seen}; the scales of features differ by a factor of {scale.ratio:,.0f}, unscaled."
        return [Finding(NAME, Severity.WARNING, message, advice, evidence)]
    if scale.rms > LARGE:
        return [Finding(NAME, Severity.WARNING, f"{seen}, where about 1 is usual: not normalised.", advice, evidence)]
    if 0 < scale.rms_of_nonzero < SMALL:
        message = f"{seen}, where about 1 is usual: scaled down too far, perhaps twice."
        return [Finding(NAME, Severity.WARNING, message, advice, evidence)]
    centred = abs(scale.mean) <= 1 and 0.1 <= scale.rms <= 3
    severity = Severity.OK if centred else Severity.INFO
    return [Finding(NAME, severity, f"{seen}.", "" if centred else advice, evidence)]


PART = Part((NAME,), measure, judge)
