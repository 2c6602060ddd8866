"""What a search is to do: its space and objective, how many trials in how many rounds, and how points are chosen."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from lightning_recipe.runs.judged_by import Judge
from lightning_recipe.runs.search.dimension import Dimension
from lightning_recipe.runs.search.space import told

SAMPLERS = ("random", "tpe", "qmc", "cmaes", "gp", "grid")
PRUNERS = ("none", "median", "hyperband")
# Of these samplers each model is of one range, which rounds would change.
OF_ONE_RANGE = ("cmaes", "gp")
GRID_BELOW = 4  # dimensions


@dataclass(frozen=True)
class Plan:
    """A search.

    Args:
        space: The dimensions, at least one.
        objective: What is searched for.
        trials: How many, over all machines, at least 1.
        rounds: How many times the ranges are given anew, from 1 to `trials`.
        seed: Fixes which points are drawn.
        sampler: One of `SAMPLERS`.
        pruner: One of `PRUNERS`.
        folds: How many folds each trial is trained and tested on, at least 2; None for one fit.

    Raises:
        ValueError: If the sampler cannot search so.
    """

    space: tuple[Dimension, ...]
    objective: Judge
    trials: int
    rounds: int = 1
    seed: int = 0
    sampler: str = "random"
    pruner: str = "none"
    folds: int | None = None

    def __post_init__(self) -> None:
        if self.rounds > self.trials:
            raise ValueError(
                f"--rounds {self.rounds} was given for --trials {self.trials}, but each round has at least one trial: "
                "give fewer rounds."
            )
        if self.rounds > 1 and self.sampler in OF_ONE_RANGE:
            raise ValueError(
                f"--sampler {self.sampler} narrows its search by itself, and cannot follow ranges that change: leave "
                "--rounds out, or take random, tpe, qmc or grid."
            )
        if self.sampler == "grid":
            grid_shape(self.space, self.round_size)

    @property
    def round_size(self) -> int:
        """The number of trials of each round; the last may have fewer."""
        return math.ceil(self.trials / self.rounds)

    @property
    def total(self) -> int:
        """The number of trials that are made: a grid may have fewer points than were asked for."""
        if self.sampler != "grid":
            return self.trials
        return min(self.trials, self.rounds * self.trials_of_round)

    @property
    def trials_of_round(self) -> int:
        """The number of trials of each round, of a grid that of its points."""
        return math.prod(grid_shape(self.space, self.round_size)) if self.sampler == "grid" else self.round_size

    def round_of(self, place: int) -> int:
        """The round, from 0, of the trial at a place of the search."""
        return min(place // self.trials_of_round, self.rounds - 1)

    def describe(self, settings: Mapping[str, Any]) -> dict[str, Any]:
        """What has to be the same for all who take part in a study.

        Args:
            settings: All settings of `fit` as the user gave them.
        """
        trainer = {name: value for name, value in settings["trainer"].items() if name not in OWN_TO_A_MACHINE}
        return {
            "space": told(self.space),
            "metric": self.objective.metric,
            "mode": self.objective.mode,
            "folds": self.folds,
            "seed": self.seed,
            "rounds": self.rounds,
            "trials": self.trials if self.rounds > 1 or self.sampler == "grid" else None,
            "settings": {**settings, "trainer": trainer, "config": None},
        }


OWN_TO_A_MACHINE = ("logger", "default_root_dir", "enable_progress_bar", "enable_model_summary")


def grid_shape(space: Sequence[Dimension], trials: int) -> list[int]:
    """How many values of each dimension a grid has, of at most so many points.

    Args:
        space: The dimensions.
        trials: The most points that it may have.

    Raises:
        ValueError: If there are four dimensions or more, or too few trials for two values of each.
    """
    if len(space) >= GRID_BELOW:
        raise ValueError(
            f"--sampler grid was given for {len(space)} options, but a grid of {GRID_BELOW} or more wastes trials on "
            "options that matter little (Goodfellow et al., 2016, 11.4.3): take --sampler random, or a smaller space."
        )
    most = [len(one.choices) if not one.is_numeric else _values(one) for one in space]
    shape = [min(2, count) if one.is_numeric else count for one, count in zip(space, most, strict=True)]
    if math.prod(shape) > trials:
        raise ValueError(
            f"--sampler grid needs at least {math.prod(shape)} trials a round for two values of each range and all "
            f"choices, but there are {trials}: give more --trials."
        )
    while True:
        can = [
            (count, place)
            for place, (one, count) in enumerate(zip(space, shape, strict=True))
            if one.is_numeric and count < most[place] and math.prod(shape) // count * (count + 1) <= trials
        ]
        if not can:
            return shape
        shape[min(can)[1]] += 1


def _values(one: Dimension) -> int:
    return int(one.high - one.low) + 1 if one.kind == "int" else 10**9
