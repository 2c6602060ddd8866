"""How points are chosen: one seed fixes them, whoever draws them and whenever."""

import importlib.util
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from optuna.pruners import HyperbandPruner, MedianPruner, NopPruner

from lightning_recipe.runs.search.dimension import Dimension
from lightning_recipe.runs.search.plan import Plan
from lightning_recipe.runs.search.samplers import grid_point, make_pruner, sobol_point
from lightning_recipe.runs.search.search import Search
from lightning_recipe.runs.search.standing import values_of

Make, Open = Callable[..., Plan], Callable[..., Search]
SPACE = [
    Dimension("model.init_args.lr", "log10", -5, -1),
    Dimension("data.init_args.batch_size", "int", 16, 128),
    Dimension("model.init_args.optimizer", "choice", choices=("sgd", "adamw")),
]


def drawn(search: Search, count: int) -> list[dict[str, Any]]:
    """So many further points, each of which has come to its end."""
    found = []
    for fit in search.fits():
        assert fit is not None
        trial = search.standing.trials()[-1]
        found.append(values_of(search.plan, trial))
        fit.entry.write({"status": "finished", "best": {"name": "val/loss", "value": found[-1]["model.init_args.lr"]}})
        search.ended(fit)
        if len(found) == count:
            break
    return found


@pytest.mark.parametrize("sampler", ["random", "tpe", "qmc", "gp", "grid"])
def test_a_search_that_goes_on_draws_what_it_would_have_drawn(sampler: str, plan: Make, opened: Open) -> None:
    count = 13 if sampler in ("tpe", "gp") else 8  # more than are drawn at random before
    whole = drawn(opened(plan(16, SPACE, sampler=sampler, seed=3), "whole.journal"), count)
    apart = plan(16, SPACE, sampler=sampler, seed=3)
    parts = drawn(opened(apart, "parts.journal"), count - 3) + drawn(opened(apart, "parts.journal"), 3)
    assert parts == whole
    assert len({tuple(point.values()) for point in whole}) == count
    assert all(1e-5 <= point["model.init_args.lr"] <= 0.1 for point in whole)
    assert all(16 <= point["data.init_args.batch_size"] <= 128 for point in whole)
    if sampler not in ("qmc", "grid"):
        for path in Path("all").iterdir():
            path.unlink()
        assert drawn(opened(plan(16, SPACE, sampler=sampler, seed=4), "other.journal"), 1) != whole[:1]


def test_cmaes_needs_a_package(plan: Make, opened: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ImportError, match=r"--sampler cmaes needs the package cmaes, which is not installed: `pip"):
        opened(plan(sampler="cmaes"))


def test_points_of_a_sequence_fill_the_space() -> None:
    shares = [sobol_point([Dimension("u", "uniform", 0, 1), *SPACE], 0, place)["u"] for place in range(16)]
    assert sorted(int(16 * share) for share in shares) == list(range(16)), "one in each sixteenth"
    assert sobol_point(SPACE, 0, 5) == sobol_point(SPACE, 0, 5) != sobol_point(SPACE, 1, 5)


def test_points_of_a_grid_are_all_combinations() -> None:
    points = [tuple(grid_point(SPACE[:1] + SPACE[2:], 6, place).values()) for place in range(6)]
    assert {kind for _, kind in points} == {"sgd", "adamw"}
    assert sorted({rate for rate, _ in points}) == pytest.approx([10 ** (-13 / 3), 1e-3, 10 ** (-5 / 3)])
    assert len(set(points)) == 6
    assert tuple(grid_point(SPACE[:1] + SPACE[2:], 6, 6).values()) == points[0]


def test_pruners() -> None:
    assert isinstance(make_pruner("none", 9), NopPruner)
    assert isinstance(make_pruner("median", 9), MedianPruner)
    assert isinstance(make_pruner("hyperband", None), HyperbandPruner)
