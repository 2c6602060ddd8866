"""Windows over which the units of an activation are counted: a unit is off only if it was off all the time."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from lightning_rules.activation_functions import FUNCTIONS, Activation
from lightning_rules.watch.step_watch import SOFTMAX, Place, StepSeen

SAMPLES = 4  # a window has at least so many,
EXAMPLES = 128  # and so many examples, or is an epoch long
FEWEST = 64  # examples of an epoch's window, or of the last,
LAST = 2  # which has at least so many samples
ALWAYS = 0.95  # of a unit's values are saturated: the unit is
KEPT = 2  # windows


@dataclass
class Tally:
    """What was seen of an activation's units since the last look, on their device.

    Attributes:
        numbers: The largest input of each unit; where the function has two ends, the share of saturated ones, summed.
        samples: How many steps.
        examples: How many examples in them.
    """

    numbers: Tensor
    samples: int = 1
    examples: int = 0

    def add(self, kind: Activation, numbers: Tensor, examples: int) -> None:
        """One more step."""
        if kind.floor is not None:
            torch.maximum(self.numbers, numbers, out=self.numbers)
        else:
            self.numbers += numbers
        self.samples += 1
        self.examples += examples


@dataclass
class History:
    """How an activation's units have been, on the host.

    Attributes:
        kind: The function.
        units: How many units it has.
        hidden: Whether a layer comes after it.
        start: The share of units that were stuck (off, or saturated) at the first step seen.
        shares: The share of units that were stuck all the time in each of the last windows, latest last.
        begun: The batch at which the open window began.
        open: The open window: numbers by unit, samples and examples; None while it is empty.
    """

    kind: Activation
    units: int
    hidden: bool
    start: float
    shares: list[float] = field(default_factory=list)
    begun: int = 0
    open: Tally | None = None

    @classmethod
    def begin(cls, kind: Activation, hidden: bool, first: Tensor, now: int) -> History:
        """With what the first step showed."""
        return cls(kind, first.numel(), hidden, float(stuck_units(kind, first, 1).float().mean()), begun=now)

    def take(self, tally: Tally, now: int, epoch: float, last: bool) -> None:
        """Add what came to the host, and close the window where it is full.

        Args:
            tally: What was counted since the last look.
            now: The number of batches so far.
            epoch: How many batches an epoch has.
            last: Whether nothing will follow.
        """
        if self.open is None:
            self.open = tally
        else:
            self.open.add(self.kind, tally.numbers, tally.examples)
            self.open.samples += tally.samples - 1
        whole = self.open.examples >= EXAMPLES or (
            self.open.examples >= FEWEST and (last or now - self.begun >= max(epoch, 1))
        )
        if self.open.samples >= (LAST if last else SAMPLES) and whole:
            stuck = stuck_units(self.kind, self.open.numbers, self.open.samples)
            self.shares = [*self.shares, float(stuck.float().mean())][-KEPT:]
            self.open, self.begun = None, now


def stuck_units(kind: Activation, numbers: Tensor, samples: int) -> Tensor:
    """Which units were off, or saturated, all the time; not those whose inputs are not finite."""
    if kind.floor is not None:
        return numbers <= kind.floor
    return numbers >= ALWAYS * samples


class Tallies:
    """Adds up steps between looks, on the device."""

    def __init__(self) -> None:
        self.of: dict[Place, tuple[Activation, bool, Tally]] = {}
        self.first: dict[Place, Tensor] = {}

    def add(self, seen: StepSeen) -> None:
        """One more step."""
        for place, (kind, numbers, before) in seen.units.items():
            known = self.of.get(place)
            if known is not None and known[2].numbers.shape == numbers.shape:
                known[2].add(kind, numbers, seen.examples[place])
            else:
                self.first[place] = numbers.clone()
                hidden = is_hidden(place, kind, before, seen.layers)
                self.of[place] = (kind, hidden, Tally(numbers, 1, seen.examples[place]))


def is_hidden(place: Place, kind: Activation, before: int, layers: dict[str, bool]) -> bool:
    """Whether a layer that had not run yet comes after an activation, so that it is not the network's answer.

    A saturated answer is what one wants of a classifier or a generator, whose values another network may read: for
    functions with two ends the layer has to belong to the same part of the module.
    """
    after = [name for name, maps in list(layers.items())[before:] if maps]
    if kind.floor is not None or "." not in place.name:
        return bool(after)
    return any(name.partition(".")[0] == place.name.partition(".")[0] for name in after)


def saved(windows: Mapping[Place, History]) -> list[dict[str, Any]]:
    """Closed windows, for a checkpoint."""
    return [
        {
            "place": list(place),
            "units": one.units,
            "hidden": one.hidden,
            "start": one.start,
            "shares": list(one.shares),
            "begun": one.begun,
        }
        for place, one in windows.items()
    ]


def restored(states: Sequence[Mapping[str, Any]]) -> dict[Place, History]:
    """The inverse of :func:`saved`."""
    kinds = {kind.label: kind for kind in (*FUNCTIONS.values(), SOFTMAX)}
    fields = [(Place(*state["place"]), {key: state[key] for key in state if key != "place"}) for state in states]
    return {place: History(kinds[place.label], **given) for place, given in fields}
