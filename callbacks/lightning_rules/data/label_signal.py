"""Do the labels say anything about the inputs, and the same in both splits? Measured by quick probes, then judged."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from lightning_rules.data.probe_targets import PER_CLASS, Labels
from lightning_rules.data.quick_probe import (
    Features,
    Probed,
    agreement,
    clusters,
    features_of,
    fitted,
    judged,
    named,
    probe,
    targets_as_columns,
)
from lightning_rules.finding import Finding, Severity
from lightning_rules.rule import NotApplicable

NAME = "label-suspects"
FEWEST = 40  # examples; below that no probe knows anything
NOTHING = 3.0  # standard deviations; a probe below that found nothing
SURE = 4.0  # and above that it certainly did
CLUSTERED = 0.87  # distance to the nearest example over that in noise: digits 0.60, breast cancer 0.84, noise 0.94 up
CLOSE = 0.5  # the same over the distance of any two
WEAKEST = {True: 0.15, False: 0.2}  # for two classes, for more: a gain that a probe would have to see for sure
POWER = 4.5  # standard deviations that a split would show if its labels were as good as the other's
GOOD = 0.3  # gain of a probe that knows the labels of one split
MEANS = 0.6  # share of a class that has to look like another one


@dataclass(frozen=True)
class SplitSignal:
    """What quick probes can tell of the labels of one split.

    Attributes:
        examples: How many were looked at.
        classes: How many classes; 0 for numbers.
        probe: The best probe.
        z: The largest evidence of all probes, in standard deviations; see :class:`~quick_probe.Probed`.
        gain: The largest gain.
        noise: The standard deviation of that gain when labels are dealt at random.
        repeats: Whether reading an example again gives the same inputs.
    """

    examples: int
    classes: int
    probe: str
    z: float
    gain: float
    noise: float
    repeats: bool = True


@dataclass(frozen=True)
class Transfer:
    """What a probe fitted to the training split says of the validation split.

    Attributes:
        gain: As in :class:`SplitSignal`; negative where it is worse than chance.
        z: As there.
        looks_like: For each validation class the training class that it looks like most, and the share of it that does.
    """

    gain: float
    z: float
    looks_like: tuple[tuple[str, str, float, int], ...] = ()


@dataclass(frozen=True)
class Signal:
    """Both splits, and how they agree.

    Attributes:
        train: The training split.
        validation: The validation split; None where there is none that can be probed.
        transfer: From one to the other.
        clustered: Distance to the nearest example over that in noise of the same covariance.
        close: Distance to the nearest example over that of any two.
        pooled: Both splits as one.
    """

    train: SplitSignal
    validation: SplitSignal | None
    transfer: Transfer | None
    clustered: float
    close: float
    pooled: SplitSignal


def measure(inputs: list[Tensor], labels: Labels, repeats: bool = True) -> tuple[Signal, list[Probed]]:
    """Probe both splits.

    Args:
        inputs: Of the training split, and of the validation split where there is one, ``[n, ...]``, float; only the
            examples that have labels.
        labels: Their labels.
        repeats: Whether reading a training example again gives the same inputs.

    Returns:
        What was seen, and the probes of the training split.

    Raises:
        NotApplicable: There are too few examples, or the inputs do not vary.
    """
    if len(inputs[0]) < FEWEST:
        raise NotApplicable(f"{len(inputs[0])} labelled training examples are too few for a probe.")
    inputs = inputs[: 2 if len(inputs) > 1 and len(inputs[1]) >= FEWEST // 2 else 1]
    features = features_of(*inputs)
    if not features[0]["neighbours"].shape[1]:
        raise NotApplicable("the inputs do not vary.")
    classes = len(labels.names)
    probed = [probe(part, values, classes) for part, values in zip(features, labels.values, strict=False)]
    train = _signal(probed[0], len(inputs[0]), classes, repeats)
    together = {name: torch.cat([part[name] for part in features]) for name in features[0]}
    close = clusters(together)
    if len(inputs) == 1:
        return Signal(train, None, None, *close, train), probed[0]
    everything = torch.cat(labels.values)
    pooled = _signal(probe(together, everything, classes), len(everything), classes, repeats)
    validation = _signal(probed[1], len(inputs[1]), classes, True)
    transfer = _transfer(train.probe, features, labels)
    return Signal(train, validation, transfer, *close, pooled), probed[0]


def _signal(probed: list[Probed], examples: int, classes: int, repeats: bool) -> SplitSignal:
    known = max(probed, key=lambda one: one.gain)
    strongest = max((one.z for one in probed), key=abs)  # parity: the nearest examples are of the other class
    return SplitSignal(examples, classes, known.probe, strongest, known.gain, known.noise, repeats)


def _transfer(name: str, features: list[Features], labels: Labels) -> Transfer:
    """Fit to the training split, and read the validation split."""
    classes = len(labels.names)
    train, other = (targets_as_columns(values, classes) for values in labels.values)
    scores = fitted(name, features[0], train)(features[1])
    found = judged(name, scores, other, None, mutual=False)
    if not classes:
        return Transfer(found.gain, found.z)
    said = named(scores, train.mean(0))
    looks = []
    for label in torch.unique(labels.values[1]).tolist():
        told = torch.bincount(said[labels.values[1] == label], minlength=classes)
        like = int(told.argmax())
        looks.append((labels.names[label], labels.names[like], float(told[like] / told.sum()), int(told.sum())))
    return Transfer(found.gain, agreement(scores, other), tuple(looks))


def judge(seen: Signal) -> Iterator[Finding]:
    """What the signal says of the labels; one finding. Pure."""
    evidence: dict[str, float | int | str | bool | None] = {
        "examples": seen.train.examples,
        "gain": seen.train.gain,
        "z": seen.train.z,
        "probe": seen.train.probe,
        "nearest_over_noise": seen.clustered,
    }
    if seen.validation is not None and seen.transfer is not None:
        evidence |= {"validation_gain": seen.validation.gain, "validation_z": seen.validation.z}
        evidence |= {"transfer_gain": seen.transfer.gain}
    severity, message, advice = _told(seen)
    yield Finding(NAME, severity, message, advice, evidence)


def _told(seen: Signal) -> tuple[Severity, str, str]:
    train, validation, transfer = seen.train, seen.validation, seen.transfer
    if validation is not None and transfer is not None:
        moved = _moved(seen, validation, transfer)
        if moved:
            return Severity.ERROR, moved, "Make both splits number the classes alike, in one place."
        stranger = transfer.gain < 0.5 * max(train.gain, validation.gain)
        if stranger and _only(validation, train):
            return Severity.ERROR, _says_nothing("Training", train, "validation", validation), SHUFFLED
        if stranger and _only(train, validation):
            return Severity.ERROR, _says_nothing("Validation", validation, "training", train), SHUFFLED
        noisy = _noisy(train, validation, transfer)
        if noisy:
            return Severity.WARNING, noisy, "Look at the examples that this rule lists, and at where labels come from."
    if _none_at_all(seen):
        message = (
            "Labels say nothing about the inputs: the inputs form clusters (the nearest example is "
            f"{seen.clustered:.0%} as far as in noise), yet probes do no better than labels dealt at random "
            f"{_numbers(seen.pooled)}."
        )
        return Severity.ERROR, message, SHUFFLED
    if abs(seen.pooled.z) < NOTHING and abs(train.z) < NOTHING:
        message = f"No quick probe finds the labels in the inputs {_numbers(train)}; hard tasks look like that too."
        return Severity.INFO, message, "Look at some examples beside their labels, if this task should be easy."
    return Severity.OK, f"A quick probe finds the labels in the inputs {_numbers(train)}.", ""


SHUFFLED = "Look for inputs and labels that were shuffled, sorted, filtered or shifted apart from one another."


def _numbers(split: SplitSignal) -> str:
    way = "of the way from chance to certainty" if split.classes else "correlation"
    amount = f"{max(0.0, split.gain):.0%}" if split.classes else f"{split.gain:.2f}"
    return f"({amount} {way}, {abs(split.z):.1f} standard deviations, on {split.examples:,} examples)"


def _only(one: SplitSignal, other: SplitSignal) -> bool:
    """Whether the labels of one split are known for sure, and those of the other not at all, though they could be.

    The evidence for the same labels grows with the square root of the number of examples.
    """
    known = one.z > SURE and one.gain > GOOD
    could = one.z * (other.examples / one.examples) ** 0.5 > POWER
    return known and could and abs(other.z) < NOTHING and other.gain < 0.5 * one.gain


def _says_nothing(name: str, nothing: SplitSignal, other: str, known: SplitSignal) -> str:
    return (
        f"{name} labels say nothing about their inputs {_numbers(nothing)}, while {other} labels do {_numbers(known)}."
    )


def _moved(seen: Signal, validation: SplitSignal, transfer: Transfer) -> str:
    """Classes that mean another one in validation, as a sentence; empty where there are none."""
    if not (seen.train.classes and seen.train.gain > 0.5 and seen.train.z > SURE and validation.z > SURE):
        return ""
    moved = [
        (given, like)
        for given, like, share, count in transfer.looks_like
        if share > MEANS and count >= PER_CLASS and given != like
    ]
    distinct = len({like for _, like in moved}) == len(moved)
    others = {like for given, like, share, _ in transfer.looks_like if given == like and share > MEANS}
    if len(moved) < 2 or not distinct or others & {like for _, like in moved}:
        return ""
    pairs = ", ".join(f"validation's {given} looks like training's {like}" for given, like in moved[:5])
    more = f", and {len(moved) - 5} more" if len(moved) > 5 else ""
    return f"Labels mean different classes in training and validation: {pairs}{more}."


def _noisy(train: SplitSignal, validation: SplitSignal, transfer: Transfer) -> str:
    """A sentence where training labels are far less sure than what is learned from them; else empty."""
    if not train.classes or not train.repeats or train.z < SURE or transfer.gain < 0.7:
        return ""
    variance = train.gain * (1 - train.gain) / train.examples
    variance += max(0.05, transfer.gain * (1 - transfer.gain)) / validation.examples
    if transfer.gain - train.gain < max(0.15, 4 * variance**0.5):
        return ""
    return (
        f"Many training labels look wrong: a probe fitted to them is right for validation ({transfer.gain:.0%} of the "
        f"way from chance to certainty), yet among training examples left out it agrees with {train.gain:.0%} only."
    )


def _none_at_all(seen: Signal) -> bool:
    """Whether near examples do not share labels, in data where they should."""
    pooled = seen.pooled
    splits = (pooled, seen.train, *([seen.validation] if seen.validation is not None else []))
    power = 2 * pooled.noise < WEAKEST[pooled.classes == 2]
    structured = seen.clustered < CLUSTERED and seen.close < CLOSE
    return bool(pooled.classes) and structured and power and all(abs(split.z) < NOTHING for split in splits)
