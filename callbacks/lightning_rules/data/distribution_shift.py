"""Whether validation inputs enter the network like training inputs: same-distribution."""

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

NAME = "same-distribution"
OFFSET = 0.35  # root mean square, over features, of the difference of means in standard deviations, noise taken off
BEYOND_NOISE = 16.0  # and the mean square difference is this many times what chance makes: four standard errors even
# where all features move together
STRETCH = 0.47  # |log ratio| of standard deviations, median over features: a factor of 1.6
AUGMENTED = 0.7, 0.92  # the same two limits where training is augmented at random: 0.7 and a factor of 2.5
NOISE = 4.0  # standard errors
CLIP = 1.0  # standard deviations beyond which one feature counts no more: a single one is no shift of all
FEWEST = 16  # examples of each split
CONSTANT = 1e-6  # standard deviations below this part of the largest are of features that do not vary


@dataclass(frozen=True)
class Shift:
    """How the inputs of validation differ from those of training, over features.

    Attributes:
        train: Examples of training looked at.
        validation: Examples of validation looked at.
        features: Features that vary.
        offset: Mean square, over features, of the difference of means in pooled standard deviations, each cut
            off at 1.
        offset_by_chance: What chance alone makes it on average.
        stretch: Median over features of log(standard deviation in validation / in training).
        stretch_error: Its standard error.
        worst: The feature with the largest offset, position in the flattened input.
        worst_offset: Its difference of means in standard deviations.
        train_rms: Root mean square of all training inputs.
        validation_rms: Root mean square of all validation inputs.
        augmented: Whether training examples are augmented at random.
    """

    train: int
    validation: int
    features: int
    offset: float
    offset_by_chance: float
    stretch: float
    stretch_error: float
    worst: int
    worst_offset: float
    train_rms: float
    validation_rms: float
    augmented: bool


def measure(seen: DataSeen, deadline: Deadline) -> Shift:
    """Compare what enters the first layer in training with what enters it in validation.

    Raises:
        NotApplicable: There is no validation, or the inputs cannot be compared feature by feature.
    """
    if seen.validation is None:
        raise NotApplicable("the run has no validation loader that can be read.")
    if seen.view.trainer.overfit_batches:
        raise NotApplicable("the run overfits a few batches.")
    train, validation = seen.entered, seen.entered_in_validation
    if train.embeds or train.values is None or validation.values is None:
        raise NotApplicable("the inputs cannot be compared feature by feature.")
    if train.values.shape[1:] != validation.values.shape[1:] or train.layer != validation.layer:
        raise NotApplicable("training and validation inputs differ in shape.")
    augmented = train.augmented or not seen.train.repeats
    return shift_between(_finite(train.values), _finite(validation.values), augmented)


def _finite(values: Tensor) -> Tensor:
    return values[torch.isfinite(values.flatten(1)).all(1)].double()


def shift_between(train: Tensor, validation: Tensor, augmented: bool = False) -> Shift:
    """Differences of means and standard deviations, feature by feature.

    Args:
        train: ``[n, features]`` or ``[n, channels, ...]``, finite.
        validation: ``[m, features]`` or ``[m, channels, ...]``, finite.
        augmented: Whether training examples are augmented at random. Crops and turns move what stands at a place, so
            that pictures are then compared channel by channel.

    Raises:
        NotApplicable: There are too few examples, or no feature varies.
    """
    if min(len(train), len(validation)) < FEWEST:
        raise NotApplicable(f"fewer than {FEWEST} examples of a split can be compared.")
    examples = len(train), len(validation)
    train, validation = _features(train, augmented), _features(validation, augmented)
    spread, held = train.std(0), validation.std(0)
    pooled = ((spread.square() + held.square()) / 2).sqrt()
    varies = pooled > CONSTANT * pooled.max()
    if not bool(varies.any()):
        raise NotApplicable("no feature varies.")
    offsets = ((validation.mean(0) - train.mean(0)) / pooled.clamp_min(1e-30)) * varies
    both = varies & (spread > 0) & (held > 0)
    ratios = (held / spread)[both].log()
    errors = (_log_error(train[:, both], examples[0]) + _log_error(validation[:, both], examples[1])).sqrt()
    worst = int(offsets.abs().argmax())
    return Shift(
        train=examples[0],
        validation=examples[1],
        features=int(varies.sum()),
        offset=float(offsets.clamp(-CLIP, CLIP).square().sum() / varies.sum()),
        offset_by_chance=1 / examples[0] + 1 / examples[1],
        stretch=float(ratios.median()) if len(ratios) else 0.0,
        stretch_error=float(errors.median()) if len(errors) else 0.0,
        worst=worst,
        worst_offset=float(offsets[worst]),
        train_rms=float(train.square().mean().sqrt()),
        validation_rms=float(validation.square().mean().sqrt()),
        augmented=augmented,
    )


def _features(values: Tensor, augmented: bool) -> Tensor:
    """One column a feature; of augmented pictures one a channel, each place a row."""
    pictures = augmented and values.dim() > 3
    return values.movedim(1, -1).flatten(0, -2) if pictures else values.flatten(1)


def _log_error(values: Tensor, examples: int) -> Tensor:
    """Variance of the logarithm of each column's standard deviation: (kurtosis - 1) / 4n."""
    centred = values - values.mean(0)
    kurtosis = centred.pow(4).mean(0) / centred.square().mean(0).square().clamp_min(1e-60)
    return (kurtosis - 1).clamp_min(0) / (4 * examples)


def judge(ranks: Sequence[Shift]) -> list[Finding]:
    """One finding; the sets are read alike on all ranks."""
    shift = ranks[0]
    beyond = max(0.0, shift.offset - shift.offset_by_chance) ** 0.5
    evidence = {"offset": beyond, "offset_by_chance": shift.offset_by_chance**0.5, "stretch": shift.stretch,
                "worst_feature": shift.worst, "worst_offset": shift.worst_offset,
                "train_rms": shift.train_rms, "validation_rms": shift.validation_rms}  # fmt: skip
    advice = (
        "Preprocess both splits alike, with the statistics of the training set, and draw both from one distribution; "
        "augmentation belongs to training alone."
    )
    offset, stretch = AUGMENTED if shift.augmented else (OFFSET, STRETCH)
    if beyond > offset and shift.offset > BEYOND_NOISE * shift.offset_by_chance:
        message = (
            f"Validation inputs enter the network shifted by {beyond:.2g} standard deviations a feature (each "
            f"counted up to 1) against training (most: feature {shift.worst} by {shift.worst_offset:+.2g}; root mean "
            f"square {shift.validation_rms:.3g} against {shift.train_rms:.3g}): preprocessed otherwise, or other data."
        )
        return [Finding(NAME, Severity.WARNING, message, advice, evidence)]
    if abs(shift.stretch) > stretch + NOISE * shift.stretch_error:
        factor = torch.tensor(shift.stretch).exp()
        message = (
            f"Validation inputs vary {float(factor):.2g} times as much as training inputs, feature by feature "
            f"({shift.validation} and {shift.train} examples): scaled otherwise."
        )
        return [Finding(NAME, Severity.WARNING, message, advice, evidence)]
    message = (
        f"Validation inputs enter the network like training inputs: means differ by {shift.offset**0.5:.2g} standard "
        f"deviations a feature ({shift.offset_by_chance**0.5:.2g} by chance), scales by {abs(shift.stretch):.0%}."
    )
    return [Finding(NAME, Severity.OK, message, "", evidence)]


PART = Part((NAME,), measure, judge)
