"""How many examples of which class there are in each split: class-size, imbalance, missing-class, split-ratio."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from lightning_rules.audit import Part
from lightning_rules.class_names import class_names, name_of
from lightning_rules.data.data_seen import DataSeen, SplitSample
from lightning_rules.deadline import Deadline
from lightning_rules.exhibit import Bars, Exhibit, Role, Section
from lightning_rules.finding import Finding, Severity
from lightning_rules.labels import draws
from lightning_rules.rule import NotApplicable

SWAPPED = 0.75  # of all examples held out: three times as many as are trained on
ENOUGH_A_CLASS = 5_000  # Goodfellow et al. (2016), section 1.2.2: acceptable results
SMALL = 100_000  # Goodfellow et al. (2016), section 5.3.1: below about this, one split is noisy
UNEVEN = 10.0  # ratio of the largest to the smallest class that is told
RARER = 8.0  # a class this many times rarer in training than in validation is an alarm
NOISE = 5.0  # standard errors of the difference of two shares
EXPECTED = 5.0  # examples of a missing class that the other split makes one expect
SURELY = 20.0
SHOWN = 14  # classes in a figure
MOST_CLASSES = 0.5  # distinct integer labels an example, above which they are ids or counts, not classes


@dataclass(frozen=True)
class Counts:
    """Examples a class.

    Attributes:
        train: By label, in the training labels that were read.
        validation: By label; None without validation labels.
        train_size: Examples of the training set; None for a stream.
        validation_size: Examples of the validation set.
        train_whole: Whether all training labels were read.
        classes: Size of the loss's class dimension; 0 where unknown.
        softmax: Whether the loss picks one of ``classes``.
        handled: Whether the loss or the sampler weighs classes.
        used: Whether a loss is given these labels.
        names: Of the classes, in the order of their labels; empty where nobody says.
    """

    train: dict[int, int]
    validation: dict[int, int] | None
    train_size: int | None
    validation_size: int | None
    train_whole: bool
    classes: int = 0
    softmax: bool = False
    handled: bool = False
    used: bool = True
    names: list[str] = field(default_factory=list)


def measure(seen: DataSeen, deadline: Deadline) -> Counts:
    """Count the labels of both splits.

    Raises:
        NotApplicable: The training targets are no class labels.
    """
    calls, _ = seen.losses
    own = next((call for call in calls if call.own and call.kind in ("softmax", "sigmoid")), None)
    train = counted(seen.train, own is not None)
    if train is None or (calls and own is None and any(call.own for call in calls)):
        raise NotApplicable("the targets are no class labels.")
    validation = None if seen.validation is None else counted(seen.validation, own is not None)
    labels = seen.train.labels
    return Counts(
        train=train,
        validation=validation,
        train_size=seen.train.size,
        validation_size=None if seen.validation is None else seen.validation.size,
        train_whole=labels is not None and len(labels) == seen.train.size,
        classes=0 if own is None else own.classes,
        softmax=own is not None and own.kind == "softmax",
        handled=(own is not None and own.weighted) or _samples_by_weight(seen.train),
        used=own is not None or not calls,
        names=class_names(seen.view.trainer, [seen.train.loader]),
    )


def counted(sample: SplitSample, surely: bool) -> dict[int, int] | None:
    """Examples a class; None where the targets are no classes, one an example.

    Args:
        sample: A split.
        surely: Whether a loss for classes is given these targets, so that floats may be labels too.
    """
    labels = sample.labels
    if labels is None or labels.numel() != len(labels) or not len(labels):
        return None
    flat = labels.flatten()
    if flat.is_floating_point() and not (surely and _are_whole(flat)):
        return None
    values, counts = torch.unique(flat.long(), return_counts=True)
    if not surely and len(values) > max(2, MOST_CLASSES * len(flat)):
        return None
    return dict(zip(values.tolist(), counts.tolist(), strict=True))


def _are_whole(values: Tensor) -> bool:
    return bool((values == values.round()).all())


def _samples_by_weight(sample: SplitSample) -> bool:
    if sample.size is None:
        return False
    times = draws(sample.loader)
    return times is not None and bool((times[times > 0] != times.max()).any())


def judge(ranks: Sequence[Counts]) -> Iterator[Finding]:
    """Findings; labels are read alike on all ranks, or added up where each rank reads its own."""
    counts = _of_all(ranks)
    if not counts.used:
        return
    missing = list(_missing(counts))
    yield from missing or _rare(counts)
    if not missing and counts.validation is not None:
        yield Finding("missing-class", Severity.OK, f"All {len(counts.validation)} validation classes are trained.")
    yield _imbalance(counts)
    yield from _sizes(counts)


def _of_all(ranks: Sequence[Counts]) -> Counts:
    return ranks[0] if ranks[0].train_size is not None else _added(ranks)


def show(ranks: Sequence[Counts]) -> Iterator[Exhibit]:
    """The share of each class in each split, the commonest and the rarest where there are many."""
    counts = _of_all(ranks)
    if not counts.used:
        return
    splits: list[tuple[Role, dict[int, int]]] = [("train", counts.train), ("validation", counts.validation or {})]
    splits = [(role, known) for role, known in splits if known]
    labels = sorted({label for _, known in splits for label in known})
    by_size = sorted(labels, key=lambda label: -counts.train.get(label, 0))
    shown = labels if len(labels) <= SHOWN else [*by_size[: SHOWN // 2], *by_size[-(SHOWN - SHOWN // 2) :]]
    bars = [(label, role, known) for label in shown for role, known in splits]
    content = Bars(
        [name_of(counts.names, label) if role == splits[0][0] else "" for label, role, _ in bars],
        [100 * known.get(label, 0) / sum(known.values()) for label, _, known in bars],
        "share of the split (%)",
        [role for _, role, _ in bars],
    )
    read = " and ".join(f"{sum(known.values()):,} {role}" for role, known in splits)
    few = f" The {SHOWN // 2} commonest and rarest of {len(labels)} classes." if len(shown) < len(labels) else ""
    caption = f"Of {read} labels. Splits that differ were not drawn alike.{few}"
    rules = ["missing-class", "imbalance", "class-size"]
    yield Exhibit("class_balance", Section.DATA, "Class balance", caption, content, rules)


def _added(ranks: Sequence[Counts]) -> Counts:
    train: dict[int, int] = {}
    validation: dict[int, int] | None = None if ranks[0].validation is None else {}
    for rank in ranks:
        for label, count in rank.train.items():
            train[label] = train.get(label, 0) + count
        for label, count in (rank.validation or {}).items():
            if validation is not None:
                validation[label] = validation.get(label, 0) + count
    first = ranks[0]
    return Counts(train, validation, None, None, False, first.classes, first.softmax, first.handled, first.used)


def _missing(counts: Counts) -> Iterator[Finding]:
    """Classes that are validated and never trained."""
    train, validation = counts.train, counts.validation or {}
    seen, total = sum(train.values()), sum(validation.values())
    absent = {label: count for label, count in validation.items() if label not in train}
    if not absent:
        return
    expected = sum(absent.values()) / total * seen
    outside = counts.softmax and any(label < 0 or label >= counts.classes for label in absent)
    apart = len(absent) == len(validation)
    shown = _listed(absent)
    message = (
        f"{len(absent)} of {len(validation)} validation classes have no training example: {shown} "
        f"({sum(absent.values()):,} validation examples; about {expected:.0f} training examples were expected)."
    )
    advice = "Split the data anew, shuffled and stratified by class, and look whether the missing class was filtered."
    evidence = {"missing_classes": len(absent), "expected_examples": expected, "validation_classes": len(validation)}
    by_design = outside or (apart and not counts.softmax)
    by_chance = expected < (EXPECTED if counts.train_whole else SURELY)
    if by_design or by_chance:
        severity = Severity.INFO
    else:
        severity = Severity.ERROR if expected >= SURELY and counts.train_whole else Severity.WARNING
    yield Finding("missing-class", severity, message, advice, evidence)


def _rare(counts: Counts) -> Iterator[Finding]:
    """Classes of which training has far less than validation makes one expect."""
    train, validation = counts.train, counts.validation
    if not validation:
        return
    seen, total = sum(train.values()), sum(validation.values())
    even = 1 / len(validation)
    for label, count in validation.items():
        there, here = count / total, train.get(label, 0) / seen
        error = (there * (1 - there) / total + here * (1 - here) / seen) ** 0.5
        if there - here < NOISE * error or here * RARER > there or here > even / 2:
            continue
        message = (
            f"Class {label} is {there / max(here, 1e-9):.0f} times rarer in training ({train.get(label, 0)} of "
            f"{seen:,}) than in validation ({count} of {total:,}): the training set lost most of it."
        )
        advice = "Split the data anew, stratified by class, and look what filtered this class out of the training set."
        severity = Severity.INFO if counts.handled else Severity.WARNING
        yield Finding("missing-class", severity, message, advice, {"label": label, "train": here, "validation": there})


def _imbalance(counts: Counts) -> Finding:
    sizes = sorted(counts.train.items(), key=lambda pair: pair[1])
    (least, few), (most, many) = sizes[0], sizes[-1]
    ratio = many / max(1, few)
    evidence = {"ratio": ratio, "classes": len(sizes), "smallest": few, "largest": many}
    message = f"{len(sizes)} classes of {few:,} (class {least}) to {many:,} (class {most}) training examples"
    if counts.softmax and counts.classes > len(sizes):
        message += f"; the loss has {counts.classes} classes"
    if len(sizes) == 1:
        return Finding("imbalance", Severity.INFO, f"{message}: there is nothing to tell apart.", "", evidence)
    if ratio < UNEVEN:
        return Finding("imbalance", Severity.OK, f"{message}.", "", evidence)
    how = "weighed by the loss or the sampler" if counts.handled else "not weighed by loss or sampler"
    advice = (
        "" if counts.handled else "Report a metric per class; weigh the loss, or sample classes evenly, if it helps."
    )
    return Finding("imbalance", Severity.INFO, f"{message}, {ratio:.0f}:1, {how}.", advice, evidence)


def _sizes(counts: Counts) -> Iterator[Finding]:
    """Whether the data are many, in words of the textbook; few data are no fault."""
    size, held = counts.train_size, counts.validation_size
    if size is None:
        return
    smallest = min(counts.train.values())
    if counts.train_whole and smallest < ENOUGH_A_CLASS:
        message = f"The smallest class has {smallest:,} training examples; about 5,000 give acceptable results."
        advice = "Pretrained weights, augmentation and more examples help most here."
        yield Finding("class-size", Severity.INFO, message, advice, {"smallest": smallest})
    if size + (held or 0) < SMALL:
        message = f"{size + (held or 0):,} examples in all, under 100,000: a single split makes a noisy estimate."
        yield Finding("k-fold-when-small", Severity.INFO, message, "Cross-validate.", {"examples": size + (held or 0)})
    if held is not None:
        share = held / (size + held)
        message = f"{held:,} of {size + held:,} examples ({share:.0%}) are held out for validation."
        if share >= SWAPPED and size < 5_000:
            advice = "Look whether the splits were swapped, or most of the training set was lost on the way."
            yield Finding("split-ratio", Severity.WARNING, message, advice, {"share": share})
            return
        usual = 0.05 <= share <= 0.5 or held >= 5_000
        yield Finding("split-ratio", Severity.OK if usual else Severity.INFO, message, "", {"share": share})


def _listed(absent: dict[int, int]) -> str:
    shown = ", ".join(str(label) for label in sorted(absent)[:5])
    return shown + (", ..." if len(absent) > 5 else "")


PART = Part(("missing-class", "imbalance", "class-size", "k-fold-when-small", "split-ratio"), measure, judge, show)

__all__ = ["PART", "Counts", "counted", "judge", "measure"]
