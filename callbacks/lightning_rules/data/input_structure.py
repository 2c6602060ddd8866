"""Whether the places of an input mean anything: scrambled-inputs."""

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

NAME = "scrambled-inputs"
PLACES = 36  # values an input, at least
EXAMPLES = 128
BACKGROUND = 0.1  # share of the most common value: pictures have a background, noise has none
LEVELS = 5  # distinct values, at least: random bits are no pictures
FLAT = (0.5, 1.6)  # spread of the means (and mean squares) of places over what exchangeable places have, by chance
RELATED = 4.0  # standard errors of the correlation of neighbours


@dataclass(frozen=True)
class Structure:
    """How places of the input differ.

    Attributes:
        examples: Examples looked at.
        places: Values an input.
        means: Variance of the places' means over what it is where places are exchangeable; far above 1 in pictures.
        squares: The same of their mean squares.
        neighbours: Correlation of neighbouring places within an example, beyond that of exchangeable ones.
        neighbours_error: Its standard error.
        background: Share of the most common value.
        levels: Distinct values, up to 1,000 looked at.
    """

    examples: int
    places: int
    means: float
    squares: float
    neighbours: float
    neighbours_error: float
    background: float
    levels: int


def measure(seen: DataSeen, deadline: Deadline) -> Structure:
    """Look at what enters the first layer in training.

    Raises:
        NotApplicable: The network embeds ids, or inputs are few or narrow.
    """
    entered = seen.entered
    if entered.embeds or entered.values is None:
        raise NotApplicable("the network looks its inputs up in an embedding.")
    return structure(entered.values.flatten(1)[torch.isfinite(entered.values.flatten(1)).all(1)].double())


def structure(values: Tensor) -> Structure:
    """Statistics of places.

    Args:
        values: ``[n, places]``, finite.

    Raises:
        NotApplicable: Inputs are few or narrow.
    """
    examples, places = values.shape
    if examples < EXAMPLES or places < PLACES:
        raise NotApplicable(f"needs {EXAMPLES} inputs of {PLACES} values.")
    centred = values - values.mean(1, keepdim=True)
    scale = centred.square().mean().clamp_min(1e-30)
    alike = (centred[:, 1:] * centred[:, :-1]).mean() / scale
    few = values[:: max(1, examples // 100)].flatten()
    levels, counts = torch.unique(few, return_counts=True)
    return Structure(
        examples=examples,
        places=places,
        means=_over_chance(values),
        squares=_over_chance(values.square()),
        neighbours=float(alike) + 1 / (places - 1),
        neighbours_error=(examples * (places - 1)) ** -0.5,
        background=float(counts.max() / counts.sum()),
        levels=min(1000, len(levels)),
    )


def _over_chance(values: Tensor) -> float:
    """Variance over places of their means, over that of places that are exchangeable within each example."""
    chance = values.var(1).mean() / len(values)
    return float(values.mean(0).var() / chance.clamp_min(1e-30))


def judge(ranks: Sequence[Structure]) -> list[Finding]:
    """A warning where places are interchangeable in what is no noise; nothing otherwise."""
    seen = ranks[0]
    flat = all(FLAT[0] < ratio < FLAT[1] for ratio in (seen.means, seen.squares))
    apart = abs(seen.neighbours) < RELATED * seen.neighbours_error
    if not (flat and apart and seen.background >= BACKGROUND and seen.levels >= LEVELS):
        return []
    message = (
        f"The {seen.places} places of an input are interchangeable in {seen.examples} training examples: their means "
        f"differ {seen.means:.2g} times as much as chance makes them, neighbours correlate by {seen.neighbours:.1g}; "
        "the values of each example stand in an order of their own: scrambled."
    )
    advice = "Look for a permutation, or a wrong reshape, that is drawn anew for each example."
    evidence = {"means": seen.means, "squares": seen.squares, "neighbours": seen.neighbours}
    return [Finding(NAME, Severity.WARNING, message, advice, evidence)]


PART = Part((NAME,), measure, judge)
