"""Examples that occur more than once, within a split and across splits: no-leak, no-duplicates, conflicting-labels."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from lightning_rules.audit import Part
from lightning_rules.data.data_seen import DataSeen, SplitSample
from lightning_rules.data.stored_inputs import hashes, positions
from lightning_rules.deadline import Deadline
from lightning_rules.exhibit import Exhibit, Listing, Section
from lightning_rules.finding import Finding, Severity
from lightning_rules.rule import NotApplicable

WARNED = 0.01  # share of validation examples found in training, beyond what duplicates within training explain
CERTAIN = 0.2
FEWEST = 3  # validation examples found in training that are told as more than chance
FEW_DISTINCT = 0.2  # of the training examples: copies of so few are no oversampling
TOLD = 0.05  # share of duplicates within training that is told
CONFLICTS = 0.05  # share of training examples whose twin has another label
WIDE = 16  # values an input; narrower ones coincide by nature
LEVELS = 64  # distinct values among 100 inputs; rows of fewer (categories, bits) coincide by nature
NEIGHBOURS = 2048  # training examples among which nearest neighbours are looked for
QUERIES = 512
WIDEST = 4096  # values an input that distances are taken over
CLOSE = 0.25  # of the typical distance to the nearest neighbour


@dataclass(frozen=True)
class Twins:
    """How many examples have a twin; shares are 0..1.

    Attributes:
        looked_at: How much was looked at, in words.
        train: Training examples compared.
        validation: Validation examples compared; 0 without validation.
        doubled: Share of training examples with a twin in training.
        leaked: Share of validation examples with a twin in training.
        shared: Validation examples that are, by their index, the very training examples; None where not comparable.
        close: Share of training examples with a near twin in training; None where not measured.
        close_leaked: Share of validation examples with a near twin, and no exact one, in training.
        queried: Validation examples whose nearest neighbours were looked for.
        conflicting: Share of training examples whose twin has another label; None without class labels.
        targets: Whether examples have targets.
        width: Values an input; 0 where only names of files were compared.
        distinct: Distinct training inputs.
        levels: Distinct values within 100 training inputs.
    """

    looked_at: str
    train: int
    validation: int
    doubled: float
    leaked: float
    shared: int | None = None
    close: float | None = None
    close_leaked: float = 0.0
    queried: int = 0
    conflicting: float | None = None
    width: int = 0
    distinct: int = 2
    levels: int = 1000
    targets: bool = True


def measure(seen: DataSeen, deadline: Deadline) -> Twins:
    """Compare hashes of all examples where they lie in memory, else of the sample; then near neighbours of a sample.

    Raises:
        NotApplicable: A stream, or a set whose random transform hides what lies underneath.
    """
    train, validation = seen.train, seen.validation
    if train.size is None:
        raise NotApplicable("a stream's examples are not compared.")
    overfits = bool(seen.view.trainer.overfit_batches)
    validation = None if validation is None or validation.size is None or overfits else validation
    ours, theirs, underneath = _keys(train, validation)
    counts, known = Counter(ours), set(ours)
    near = _near(train, validation) if deadline.left > 2.0 else (None, 0.0, 0)
    whole = underneath or (train.whole and (validation is None or validation.whole))
    return Twins(
        looked_at="all examples" if whole else f"{train.says} (training)",
        train=len(ours),
        validation=len(theirs),
        doubled=sum(count for count in counts.values() if count > 1) / len(ours),
        leaked=sum(key in known for key in theirs) / max(1, len(theirs)),
        shared=None if validation is None else _shared(train, validation),
        close=near[0],
        close_leaked=near[1],
        queried=near[2],
        conflicting=_conflicting(train, ours),
        width=0 if train.inputs is None else train.inputs[0].numel(),
        distinct=len(counts),
        levels=0 if train.inputs is None else len(torch.unique(_rows(train.inputs, 100))),
        targets=train.targets is not None,
    )


def _keys(train: SplitSample, validation: SplitSample | None) -> tuple[list[int], list[int], bool]:
    """Hashes of the examples of both splits, of one kind; and whether they are of all examples."""
    stored = train.stored
    others = None if validation is None else validation.stored
    if stored is not None and (validation is None or (others is not None and _alike(stored, others))):
        return hashes(stored), [] if others is None else hashes(others), True
    for sample in (train, validation):
        if sample is not None and (sample.inputs is None or not sample.repeats):
            raise NotApplicable(
                f"the {sample.name} examples change from reading to reading (augmentation), and what lies underneath "
                "is not found."
                if sample.inputs is not None
                else f"the {sample.name} inputs are no tensors of one shape."
            )
    assert train.inputs is not None
    held = None if validation is None else validation.inputs
    return hashes(train.inputs), [] if held is None else hashes(held), False


def _alike(one: Any, other: Any) -> bool:
    """Whether equal bytes in both would mean equal examples."""
    if isinstance(one, list) or isinstance(other, list):
        return isinstance(one, list) and isinstance(other, list)
    return type(one) is type(other) and one.dtype == other.dtype and tuple(one.shape[1:]) == tuple(other.shape[1:])


def _shared(train: SplitSample, validation: SplitSample) -> int | None:
    """Examples that both splits take from one place of one data set."""
    (ours, mine), (theirs, held) = positions(train.dataset), positions(validation.dataset)
    if ours != theirs:
        return None
    mine = mine if train.drawn is None else mine[train.drawn]
    held = held if validation.drawn is None else held[validation.drawn]
    return int(torch.isin(held, mine).sum())


def _near(train: SplitSample, validation: SplitSample | None) -> tuple[float | None, float, int]:
    """Shares of examples with a near twin in training: of training, and of validation; and how many were queried."""
    if train.inputs is None or train.discrete or not train.repeats or len(train.inputs) < 100:
        return None, 0.0, 0
    base = _rows(train.inputs, NEIGHBOURS)
    if base.shape[1] > WIDEST or base.shape[1] < WIDE or not bool(torch.isfinite(base).all()):
        return None, 0.0, 0
    scale = _scale(train.inputs.flatten(1))
    base = base / scale
    asked = torch.arange(len(base))[:: max(1, len(base) // QUERIES)][:QUERIES]
    itself = torch.cdist(base[asked], base)
    itself[torch.arange(len(asked)), asked] = torch.inf
    nearest = itself.min(1).values
    typical = float(nearest.median())
    close = float(((nearest > 0) & (nearest < CLOSE * typical)).float().mean())
    if validation is None or validation.inputs is None or validation.inputs.shape[1:] != train.inputs.shape[1:]:
        return close, 0.0, 0
    held = _rows(validation.inputs, QUERIES) / scale
    distance = torch.cdist(held, base).min(1).values
    exact = distance <= 1e-5 * typical
    return close, float((~exact & (distance < CLOSE * typical)).float().mean()), len(held)


def _scale(values: Tensor) -> Tensor:
    """What distances are measured in: each value's standard deviation, or a tenth of that of all where it is less."""
    spread = values.std(0)
    return spread.clamp_min(max(1e-12, 0.1 * float(spread.square().mean().sqrt())))


