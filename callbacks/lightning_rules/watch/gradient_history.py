"""What is remembered of an optimiser's gradients, in windows of bounded size, and the numbers that are judged."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

EARLY = 16  # rows at the beginning that later ones are compared with
RECENT = 64
BEFORE = 8  # rows before the first that is not finite
CLIPPED_FROM = 16  # steps: the first gradients of a run may well be clipped


@dataclass(frozen=True)
class ParameterSeen:
    """How the gradients of one parameter fared; norms are medians over steps, NaN where none was finite.

    Attributes:
        name: As the module calls it.
        elements: How many numbers it holds.
        is_weight: Whether it has two dimensions or more.
        is_table: Whether rows are looked up in it, or its gradient is sparse.
        weight: Its own norm.
        early: The norm of its gradient at the beginning.
        largest: The largest norm at the beginning.
        recent: The norm of its gradient lately.
        present: At how many steps it had a gradient.
        moved: At how many steps its gradient was not exactly zero.
    """

    name: str
    elements: int
    is_weight: bool = True
    is_table: bool = False
    weight: float = 1.0
    early: float = 1.0
    largest: float = 1.0
    recent: float = 1.0
    present: int = 0
    moved: int = 0


@dataclass(frozen=True)
class BadStep:
    """The first step at which gradients were not finite.

    Attributes:
        step: The run's ``global_step``.
        nearest: The last parameter, in the order of the module, whose gradient was not finite.
        parameters: How many gradients were not finite.
        loss: The batch's loss; None where it is not known.
        grown: The norm of all gradients just before, over that at the beginning.
        of: Of how many steps it is the one that was looked at.
    """

    step: int
    nearest: str
    parameters: int
    loss: float | None
    grown: float = 1.0
    of: int = 1


@dataclass(frozen=True)
class GradientsSeen:
    """The numbers of one optimiser.

    Attributes:
        label: What to call it in a message.
        steps: How many of its steps were looked at.
        batches: How many batches there were.
        parameters: In the order of the module.
        norms: Medians of the norm of all gradients: at the beginning, and lately.
        losses: Medians of the loss over the same steps; NaN where it is not known.
        bad: How many steps had gradients that were not finite.
        bad_run: How many of them were the last ones, one after the other.
        first_bad: The first of them.
        bad_weights: Parameters that are not finite themselves, by now.
        scaled: Whether a GradScaler skips such steps.
        adaptive: Whether its steps are the same if all gradients are multiplied by a number.
        clip: The norm to which the Trainer clips; None where it does not.
        clipped: The share of steps, after the first, that were clipped.
        kept: The rounds, from step to step, in which gradients came and were added to those of the step before.
        rounds: In how many rounds this was looked at.
        small_data: Whether an epoch has so few batches that gradients may well become as small as the optimiser likes.
    """

    label: str
    steps: int
    batches: int = 0
    parameters: tuple[ParameterSeen, ...] = ()
    norms: tuple[float, float] = (1.0, 1.0)
    losses: tuple[float, float] = (math.nan, math.nan)
    bad: int = 0
    bad_run: int = 0
    first_bad: BadStep | None = None
    bad_weights: int = 0
    scaled: bool = False
    adaptive: bool = True
    clip: float | None = None
    clipped: float = 0.0
    kept: int = 0
    rounds: int = 0
    small_data: bool = False


@dataclass
class GradientHistory:
    """Rows of norms, as they come, become a few numbers a parameter.

    Args:
        names: Of the parameters, in the order of the optimiser.
        elements: How many numbers each holds.
        order: Their places in the order of the module.
        dimensions: How many dimensions each has.
        tables: Whether rows are looked up in them.
        facts: Further fields of :class:`GradientsSeen`.
        first: How many rows are remembered of the beginning.
    """

    names: Sequence[str]
    elements: Sequence[int]
    order: Sequence[int]
    dimensions: Sequence[int]
    tables: Sequence[bool]
    facts: dict[str, Any]
    steps: int = 0
    bad: int = 0
    bad_run: int = 0
    above: int = 0
    rounds: int = 0
    kept: int = 0
    first_bad: BadStep | None = None
    early: Tensor = field(init=False)
    recent: Tensor = field(init=False)
    present: Tensor = field(init=False)
    moved: Tensor = field(init=False)
    weights: Tensor = field(init=False)

    def __post_init__(self) -> None:
        width = len(self.names)
        self.early, self.recent = torch.zeros(0, width + 1).double(), torch.zeros(0, width + 1).double()
        self.present, self.moved = torch.zeros(width, dtype=torch.long), torch.zeros(width, dtype=torch.long)
        self.weights = torch.full((width,), math.nan).double()

    def add(self, steps: Sequence[Sequence[int]], norms: Tensor, losses: Tensor, weights: Tensor) -> None:
        """Take rows in.

        Args:
            steps: For each row the run's ``global_step``, and of how many steps it is the one that was looked at.
            norms: ``[rows, parameters]``; negative where there was no gradient.
            losses: ``[rows]``; NaN where it is not known.
            weights: The parameters' own norms, ``[parameters]``.
        """
        self.present += (norms >= 0).sum(0) + norms.isnan().sum(0)
        self.moved += ((norms != 0) & ~(norms < 0)).sum(0)
        self.weights = weights.double()
        if self.facts.get("clip") is not None:
            late = torch.arange(self.steps, self.steps + len(steps)) >= CLIPPED_FROM
            self.above += int(((total(norms) > self.facts["clip"]) & late).sum())
        rows = torch.cat([norms.double(), losses.double()[:, None]], 1)
        for place, fine in enumerate(norms.isfinite().all(1).tolist()):
            self.bad_run = 0 if fine else self.bad_run + 1
            self.bad += not fine
            if not fine and self.first_bad is None:
                self.first_bad = self._bad_step(steps[place][0], steps[place][1], rows[: place + 1])
        self.steps += len(steps)
        self.early = torch.cat([self.early, rows[: EARLY - len(self.early)]])
        self.recent = torch.cat([self.recent, rows])[-RECENT:].clone()

    def _bad_step(self, step: int, of: int, rows: Tensor) -> BadStep:
        """What the last of these rows says, and those before it."""
        *norms, loss = rows[-1].tolist()
        bad = [place for place, norm in enumerate(norms) if not math.isfinite(norm)]
        nearest = max(bad, key=lambda place: self.order[place])
        before = torch.cat([self.recent, rows[:-1]])
        first = torch.cat([self.early, rows[:-1]])[:EARLY]
        grown = float(_medians(_totals(before[-BEFORE:])) / _medians(_totals(first)))
        is_known = not math.isnan(loss) or bool(before[:, -1].isfinite().any())
        return BadStep(step, self.names[nearest], len(bad), loss if is_known else None, grown, of)

    def seen(self) -> GradientsSeen:
        """The numbers of now."""
        early, recent = _medians(_known(self.early)).tolist(), _medians(_known(self.recent)).tolist()
        known = torch.where(self.early.isfinite(), self.early, 0.0).clamp(min=0)
        largest = known.amax(0).tolist() if len(known) else early
        weights, present, moved = self.weights.tolist(), self.present.tolist(), self.moved.tolist()
        parameters = [
            ParameterSeen(
                self.names[place],
                self.elements[place],
                self.dimensions[place] > 1,
                self.tables[place],
                weights[place],
                early[place],
                largest[place],
                recent[place],
                present[place],
                moved[place],
            )
            for place in sorted(range(len(self.names)), key=lambda place: self.order[place])
        ]
        return GradientsSeen(
            steps=self.steps,
            parameters=tuple(parameters),
            norms=(float(_medians(_totals(self.early))), float(_medians(_totals(self.recent)))),
            losses=(early[-1], recent[-1]),
            bad=self.bad,
            bad_run=self.bad_run,
            first_bad=self.first_bad,
            bad_weights=int((~self.weights.isfinite()).sum()) if self.steps else 0,
            rounds=self.rounds,
            kept=self.kept,
            clipped=self.above / max(1, self.steps - CLIPPED_FROM),
            **self.facts,
        )

    def state(self) -> dict[str, Any]:
        """For a checkpoint."""
        numbers = {name: getattr(self, name) for name in ("steps", "bad", "bad_run", "above")}
        tensors = {name: getattr(self, name) for name in ("early", "recent", "present", "moved", "weights")}
        first = vars(self.first_bad) if self.first_bad is not None else None
        return {**numbers, **tensors, "names": list(self.names), "first_bad": first}

    def load(self, state: dict[str, Any]) -> None:
        """The inverse of :meth:`state`; a state of other parameters is left aside."""
        if state["names"] != list(self.names):
            return
        for name in state.keys() - {"names", "first_bad"}:
            setattr(self, name, state[name])
        self.first_bad = BadStep(**state["first_bad"]) if state["first_bad"] is not None else None


def total(norms: Tensor) -> Tensor:
    """The norm of all gradients together, ``[rows]``, from those of each, ``[rows, parameters]``."""
    return norms.double().clamp(min=0).square().sum(1).sqrt()


def _totals(rows: Tensor) -> Tensor:
    """The same of rows that end with a loss, ``[rows, 1]``; NaN where there was no gradient at all."""
    norms = rows[:, :-1]
    return torch.where((norms < 0).all(1), math.nan, total(norms))[:, None]


def _known(rows: Tensor) -> Tensor:
    """Rows that end with a loss, with NaN where there was no gradient."""
    norms = rows[:, :-1]
    return torch.cat([torch.where(norms < 0, math.nan, norms), rows[:, -1:]], 1)


def _medians(rows: Tensor) -> Tensor:
    """Of the finite numbers of each column; NaN where there is none."""
    if not len(rows):
        return torch.full((rows.shape[1],), math.nan, dtype=rows.dtype)
    return torch.where(rows.isfinite(), rows, math.nan).nanmedian(0).values
