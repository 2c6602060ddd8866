"""What a search shows and says in the end, of trials whose values are given."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from optuna.trial import TrialState

from lightning_recipe.runs.search import ending
from lightning_recipe.runs.search.dimension import Dimension
from lightning_recipe.runs.search.exhibits import exhibits_of, importances
from lightning_recipe.runs.search.plan import Plan
from lightning_recipe.runs.search.search import Search
from lightning_recipe.runs.search.standing import best_of
from lightning_rules.report.draw import is_drawn, svg_of

Make, Open = Callable[..., Plan], Callable[..., Search]
SPACE = [
    Dimension("model.init_args.lr", "log10", -5, -1),
    Dimension("model.init_args.optimizer_options.momentum", "one_minus_log10", -3, -1),
    Dimension("model.init_args.num_layers", "int", 1, 3),
    Dimension("model.init_args.drop_rate", "uniform", 0, 0.5),
    Dimension("model.init_args.optimizer", "choice", choices=("sgd", "adamw")),
]


@pytest.fixture
def searched(plan: Make, opened: Open) -> Search:
    """Thirty trials: one failed, one was pruned, and the rate alone decides, the greater the better."""
    search = opened(plan(30, SPACE, mode="max"))
    for number, fit in enumerate(search.fits()):
        assert fit is not None
        rate = search.standing.trials()[-1].params["model.init_args.lr"]
        record: dict[str, Any] = {"status": "finished", "best": {"name": "val/loss", "value": rate}}
        record = {"status": "failed", "error": "out of memory"} if number == 3 else record
        record = {"status": "stopped"} if number == 5 else record
        fit.entry.write(record)
        search.ended(fit)
    return search


def test_exhibits_of_a_search(searched: Search) -> None:
    trials = searched.standing.trials()
    shown = {one.name: one for one in exhibits_of(searched.plan, searched.study, trials)}
    assert list(shown) == ["search_slices", "search_parallel", "search_course", "search_importance", "search_trials"]
    for one in shown.values():
        assert not is_drawn(one.content) or "<svg" in svg_of(one.content, "f", one.caption)
    slices: Any = shown["search_slices"].content
    assert [axis.label for axis in slices.x_axes] == ["lr", "1 − momentum", "num_layers", "drop_rate", "optimizer"]
    assert [axis.scale for axis in slices.x_axes] == ["log", "log", "whole", "linear", "categories"]
    assert (slices.x_axes[0].low, slices.x_axes[0].high) == pytest.approx((1e-5, 1e-1))
    assert [slices.ends.count(end) for end in ("finished", "stopped", "failed")] == [28, 1, 1]
    assert slices.better == "high"
    lines: Any = shown["search_parallel"].content
    assert len(lines.lines) == 30
    assert lines.lines[3][-1] is None
    course: Any = shown["search_course"].content
    best = [value for value in course.curves[1].y if value is not None]
    assert best == sorted(best)
    bars: Any = shown["search_importance"].content
    assert bars.labels[0] == "lr"
    rows: Any = shown["search_trials"].content.rows
    assert rows[0][0] == f"trial_{best_of(searched.plan, trials).number:04d}"  # type: ignore[union-attr]
    assert "failed: out of memory" in [row[-1] for row in rows]


def test_of_few_trials_nothing_is_said_about_what_matters(searched: Search) -> None:
    trials = searched.standing.trials()
    assert importances(searched.study, trials[:6]) == {}
    assert exhibits_of(searched.plan, searched.study, [one for one in trials if one.state == TrialState.FAIL]) == []


def test_the_end_says_what_was_found_and_where_to_widen(
    searched: Search, settings: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    best = ending.end(searched.study, searched.standing, settings, Path("all"), ["train.py"])
    printed = capsys.readouterr().out
    assert f"val/loss {best.value:.4g} in trial_{best.number:04d}" in printed
    assert "28 finished, 1 pruned, 1 failed of 30" in printed
    assert "No page compares the fits: trial_" in printed
    assert "python train.py fit --config all/best.yaml" in printed
    written = yaml.safe_load(Path("all/best.yaml").read_text())
    assert written["model"]["init_args"]["lr"] == best.params["model.init_args.lr"]
    assert 0.9 <= written["model"]["init_args"]["optimizer_options"]["momentum"] <= 0.999
    assert written["data"] == settings["data"]
    at_edge = SPACE[0].edge(best.params["model.init_args.lr"]) == "high"
    assert ("model.lr: its best," in printed and "search beyond -1 too (Goodfellow" in printed) == at_edge


def test_a_search_without_a_result_says_why(plan: Make, opened: Open, settings: dict[str, Any]) -> None:
    search = opened(plan(2))
    for number, fit in enumerate(search.fits()):
        assert fit is not None
        record = {"status": "failed", "error": "out of memory"} if number else {"status": "finished", "best": None}
        fit.entry.write(record)
        search.ended(fit)
    with pytest.raises(ValueError, match=r"None of the 2 trials .* \(trial_0000: no finite value of val/loss was meas"):
        ending.end(search.study, search.standing, settings, Path("all"), ["train.py"])
    assert not Path("all/best.yaml").exists()
