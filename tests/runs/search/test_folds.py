"""Trials whose value is the mean over folds: real studies, and real processes that do not train."""

import itertools
import json
import statistics
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from optuna.trial import FrozenTrial, TrialState

from lightning_recipe.runs.search.dimension import Dimension
from lightning_recipe.runs.search.plan import Plan
from lightning_recipe.runs.search.search import REASON, Search
from lightning_recipe.runs.search.standing import VOID
from lightning_recipe.runs.search.trial_fits import fits_of, told_by, trial_of

Make, Open, Train = Callable[..., Plan], Callable[..., Search], Callable[..., Search]
RATE = "model.init_args.lr"


def begun(trial: FrozenTrial) -> list[int]:
    """The folds of a trial whose fits have begun."""
    return sorted(int(path.stem[-1]) for path in Path("all").glob(f"trial_{trial.number:04d}_fold_*.json"))


def loss(trial: FrozenTrial) -> float:
    """That of the first fold, less 1."""
    told = json.loads(Path(f"all/trial_{trial.number:04d}_fold_1.json").read_text())
    return float(told["test"]["test/loss"]) - 1


def test_each_trial_is_trained_on_the_same_folds_and_its_value_is_their_mean(
    plan: Make, opened: Open, train: Train
) -> None:
    search = train(opened(plan(3, folds=3, seed=7)), jobs=2)
    trials = search.standing.trials()
    assert [one.state for one in trials] == [TrialState.COMPLETE] * 3
    for one in trials:
        fits = fits_of(search.plan, Path("all"), one.number)
        settings = [yaml.safe_load(fit.config.read_text()) for fit in fits]
        assert [each["held_out"] for each in settings] == ["1/3@7", "2/3@7", "3/3@7"]
        assert [each["seed_everything"] for each in settings] == [7, 8, 9], "as crossval has them"
        assert {each["model"]["init_args"]["lr"] for each in settings} == {one.params[RATE]}
        assert all(each["test_after_fit"] for each in settings)
        assert one.value == pytest.approx(loss(one) + 2)
    assert len(train(opened(plan(3, folds=3, seed=7))).standing.all()) == 3, "nothing is left to do"


def test_a_trial_that_falls_behind_does_not_begin_its_other_folds(plan: Make, opened: Open, train: Train) -> None:
    search = train(opened(plan(9, folds=3, pruner="median", sampler="qmc")), jobs=1)
    trials = search.standing.trials()
    pruned = [one for one in trials if one.state == TrialState.PRUNED]
    assert pruned
    assert all(begun(one) == [1] for one in pruned)
    assert all(begun(one) == [1, 2, 3] for one in trials if one not in pruned)
    for one in pruned:
        assert loss(one) > statistics.median(loss(other) for other in trials if other.number < one.number)
    assert not list(Path("all").glob("*.stop"))


def test_a_fold_that_fails_is_the_end_of_its_trial_alone(plan: Make, opened: Open, train: Train) -> None:
    search = train(opened(plan(6, [Dimension(RATE, "log10", -5, -0.5)], seed=2, folds=3)), jobs=1)
    trials = search.standing.trials()
    failed = [one for one in trials if one.params[RATE] > 0.05]
    assert failed
    assert {one.user_attrs[REASON] for one in failed} == {"fold 1: killed by signal 9"}
    assert all(begun(one) == [1] for one in failed)
    assert {one.state for one in trials if one not in failed} == {TrialState.COMPLETE}


def test_a_trial_whose_search_died_counts_only_if_all_folds_are_finished(
    plan: Make, opened: Open, train: Train, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lightning_recipe.runs.search.search.WAIT", 0.1)
    for finished in (2, 1):  # each search dies in its trial
        coming = opened(plan(2, folds=2)).fits()
        for fit in itertools.islice(coming, finished):
            assert fit is not None
            fit.entry.write({"status": "finished", "test": {"test/loss": 0.5}})
    search = train(opened(plan(2, folds=2)))
    one, killed, anew = search.standing.all()
    assert (one.state, one.value) == (TrialState.COMPLETE, 0.5)
    assert killed.user_attrs[VOID] == "its process was killed"
    assert anew.state == TrialState.COMPLETE
    assert anew.params == killed.params


def test_what_folds_tell_together(plan: Make) -> None:
    of_folds = plan(1, folds=3)
    fits = fits_of(of_folds, Path("all"), 4)
    assert [fit.name for fit in fits] == ["trial_0004_fold_1", "trial_0004_fold_2", "trial_0004_fold_3"]
    assert {trial_of(fit) for fit in fits} == {"trial_0004"}

    def ended(fold: int, status: str = "finished", **more: Any) -> dict[str, Any]:
        fits[fold].entry.write({"status": status, **more})
        return told_by(of_folds, fits)

    assert told_by(of_folds, fits) == {"status": "running", "history": []}
    assert ended(1, test={"test/loss": 3.0})["history"] == [], "trials are compared on the same folds"
    assert ended(0, test={"test/loss": 1.0})["history"] == [[1, 1.0], [2, 2.0]]
    told = ended(2, test={"test/loss": 5.0})
    assert (told["status"], told["best"]["value"]) == ("finished", 3.0)
    assert of_folds.objective.value_of(ended(2, test={"test/accuracy": 1.0})) is None, "it was not measured"
    assert ended(2, "stopped")["status"] == "stopped"
    told = ended(1, "failed", error="out of memory")
    assert (told["status"], told["error"]) == ("failed", "fold 2: out of memory")
