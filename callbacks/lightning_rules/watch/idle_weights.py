"""Weights that get gradients and are never moved: their optimiser is never stepped, or their group's rate is 0."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from lightning_rules.finding import Finding, Severity
from lightning_rules.fresh_weights import is_as_drawn
from lightning_rules.watch.strided import strided
from lightning_rules.watch.weight_steps import REMEMBERED, WeightSteps, is_zero

STILL = "weights-never-move"
LOOKS = 12  # at gradients
BATCHES = 48
SHARE = 0.3  # of the planned run: an optimiser that waits for its turn has had it by then,
LONG = 2000  # batches, where no end is known or it is far
MOST = 0.9  # of the looks
NAMED = 3


class GradientTally:
    """Counts, on the device, at how many looks each parameter's gradient was not zero.

    Args:
        watch: The parameters of an optimiser.
    """

    def __init__(self, watch: WeightSteps) -> None:
        self.watch = watch
        self.looks = 0
        self.places: dict[torch.device, list[int]] = {}
        for place, parameter in enumerate(watch.parameters):
            self.places.setdefault(parameter.device, []).append(place)
        self._counts = {device: torch.zeros(len(places), device=device) for device, places in self.places.items()}
        self._none = {device: torch.zeros(1, device=device) for device in self.places}

    def look(self) -> None:
        """Count the gradients that are there now."""
        self.looks += 1
        for device, places in self.places.items():
            samples = [self._sample(self.watch.parameters[place], device) for place in places]
            sizes = [size.float() for size in torch._foreach_norm(samples, math.inf)]
            self._counts[device] += torch.stack(sizes) > 0

    def _sample(self, parameter: Tensor, device: torch.device) -> Tensor:
        sample = None if parameter.grad is None else strided(parameter.grad, REMEMBERED)
        return self._none[device] if sample is None else sample

    def reading(self) -> tuple[int, list[list[int]], list[Tensor]]:
        """Looks, places of parameters, and how often each had a gradient."""
        return self.looks, list(self.places.values()), [counts.clone() for counts in self._counts.values()]


@dataclass(frozen=True)
class Idle:
    """Weights of one optimiser that had gradients at nearly all looks and are exactly what they were.

    Attributes:
        kind: The optimiser's class.
        weights: Their names.
        of: How many weights the optimiser has.
        stepped: Whether it was stepped since the fit began.
        fresh: Names of those that are as torch drew them.
        looks: At gradients.
    """

    kind: str
    weights: list[str]
    of: int
    stepped: bool
    fresh: list[str]
    looks: int


def judge_idle(idle: Idle, batches: int, done: float | None, ended: bool) -> Finding | None:
    """What is sure: an optimiser that is never stepped, or fresh layers at a rate of 0; pure.

    Args:
        idle: Weights of one optimiser.
        batches: Of the run so far.
        done: The share of the planned run that has passed; None where no end is known.
        ended: Whether this is the end of the fit.
    """
    waited = ended or (done is not None and done >= SHARE) or batches >= LONG
    if not idle.weights or idle.looks < LOOKS or batches < BATCHES or not waited:
        return None
    evidence = {"weights": len(idle.weights), "of": idle.of, "batches": batches}
    if not idle.stepped:
        message = (
            f"{idle.kind} has never been stepped in {batches} batches, so that the {len(idle.weights)} weights it "
            f"holds never move, though they get gradients: {_listed(idle.weights)}."
        )
        advice = "Call step() of this optimiser too, or take it away and freeze its weights (requires_grad_(False))."
        return Finding(STILL, Severity.WARNING, message, advice, evidence)
    if not idle.fresh:
        return None
    message = (
        f"{len(idle.weights)} of {idle.of} weights of {idle.kind} never move, though they get gradients: their group's "
        f"learning rate has been 0 for {batches} batches, and {_listed(idle.fresh)} still hold the random numbers "
        "they began with."
    )
    advice = (
        "Give the group a learning rate, or freeze its layers with requires_grad_(False) if they are to stay random."
    )
    return Finding(STILL, Severity.WARNING, message, advice, evidence)


def at_rate_zero(optimizer: Any) -> list[int]:
    """The groups whose rate is 0 and that no schedule starts higher or climbs from there."""
    names = ("lr", "initial_lr", "max_lr")
    return [
        place
        for place, group in enumerate(optimizer.param_groups)
        if "lr" in group and all(is_zero(group[name]) for name in names if group.get(name) is not None)
    ]


def fresh_at_zero(optimizers: Sequence[Any], module: nn.Module) -> set[int]:
    """Weights (by id) of layers as torch drew them, in groups at rate 0. Reads them: for before the first batch."""
    still = {id(p) for one in optimizers for place in at_rate_zero(one) for p in one.param_groups[place]["params"]}
    found = set()
    for layer in module.modules() if still else ():
        weight = getattr(layer, "weight", None)
        if isinstance(layer, (nn.Linear, nn.modules.conv._ConvNd)) and id(weight) in still and weight is not None:
            fan_in = weight[0].numel()
            if fan_in and is_as_drawn([weight], 1 / math.sqrt(fan_in)):
                found.add(id(weight))
    return found


def idle_of(
    kind: str,
    watch: WeightSteps,
    zero: set[int] | None,
    farthest: Sequence[float],
    tally: tuple[int, list[list[int]], list[Tensor]],
    fresh: set[int],
) -> Idle:
    """Which weights had gradients and were never moved.

    Args:
        kind: The optimiser's class.
        watch: Its parameters.
        zero: The groups at rate 0; None where the optimiser was never stepped, and all count.
        farthest: The largest change of each parameter since the watch began.
        tally: What :meth:`GradientTally.reading` gave, on the host.
        fresh: Weights, by id, that are as torch drew them.
    """
    looks, kinds, counts = tally
    pairs = [(kind, part.tolist()) for kind, part in zip(kinds, counts, strict=True)]
    had = {place: count for places, part in pairs for place, count in zip(places, part, strict=True)}
    idle = [
        place
        for place, one in enumerate(watch.watched)
        if one.judged and had[place] >= MOST * looks and farthest[place] == 0 and (zero is None or one.group in zero)
    ]
    names = [watch.watched[place].name for place in idle]
    drawn = [watch.watched[place].name for place in idle if id(watch.parameters[place]) in fresh]
    return Idle(kind, names, len(watch.judged), zero is not None, drawn, looks)


def _listed(names: Sequence[str]) -> str:
    more = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
    return ", ".join(f"`{name}`" for name in names[:NAMED]) + more
