"""Looks at weights and rates where no step of the optimiser is seen: at the first step of an epoch, after a step."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from lightning_rules.watch.between_steps import Course, opening_of
from lightning_rules.watch.optimiser_changes import Held
from lightning_rules.watch.update_pace import rates_of
from lightning_rules.watch.weight_steps import WeightSteps, numbers


class Between:
    """Looks at rates and weights when an epoch ends, at the next one's first step, and after a measured step.

    Attributes:
        opening: Places of optimisers whose first step of an epoch is waited for.
        courses: What was seen of each optimiser.
    """

    def __init__(self) -> None:
        self.opening: set[int] = set()
        self.courses: dict[int, Course] = {}
        self._marks: dict[int, tuple[Any, WeightSteps | None, list[Tensor]]] = {}
        self._openings: list[Any] = []
        self._left: list[Any] = []

    @torch.no_grad()
    def epoch_ends(self, optimizers: Iterable[tuple[int, Any]], watches: Mapping[int, WeightSteps]) -> None:
        """Remember rates and small samples of the weights."""
        for place, optimizer in optimizers:
            watch = watches.get(place)
            self._marks[place] = rates_of(optimizer), watch, [] if watch is None else watch.mark()

    @torch.no_grad()
    def first_step(self, place: int, optimizer: Any, watch: WeightSteps | None) -> None:
        """The first step of an epoch begins."""
        self.opening.discard(place)
        closing, marked, mark = self._marks.pop(place, (None, None, []))
        same = watch is not None and watch is marked and watch.holds(optimizer)
        since = watch.since(mark) if watch is not None and same else ()
        self._openings.append((place, closing, rates_of(optimizer), watch.watched if watch and same else [], since))

    @torch.no_grad()
    def next_step(self, place: int, watch: WeightSteps) -> None:
        """The step after a measured one begins."""
        self._left.append((place, *(watch.left() or ([], []))))

    def readings(self) -> tuple[list[Any], list[Any]]:
        """What was measured since the last look."""
        openings, self._openings, left, self._left = self._openings, [], self._left, []
        return openings, left

    def take(self, readings: tuple[list[Any], list[Any]], held: Mapping[int, Held]) -> None:
        """Add readings, on the host, to the courses."""
        openings, left = readings
        for place, closing, rates, watched, since in openings:
            lengths = [numbers(parts) for parts in since]
            before = None if closing is None else _largest(closing)
            self._course(place, held).opens(opening_of(before, _largest(rates), watched, lengths))
        for place, net, steps in left:
            self._course(place, held).is_left(numbers(net), numbers(steps))

    def _course(self, place: int, held: Mapping[int, Held]) -> Course:
        return self.courses.setdefault(place, Course(held[place].kind if place in held else "the optimiser"))

    def state(self) -> dict[int, Any]:
        """What was seen, as plain values, for a checkpoint."""
        return {place: course.state() for place, course in self.courses.items()}

    def restore(self, state: Mapping[int, Any]) -> None:
        """The inverse of :meth:`state`."""
        self.courses = {place: Course.of(one) for place, one in state.items()}

    def forget(self) -> None:
        """Hold nothing of the run."""
        self.opening, self._marks, self._openings, self._left = set(), {}, [], []


def _largest(rates: Sequence[Sequence[Any]]) -> float:
    """Of the present rates of the groups, the first number of each."""
    return max((float(group[0]) for group in rates if group), default=0.0)
