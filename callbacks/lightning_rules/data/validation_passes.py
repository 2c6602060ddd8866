"""Part of the data audit: two passes over the validation set are the same."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import RandomSampler
from torch.utils.data.distributed import DistributedSampler

from lightning_rules.audit import Part
from lightning_rules.batches import leaf_at, leaves
from lightning_rules.data.loader_order import has_indices, seeded
from lightning_rules.deadline import Deadline
from lightning_rules.finding import Finding, Severity
from lightning_rules.rule import NotApplicable
from lightning_rules.untouched import untouched
from lightning_rules.view import View

NAME = "validation-passes"
READ = 12  # examples that are read twice, and rows of the batch that goes through the step twice
SECONDS = 1.0
SAME = 0.75  # distance of two readings over that of two examples: above it, little of the example is left


@dataclass(frozen=True)
class Passes:
    """What one rank saw of two passes.

    Attributes:
        shuffled: Whether the order is drawn anew at each pass.
        read: Examples that were read twice.
        changed: How many of them came out differently.
        distance: Root mean square of the change, over that between different examples.
        target_changes: Whether targets changed too, or are as large as the inputs: then noise is part of the task.
        where: Where the change comes from: ``"data set"`` or ``"step"`` (a transfer hook, or ``validation_step``).
    """

    shuffled: bool
    read: int
    changed: int
    distance: float
    target_changes: bool
    where: str = "data set"


def measure(seen: Any, deadline: Deadline) -> Passes:
    """Read some validation examples twice, and let a batch enter the network twice, with other random numbers.

    Raises:
        NotApplicable: There is no validation set, or it cannot be read twice.
    """
    view: View = seen.view
    if not view.validation_loaders:
        raise NotApplicable("the run has no validation loader.")
    loader = view.validation_loaders[0]
    if not has_indices(loader):
        raise NotApplicable("the validation set is a stream, whose examples cannot be read twice one by one.")
    shuffled = _shuffles(loader)
    inputs, targets = _places(view, loader)
    pairs = _twice(loader.dataset, deadline.within(SECONDS))
    if inputs is None or not pairs:
        return Passes(shuffled, 0, 0, 0.0, False)
    found = _compared([_parts(one, inputs) for one, _ in pairs], [_parts(other, inputs) for _, other in pairs])
    read, changed, distance = found
    task = targets is None or any(_of_task(one, other, inputs, targets) for one, other in pairs)
    if changed == 0 and not task:
        entering = _entering(view, deadline.within(SECONDS))
        if entering is not None:
            return Passes(shuffled, *_compared(*entering), False, "step")
    return Passes(shuffled, read, changed, distance, task)


def _shuffles(loader: Any) -> bool:
    sampler = getattr(loader.batch_sampler, "sampler", loader.sampler)
    return isinstance(sampler, RandomSampler) or (isinstance(sampler, DistributedSampler) and sampler.shuffle)


def _places(view: View, loader: Any) -> tuple[Any, Any]:
    """Paths in an example: of its largest floating input, and of its target."""
    with untouched(None, loader):
        example = loader.dataset[0]
    inputs, targets = view.split(example)
    floats = [leaf for _, leaf in leaves(inputs) if leaf.is_floating_point() and leaf.numel() > 1]
    main = max(floats, key=lambda leaf: leaf.numel(), default=None)
    path = next((path for path, leaf in leaves(example) if leaf is main), None) if main is not None else None
    if main is None or targets is None:
        return path, None
    return path, next((p for p, leaf in leaves(example) if any(leaf is t for _, t in leaves(targets))), ())


def _twice(dataset: Any, deadline: Deadline) -> list[tuple[Any, Any]]:
    """Examples evenly spread over a set, each read with two seeds."""
    step = max(1, len(dataset) // READ)
    pairs = []
    with untouched(None, dataset):
        for place, index in enumerate(list(range(0, len(dataset), step))[:READ]):
            if deadline.left <= 0:
                break
            with seeded(2 * place):
                one = dataset[index]
            with seeded(2 * place + 1):
                pairs.append((one, dataset[index]))
    return pairs


def _parts(example: Any, path: tuple[Any, ...]) -> Tensor:
    part: Tensor = leaf_at(example, path)
    return part.detach().cpu().double().nan_to_num()


def _of_task(one: Any, other: Any, inputs: tuple[Any, ...], targets: tuple[Any, ...]) -> bool:
    """Whether noise is part of the task: the target changes too, or is of the input's kind (denoising)."""
    if targets == ():
        return False  # labels that are plain numbers
    before, after = leaf_at(one, targets), leaf_at(other, targets)
    large = before.numel() > 1 and before.is_floating_point() and 2 * before.numel() >= leaf_at(one, inputs).numel()
    return bool(large or before.shape != after.shape or not torch.equal(before.nan_to_num(), after.nan_to_num()))


