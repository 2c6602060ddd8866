"""Rounds and grids."""

from collections.abc import Callable

import pytest

from lightning_recipe.runs.search.dimension import Dimension
from lightning_recipe.runs.search.plan import Plan, grid_shape

Make = Callable[..., Plan]
RATE, UNITS = Dimension("lr", "log10", -5, -1), Dimension("units", "int", 1, 3)
KIND = Dimension("kind", "choice", choices=("a", "b"))


def test_trials_are_dealt_out_over_rounds(plan: Make) -> None:
    assert [plan(7, rounds=3).round_of(place) for place in range(7)] == [0, 0, 0, 1, 1, 1, 2]
    assert [plan(4).round_of(place) for place in range(4)] == [0] * 4
    with pytest.raises(ValueError, match=r"--rounds 5 was given for --trials 4, but each round has at least one"):
        plan(4, rounds=5)
    with pytest.raises(ValueError, match=r"--sampler gp narrows its search by itself"):
        plan(4, rounds=2, sampler="gp")


@pytest.mark.parametrize(
    ("space", "trials", "shape"),
    [
        ([RATE], 7, [7]),
        ([RATE, KIND], 7, [3, 2]),
        ([RATE, UNITS], 17, [5, 3]),
        ([RATE, UNITS, KIND], 8, [2, 2, 2]),
    ],
)
def test_the_shape_of_a_grid(space: list[Dimension], trials: int, shape: list[int]) -> None:
    assert grid_shape(space, trials) == shape


def test_grids_that_are_refused(plan: Make) -> None:
    with pytest.raises(ValueError, match=r"for 4 options, but a grid of 4 or more wastes trials .*Goodfellow"):
        plan(99, [RATE, UNITS, KIND, RATE], sampler="grid")
    with pytest.raises(ValueError, match=r"needs at least 8 trials a round .* but there are 7: give more --trials"):
        plan(7, [RATE, UNITS, KIND], sampler="grid")
    assert plan(7, [RATE, KIND], sampler="grid").total == 6