def _rows(inputs: Tensor, count: int) -> Tensor:
    return inputs[:: max(1, len(inputs) // count)][:count].flatten(1)


def _conflicting(train: SplitSample, keys: list[int]) -> float | None:
    """Share of training examples whose twin has another label."""
    whole = train.labels if len(keys) == train.size else train.targets
    if whole is None or whole.is_floating_point() or whole.numel() != len(keys):
        return None
    labels = whole.flatten().tolist()
    named: dict[int, set[int]] = {}
    for key, label in zip(keys, labels, strict=True):
        named.setdefault(key, set()).add(label)
    return sum(len(named[key]) > 1 for key in keys) / len(keys)


def judge(ranks: Sequence[Twins]) -> Iterator[Finding]:
    """Findings; data sets are read alike on all ranks."""
    twins = ranks[0]
    if twins.distinct < 2:
        return  # constant inputs: no-junk says so
    if twins.validation:
        yield _leak(twins)
    yield from _doubled(twins)
    yield from _conflicts(twins)


def _leak(twins: Twins) -> Finding:
    held = twins.validation
    evidence = {"leaked": twins.leaked, "doubled_in_training": twins.doubled, "shared_indices": twins.shared,
                "close_leaked": twins.close_leaked, "close_in_training": twins.close}  # fmt: skip
    advice = "Split by example (or by whom it comes from) before anything is copied or augmented; drop those in both."
    if twins.shared:
        message = f"{twins.shared:,} validation examples stand in the training set too, by their index."
        return Finding("no-leak", Severity.ERROR, message, advice, evidence)
    beyond = twins.leaked - twins.doubled - 3 * (twins.doubled * (1 - twins.doubled) / held) ** 0.5
    found = round(twins.leaked * held)
    message = (
        f"{found:,} of {held:,} validation examples ({twins.leaked:.1%}) are copies of training examples "
        f"({twins.looked_at} compared); within training {twins.doubled:.1%} have a copy."
    )
    if found >= FEWEST and beyond > WARNED:
        severity = Severity.ERROR if beyond > CERTAIN else Severity.WARNING
        # Sets without targets are often drawn from a seed, for a demonstration, one like the other.
        return Finding("no-leak", severity if twins.targets else Severity.INFO, message, advice, evidence)
    if found:
        return Finding("no-leak", Severity.INFO, message, "Drop them from one of the splits.", evidence)
    usual = twins.close or 0.0
    margin = 3 * (usual * (1 - usual) / max(1, twins.queried)) ** 0.5
    if twins.close_leaked * twins.queried >= FEWEST and twins.close_leaked - usual - margin > 2 * WARNED:
        message = (
            f"{twins.close_leaked:.1%} of {twins.queried} validation examples are all but copies of a training example "
            f"(closer than a quarter of the usual distance of neighbours); within training {usual:.1%} are."
        )
        return Finding("no-leak", Severity.WARNING, message, advice, evidence)
    return Finding("no-leak", Severity.OK, f"No validation example is in training ({twins.looked_at}).", "", evidence)


def _doubled(twins: Twins) -> Iterator[Finding]:
    evidence = {"doubled": twins.doubled, "distinct": twins.distinct, "compared": twins.train}
    message = f"{twins.doubled:.1%} of {twins.train:,} training examples have a copy ({twins.looked_at} compared)."
    if twins.doubled <= TOLD:
        yield Finding("no-duplicates", Severity.OK, message, "", evidence)
        return
    few = twins.distinct < FEW_DISTINCT * twins.train
    if few and twins.validation and twins.leaked < 0.5 and twins.width >= WIDE:  # else copies are in the data's nature
        message = (
            f"{twins.train:,} training examples are copies of {twins.distinct:,} ({twins.looked_at} compared), and "
            f"only {twins.leaked:.0%} of the validation examples are among these: training sees too few."
        )
        advice = "Look for an index that is cut, divided or ignored in __getitem__, or for a batch that is stored once."
        yield Finding("no-duplicates", Severity.WARNING, message, advice, evidence)
        return
    yield Finding("no-duplicates", Severity.INFO, message, "Drop copies, unless they are wanted.", evidence)


def _conflicts(twins: Twins) -> Iterator[Finding]:
    if not twins.conflicting:
        return
    message = f"{twins.conflicting:.1%} of {twins.train:,} training examples have a copy with another label."
    by_nature = 0 < twins.width < WIDE or twins.levels < LEVELS or twins.distinct < 0.5 * twins.train
    alarm = twins.conflicting > CONFLICTS and not by_nature
    severity = Severity.WARNING if alarm else Severity.INFO
    advice = "Look at these pairs: one label of each is wrong, or the input lacks what tells them apart."
    yield Finding("conflicting-labels", severity, message, advice, {"conflicting": twins.conflicting})


def show(ranks: Sequence[Twins]) -> Iterator[Exhibit]:
    """How many examples of each split have a copy in training."""
    twins = ranks[0]
    rows = [["training", f"{twins.train:,}", _counted(twins.doubled, twins.train), _share(twins.close)]]
    if twins.validation:
        near = twins.close_leaked if twins.queried else None
        leaked = _counted(twins.leaked, twins.validation)
        rows.append(["validation", f"{twins.validation:,}", leaked, _share(near)])
    columns = ["split", "compared", "with a copy in training", "with a near copy in training"]
    caption = f"Copies in validation make the score too good; of what was read: {twins.looked_at}."
    rules = ["no-leak", "no-duplicates", "conflicting-labels"]
    yield Exhibit("overlap", Section.DATA, "Overlap of the splits", caption, Listing(columns, rows), rules)


def _counted(share: float, examples: int) -> str:
    return f"{round(share * examples):,} ({share:.1%})"


def _share(share: float | None) -> str:
    return "not measured" if share is None else f"{share:.1%}"


PART = Part(("no-leak", "no-duplicates", "conflicting-labels"), measure, judge, show)