def _compared(ones: Sequence[Tensor], others: Sequence[Tensor]) -> tuple[int, int, float]:
    """How many were read, how many of them changed, and by how much, over the difference between two examples.

    The lesser of two distances counts: between values place by place, and between sorted values, which flips and
    shifts leave alone.
    """
    pairs = [(one.nan_to_num(), other.nan_to_num()) for one, other in zip(ones, others, strict=True)]
    changed = [one.shape != other.shape or not torch.equal(one, other) for one, other in pairs]
    alike = [(one, other) for one, other in pairs if one.shape == other.shape == pairs[0][0].shape]
    if not any(changed) or len(alike) < 2:
        return len(pairs), sum(changed), 0.0
    first, second = (torch.stack([pair[place].flatten() for pair in alike]) for place in (0, 1))
    moved = _change(first, second) if first.shape[1] > 1 else 1.0
    by_value = _change(first.sort(1).values, second.sort(1).values) if first.shape[1] > 1 else 1.0
    return len(pairs), sum(changed), min(moved, by_value)


def _change(first: Tensor, second: Tensor) -> float:
    """How far two readings of an example are apart, over how far two examples are; rows are examples."""
    apart = torch.pdist(first).square().mean()
    return float(((first - second).square().sum(1).mean() / apart.clamp(min=1e-12)).sqrt().clamp(max=1.0))


def _entering(view: View, deadline: Deadline) -> tuple[list[Tensor], list[Tensor]] | None:
    """What enters the first layer for one validation batch, twice; None where the step noises its targets too."""
    started = time.monotonic()
    with suppress(Exception):  # a step that cannot be run says nothing here
        batch: Any = view.validation_batches(1)[0]
        if 6 * (time.monotonic() - started) > deadline.left:
            return None
        (first, targets), (second, again) = (_through(view, batch, seed) for seed in (1, 2))
        same = len(targets) == len(again) > 0 and all(
            a.shape == b.shape and torch.equal(a, b) for a, b in zip(targets, again, strict=True)
        )
        small = all(2 * target[:1].numel() < first[:1].numel() for target in targets)
        if same and small and first.dim() > 1 and first.is_floating_point() and first.shape == second.shape:
            return list(first[:READ].cpu().double()), list(second[:READ].cpu().double())
    return None


def _through(view: View, batch: Any, seed: int) -> tuple[Tensor, list[Tensor]]:
    """What enters the first leaf of the network in ``validation_step``, and the targets of its losses."""
    entered: list[Tensor] = []

    def look(_: nn.Module, given: tuple[Any, ...]) -> None:
        if not entered and given and isinstance(given[0], Tensor):
            entered.append(given[0].detach().clone())

    hooks = [
        part.register_forward_pre_hook(look)
        for part in view.module.modules()
        if not list(part.children()) and list(part.parameters())
    ]
    state = view.trainer.state
    stage = state.stage
    try:
        state.stage = type(stage)("validate")  # hooks ask trainer.training
        with seeded(seed), view.validation_step(batch) as step:
            targets = [call.target.detach().clone() for call in step.calls if isinstance(call.target, Tensor)]
    finally:
        state.stage = stage
        for hook in hooks:
            hook.remove()
    return entered[0], targets


def judge(ranks: Sequence[Passes]) -> Iterator[Finding]:
    """Whether validation measures the same thing each time. Pure."""
    worst = max(ranks, key=lambda rank: (rank.changed, rank.distance))
    evidence = {"read": worst.read, "changed": worst.changed, "change_over_difference": worst.distance}
    if any(rank.shuffled for rank in ranks):
        message = "Validation is shuffled: its order differs at each pass, and with it which examples a batch holds."
        yield Finding(NAME, Severity.INFO, message, "Set shuffle=False in the validation DataLoader.")
    if not worst.changed:
        yield Finding(
            NAME, Severity.OK, f"Two readings of {worst.read} validation examples are the same.", "", evidence
        )
        return
    seen = f"{worst.changed} of {worst.read} validation examples differ when they are read again"
    if worst.where == "step":
        seen = f"{worst.changed} of {worst.read} validation examples enter the network differently the second time"
    seen += f", by {worst.distance:.0%} of the difference between two examples"
    if worst.target_changes or worst.distance > SAME:
        message = f"{seen[0].upper()}{seen[1:]}: they seem to be drawn or noised anew as part of the task."
        advice = "Draw validation examples from a fixed seed, so that scores can be compared."
        yield Finding(NAME, Severity.INFO, message, advice, evidence)
        return
    message = f"Validation is augmented at random: {seen}."
    yield Finding(NAME, Severity.WARNING, message, ADVICE[worst.where], evidence)


ADVICE = {
    "data set": "Give the validation set its own transform, without random parts; a split shares that of its set.",
    "step": "Augment in training only: ask self.trainer.training in the transfer hook, and keep validation_step clean.",
}

PART = Part((NAME,), measure, judge)
