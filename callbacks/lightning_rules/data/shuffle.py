"""Part of the data audit: examples come to the network well shuffled."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lightning_rules.audit import Part
from lightning_rules.batches import leaf_at
from lightning_rules.data.loader_order import has_indices, index_batches
from lightning_rules.deadline import Deadline
from lightning_rules.finding import Finding, Severity
from lightning_rules.labels import agree_with_items, labels_of
from lightning_rules.rule import NotApplicable
from lightning_rules.untouched import untouched

NAME = "shuffle"
BLOCKS = 64  # steps that are looked at, evenly spread over a pass
FEWEST = 3
SMALLEST = 8  # examples of a block; smaller steps are put together
LARGEST = 256  # of larger ones so many are looked at, evenly spread
SECONDS = 1.0  # for reading labels that can be had only with their inputs
GROUPED = 0.5  # variety of labels in a step over that of random ones: less is worth a word
SORTED = 0.3  # and less an alarm where nobody asked for it
ALL_ALIKE = 0.1  # and less an alarm even where a sampler of the user groups on purpose
IN_ORDER = 0.9  # rank correlation of numbers with their place in the pass
SIGMAS = 6.0
SHUFFLES = 20


@dataclass(frozen=True)
class Order:
    """The labels of some steps of a pass, in the order in which the network will see them.

    Attributes:
        way: How examples are chosen: ``"in order"`` of the set, as a ``"stream"`` gives them, or by a ``"sampler"``.
        fixed: Whether each pass takes the same order.
        labels: ``[steps, examples]``; None where labels are unknown.
        classes: Whether they are classes; else numbers.
        elsewhere: Labels of the validation split, where the beginning of a stream is all that was seen.
    """

    way: Literal["in order", "stream", "sampler"]
    fixed: bool
    labels: NDArray[Any] | None
    classes: bool = True
    elsewhere: NDArray[Any] | None = None


def measure(seen: Any, deadline: Deadline) -> Order:
    """The order of the labels in the training loader.

    Raises:
        NotApplicable: The run overfits some batches on purpose, or has no labels.
    """
    trainer = seen.view.trainer
    if trainer.overfit_batches:
        raise NotApplicable("overfit_batches trains on the same batches on purpose.")
    train = seen.train
    together = max(1, int(trainer.accumulate_grad_batches or 1))
    if not has_indices(train.loader):
        size = max(SMALLEST, together * (getattr(train.loader, "batch_size", None) or 32))
        labels, classes = _numbers(train.targets)
        validation = None if seen.validation is None else seen.validation.targets
        elsewhere = None if validation is None or not classes else _numbers(validation)[0].numpy()
        return Order("stream", False, _in_blocks(labels, size), classes, elsewhere)
    batches = index_batches(train.loader, epoch=0)
    flat = [index for batch in batches for index in batch]
    if not all(isinstance(index, (int, np.integer, Tensor)) for index in flat[:100]):
        raise NotApplicable("the sampler draws something else than indices.")
    flat = [int(index) for index in flat]
    fixed = len(batches) > 1 and index_batches(train.loader, epoch=1) == batches
    way: Literal["in order", "sampler"] = "in order" if flat == sorted(flat) else "sampler"
    size = max(SMALLEST, together * max(1, len(batches[0])))
    kept = np.unique(np.linspace(0, size - 1, min(LARGEST, size)).astype(int)).tolist()
    starts = _starts(len(flat), size)
    chosen = [[flat[start + place] for place in kept] for start in starts]
    found = _labels(train, chosen, deadline)
    if found is None:
        return Order(way, fixed, None)
    labels, classes = _numbers(found)
    return Order(way, fixed, labels.reshape(-1, len(kept)).numpy() if len(labels) else None, classes)


def _starts(count: int, size: int) -> list[int]:
    """Where the blocks begin, evenly spread, at multiples of their size."""
    blocks = count // size
    return [
        size * int(block) for block in np.unique(np.linspace(0, max(0, blocks - 1), min(BLOCKS, blocks)).astype(int))
    ]


def _in_blocks(labels: Tensor, size: int) -> NDArray[Any] | None:
    starts = _starts(len(labels), size)
    return np.stack([labels[start : start + size].numpy() for start in starts]) if starts else None


def _labels(train: Any, chosen: list[list[int]], deadline: Deadline) -> Tensor | None:
    """Labels of the examples of some steps, one after the other: from where they are kept, or read with the inputs."""
    if train.target_path is None or not chosen:
        return None
    dataset = train.dataset
    labels = labels_of(dataset, train.target_path)
    flat = torch.tensor(chosen).flatten()
    if labels is not None and agree_with_items(labels, dataset, train.target_path):
        return labels.detach().cpu()[flat]
    if train.whole and train.targets is not None and len(train.targets) == len(train.indices):
        place = {index: row for row, index in enumerate(train.indices)}
        if all(int(index) in place for index in flat):
            return torch.as_tensor(train.targets)[[place[int(index)] for index in flat]]
    return _read(dataset, train.target_path, chosen, deadline.within(SECONDS))


def _read(dataset: Any, path: tuple[Any, ...], chosen: list[list[int]], deadline: Deadline) -> Tensor | None:
    read: list[Tensor] = []
    with untouched(None, dataset):
        for block in [chosen[place] for place in np.random.default_rng(0).permutation(len(chosen))]:
            if deadline.left <= 0:
                break
            read.append(torch.stack([torch.as_tensor(np.asarray(leaf_at(dataset[index], path))) for index in block]))
    return torch.cat(read) if len(read) >= FEWEST else None


def _numbers(targets: Tensor | None) -> tuple[Tensor, bool]:
    """One number an example, and whether it is a class.

    Raises:
        NotApplicable: The targets are something else.
    """
    if targets is None:
        raise NotApplicable("the training examples have no labels that can be read.")
    targets = torch.as_tensor(targets).detach().cpu()
    if targets.dim() == 2 and targets.shape[1] > 1 and bool((targets.sum(1) == 1).all()) and bool((targets >= 0).all()):
        targets = targets.argmax(1)
    if targets.numel() != len(targets) or targets.is_complex():
        raise NotApplicable("the targets are neither classes nor single numbers.")
    targets = targets.flatten()
    kinds = len(np.unique(targets.numpy()))
    return targets.double(), kinds <= 2 or (not targets.is_floating_point() and kinds <= len(targets) // 4)


def judge(ranks: Sequence[Order]) -> Iterator[Finding]:
    """Whether a step sees as many kinds of labels as random ones would; one finding. Pure."""
    first = ranks[0]
    if first.labels is None or any(rank.labels is None for rank in ranks):
        yield _plain(first, "the labels are not known")
        return
    steps = min(len(rank.labels) for rank in ranks if rank.labels is not None)
    labels = np.concatenate([rank.labels[:steps] for rank in ranks if rank.labels is not None], 1)
    if steps < FEWEST:
        yield _plain(first, "a pass has too few steps to tell how labels lie")
        return
    measured, sure = _ratio(labels, first)
    if measured is None:
        yield _plain(first, "all labels are the same")
        return
    yield _finding(first, labels, measured if sure else max(measured, GROUPED), measured)


def _ratio(labels: NDArray[Any], order: Order) -> tuple[float | None, bool]:
    """The variety of labels within a step over that of random ones, and whether it is less for sure."""
    codes = _codes(labels, order)
    found, (dealt, noise) = _variety(codes), _dealt(codes, _variety)
    if order.way == "stream" and order.elsewhere is not None and len(order.elsewhere) > 1:
        # A sorted stream begins with one class: what there is besides is seen in validation.
        dealt = max(dealt, _variety(_codes(order.elsewhere[None], order)))
    if dealt <= 0:
        return None, False
    ratio, sure = found / dealt, dealt - found > SIGMAS * noise
    if order.classes:  # of many classes a sorted step holds several, but fewer than a random one
        kinds, (most, spread) = _kinds(labels), _dealt(labels[..., None], lambda dealt: _kinds(dealt[..., 0]))
        fewer = most - kinds > SIGMAS * spread
        ratio, sure = min((ratio, sure), (kinds / most, fewer)) if fewer else (ratio, sure)
    return ratio, sure


def _kinds(labels: NDArray[Any]) -> float:
    """How many classes a step holds, mean over steps."""
    ordered = np.sort(labels, 1)
    return float(1 + (ordered[:, 1:] != ordered[:, :-1]).sum(1).mean())


def _codes(labels: NDArray[Any], order: Order) -> NDArray[Any]:
    """Numbers by their rank, from 0 to 1; classes by the number of their kind, modulo 64."""
    kinds, places = np.unique(labels, return_inverse=True)
    places = places.reshape(labels.shape)
    if order.classes:
        return (
            np.eye(64, dtype=np.float32)[places % 64]
            if len(kinds) > 64
            else np.eye(len(kinds), dtype=np.float32)[places]
        )
    return (places / max(1, len(kinds) - 1))[..., None].astype(np.float32)


def _variety(codes: NDArray[Any]) -> float:
    """The variance within a step, unbiased, summed over codes, mean over steps (for classes, Gini's index)."""
    return float(codes.var(1, ddof=1).sum(1).mean())


def _dealt(codes: NDArray[Any], measured: Callable[[NDArray[Any]], float]) -> tuple[float, float]:
    """The same when labels are dealt to steps at random: mean and standard deviation."""
    generator = np.random.default_rng(0)
    flat = codes.reshape(-1, codes.shape[2])
    found = [measured(flat[generator.permutation(len(flat))].reshape(codes.shape)) for _ in range(SHUFFLES)]
    return float(np.mean(found)), float(np.std(found))


def _finding(order: Order, labels: NDArray[Any], ratio: float, measured: float) -> Finding:
    size = labels.shape[1]
    evidence = {"variety_over_random": measured, "steps": len(labels), "examples_a_step": size, "way": order.way}
    if order.classes:
        here, there = _kinds(labels), _dealt(labels[..., None], lambda dealt: _kinds(dealt[..., 0]))[0]
        seen = f"{size} examples of a step hold {here:.1f} classes on average, where random ones would hold {there:.1f}"
        if order.elsewhere is not None:
            seen = f"{size} examples of a step hold {here:.1f} of {len(np.unique(order.elsewhere))} classes on average"
        grouped = _is_sorted(labels) if order.way == "sampler" else True
    else:
        place = np.repeat(np.arange(len(labels)), size)
        rank = labels.ravel().argsort().argsort()
        correlation = float(abs(np.corrcoef(place, rank)[0, 1]))
        evidence["rank_correlation"] = correlation
        seen = (
            f"targets in {size} examples of a step vary {measured:.0%} as much as random ones, "
            f"and their order goes with their place in the pass by {correlation:.2f}"
        )
        grouped = correlation > IN_ORDER
    limit = ALL_ALIKE if order.way == "sampler" else SORTED
    if ratio < limit and grouped:
        message = f"The training loader gives its examples sorted by label: {seen}."
        return Finding(NAME, Severity.WARNING, message, ADVICE[order.way], evidence)
    if ratio < GROUPED:
        return Finding(NAME, Severity.INFO, f"The training loader gives labels in groups: {seen}.", GROUPS, evidence)
    if order.way == "in order" and order.fixed:
        message = f"The training loader takes the same order at each pass; in it labels lie mixed ({seen})."
        return Finding(NAME, Severity.INFO, message, "Set shuffle=True, unless the order is meant.", evidence)
    return Finding(NAME, Severity.OK, f"Labels come well mixed: {seen}.", evidence=evidence)


ADVICE = {
    "in order": "Set shuffle=True in the training DataLoader.",
    "stream": "Shuffle the stream: its shards, and a buffer of examples.",
    "sampler": "Let the sampler draw examples of all classes for each batch.",
}
GROUPS = "Set shuffle=True, unless the groups are meant."


def _is_sorted(labels: NDArray[Any]) -> bool:
    """Whether the commonest class of a step changes little more often than there are classes."""
    commonest = [np.unique(step, return_counts=True) for step in labels]
    leading = np.array([kinds[counts.argmax()] for kinds, counts in commonest])
    kinds = len(np.unique(leading))
    return len(leading) >= 2 * kinds and int((leading[1:] != leading[:-1]).sum()) <= 1.5 * (kinds - 1)


def _plain(order: Order, why: str) -> Finding:
    if order.way == "in order" and order.fixed:
        message = f"The training loader takes the same order at each pass; whether labels lie mixed is open: {why}."
        return Finding(NAME, Severity.INFO, message, "Set shuffle=True, unless the order is meant.")
    return Finding(NAME, Severity.OK, f"Nothing is known against the order of the examples: {why}.")


PART = Part((NAME,), measure, judge)
