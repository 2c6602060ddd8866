"""Whether targets have the type, range and scale that the loss expects: target-type, target-scale."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch

from lightning_rules.audit import Part
from lightning_rules.data.data_seen import DataSeen
from lightning_rules.data.network_seen import LossFacts
from lightning_rules.deadline import Deadline
from lightning_rules.finding import Finding, Severity
from lightning_rules.rule import NotApplicable

TYPE, SCALE = "target-type", "target-scale"
LARGE = 10.0  # standard deviation of the targets
FAR = 30.0  # their root mean square: logarithms of prices, 12 or so, are learnt by a bias
SMALL = 0.005  # standard deviation of the targets
SCALED = 5.0  # an output whose values spread at least a fifth as far as the targets is scaled to them
OUT_OF_BOUNDS = (
    "out of bounds",
    "all elements of target should be",
    "device-side assert",
    "expected scalar type Long",
    "expected target dtype",
)


@dataclass(frozen=True)
class TargetsSeen:
    """What losses and labels say.

    Attributes:
        calls: The losses of one training step.
        failure: Why the step failed; empty where it did not.
        lowest: Least label of the whole training set, where labels could be read; None elsewhere.
        highest: Greatest label.
    """

    calls: tuple[LossFacts, ...]
    failure: str
    lowest: float | None
    highest: float | None


def measure(seen: DataSeen, deadline: Deadline) -> TargetsSeen:
    """Look at what the losses of one step are called with, and at the labels of the whole set.

    Raises:
        NotApplicable: The step calls no loss function of torch.
    """
    calls, failure = seen.losses
    if not calls and not failure:
        raise NotApplicable("training_step calls none of torch's loss functions.")
    labels = seen.train.labels
    finite = None if labels is None else labels.double()[torch.isfinite(labels.double())]
    if finite is None or not len(finite):
        return TargetsSeen(calls, failure, None, None)
    return TargetsSeen(calls, failure, float(finite.min()), float(finite.max()))


def judge(ranks: Sequence[TargetsSeen]) -> Iterator[Finding]:
    """Findings on each loss; the sets are read alike on all ranks."""
    seen = ranks[0]
    if seen.failure:
        yield _failed(seen)
        return
    wrong = [finding for call in seen.calls for finding in _type(call, seen)]
    yield from wrong
    if not wrong:
        ranges = "; ".join(f"{call.function}: {call.lowest:.3g} to {call.highest:.3g}" for call in seen.calls)
        yield Finding(TYPE, Severity.OK, f"Targets are what their losses take ({ranges}).")
    for call in seen.calls:
        if call.kind in ("mean", "median") and call.own:
            yield _scale(call)


def _failed(seen: TargetsSeen) -> Finding:
    ends = any(sign in seen.failure for sign in OUT_OF_BOUNDS)
    where = "" if seen.lowest is None else f" (training labels are {seen.lowest:g} to {seen.highest:g})"
    message = f"training_step failed on a batch of training examples with {seen.failure}{where}"
    if ends:
        advice = (
            "Give labels from 0 to classes - 1 to a loss for classes, 0 to 1 to a binary one, of the type it takes."
        )
        return Finding(TYPE, Severity.ERROR, message, advice)
    return Finding(TYPE, Severity.INFO, message)


def _type(call: LossFacts, seen: TargetsSeen) -> Iterator[Finding]:
    lowest, highest = call.lowest, call.highest
    if call.own and seen.lowest is not None and seen.highest is not None and not (call.floating and call.classes > 1):
        lowest, highest = min(lowest, seen.lowest), max(highest, seen.highest)
    evidence: dict[str, float | str] = {
        "loss": call.function,
        "lowest": lowest,
        "highest": highest,
        "classes": call.classes,
    }
    if call.kind == "sigmoid" and (lowest < 0 or highest > 1):
        signed = lowest == -1 and highest == 1
        message = f"{call.function} is given targets from {lowest:g} to {highest:g}, and expects 0 to 1."
        advice = "Map -1 to 0: (target + 1) / 2." if signed else "Scale the targets to 0 to 1, or use another loss."
        yield Finding(TYPE, Severity.ERROR, message, advice, evidence)
    if call.kind != "softmax":
        return
    if not call.floating:
        below = lowest < 0 and lowest != call.ignored
        if below or (highest >= call.classes and highest != call.ignored):
            message = f"{call.function} has {call.classes} classes, and labels go from {lowest:g} to {highest:g}."
            advice = "Number the classes from 0 to classes - 1, or give the last layer as many outputs as there are."
            yield Finding(TYPE, Severity.ERROR, message, advice, evidence)
    elif lowest < 0:
        message = f"{call.function} is given probabilities down to {lowest:g}."
        yield Finding(TYPE, Severity.ERROR, message, "Soft targets are at least 0 and add up to 1.", evidence)
    elif call.uneven_rows > 0:
        message = (
            f"{call.function} is given soft targets that do not add up to 1 for {call.uneven_rows:.0%} of the examples "
            f"(values up to {highest:g})."
        )
        advice = "Normalise them; for several labels an example use binary_cross_entropy_with_logits."
        yield Finding(TYPE, Severity.WARNING, message, advice, evidence)


def _scale(call: LossFacts) -> Finding:
    """Whether regression targets are of a scale that a fresh network reaches."""
    evidence = {"target_rms": call.target_rms, "target_std": call.target_std, "output_std": call.output_std,
                "error_rms": call.error_rms}  # fmt: skip
    seen = (
        f"{call.function} is given targets with root mean square {call.target_rms:.3g} and standard deviation "
        f"{call.target_std:.3g}; the network's outputs spread by {call.output_std:.3g}"
    )
    advice = "Standardise the targets with mean and standard deviation of the training set, and scale predictions back."
    far = call.error_rms > LARGE and (call.target_std > LARGE or call.target_rms > FAR)
    if far and call.target_std > 0 and call.output_std * SCALED < call.target_rms:
        return Finding(SCALE, Severity.WARNING, f"{seen}: the targets are not scaled.", advice, evidence)
    if 0 < call.target_std < SMALL and call.target_rms < 10 * SMALL and call.output_std > 20 * call.target_std:
        message = f"{seen}: the targets are so small that the loss says little."
        return Finding(SCALE, Severity.WARNING, message, advice, evidence)
    return Finding(SCALE, Severity.OK, f"{seen}.", "", evidence)


PART = Part((TYPE, SCALE), measure, judge)
