"""Trials become fits, end, crash, are pruned and killed: real studies, and real processes that do not train."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from optuna.trial import TrialState

from lightning_recipe.runs.manifest import Entry
from lightning_recipe.runs.search.dimension import Dimension
from lightning_recipe.runs.search.plan import Plan
from lightning_recipe.runs.search.search import OWNER, REASON, Search
from lightning_recipe.runs.search.standing import PLACE, VOID, best_of, places

Make, Open, Train = Callable[..., Plan], Callable[..., Search], Callable[..., Search]
Capture = pytest.CaptureFixture[str]
Patch, Driver = pytest.MonkeyPatch, Callable[..., subprocess.Popen[bytes]]
RATE = "model.init_args.lr"
WIDE = [Dimension(RATE, "log10", -5, -0.5)]


def points(search: Search) -> list[float]:
    """The rates, in the order of places."""
    trials = search.standing.trials()
    at = places(trials)
    return [one.params[RATE] for one in sorted(trials, key=lambda one: at[one.number])]


def states(search: Search) -> list[str]:
    return [one.state.name for one in search.standing.trials()]


def clear() -> None:
    """Away with the fits of another study."""
    for path in Path("all").glob("trial_*.*"):
        path.unlink()


def until(is_so: Callable[[], object]) -> None:
    end = time.monotonic() + 60
    while not is_so():
        assert time.monotonic() < end
        time.sleep(0.05)


def test_trials_become_fits_and_the_same_again_makes_none(
    plan: Make, opened: Open, train: Train, capsys: Capture
) -> None:
    search = train(opened(plan(5)))
    assert states(search) == ["COMPLETE"] * 5
    best = best_of(search.plan, search.standing.trials())
    assert best is not None
    config = yaml.safe_load(Path(f"all/trial_{best.number:04d}.yaml").read_text())
    assert config["model"]["init_args"]["lr"] == best.params[RATE]
    assert config["seed_everything"] == 0
    assert config["trainer"]["callbacks"][-1]["init_args"]["stoppable"] is True
    assert best.value == Entry(Path(f"all/trial_{best.number:04d}.json")).read()["best"]["value"]
    printed = capsys.readouterr().out
    assert f"trial_{best.number:04d} is the best so far: val/loss {best.value:.4g}" in printed
    before = points(search)
    again = train(opened(plan(5)))
    assert len(again.standing.all()) == 5
    assert "starts" not in capsys.readouterr().out
    more = train(opened(plan(6)))
    assert points(more)[:5] == before
    assert len(points(more)) == 6


def test_a_trial_that_runs_out_of_memory_is_recorded_and_the_search_goes_on(
    plan: Make, opened: Open, train: Train
) -> None:
    search = train(opened(plan(6, WIDE, seed=2)))
    trials = search.standing.trials()
    failed = [one for one in trials if one.params[RATE] > 0.05]
    assert failed
    assert {one.state for one in failed} == {TrialState.FAIL}
    assert {one.user_attrs[REASON] for one in failed} == {"killed by signal 9"}
    assert {one.state for one in trials if one not in failed} == {TrialState.COMPLETE}


def test_rounds_narrow_around_the_best_whatever_the_number_of_jobs(
    plan: Make, opened: Open, train: Train, monkeypatch: Patch
) -> None:
    monkeypatch.setattr("lightning_recipe.runs.search.search.WAIT", 0.1)
    two = train(opened(plan(6, rounds=3)), jobs=3)
    trials = two.standing.trials()
    widths = [one.distributions[RATE].high / one.distributions[RATE].low for one in trials]
    assert widths[0] == widths[1] == pytest.approx(10**3)
    assert widths[2] == widths[3] <= 10**1.5 * 1.001
    assert widths[4] == widths[5] <= 10**0.75 * 1.001
    best = min(trials[:2], key=lambda one: one.value or 0.0).params[RATE]
    assert trials[2].distributions[RATE].low <= best <= trials[2].distributions[RATE].high
    clear()
    assert points(train(opened(plan(6, rounds=3), "alone.journal"), jobs=1)) == points(two)


def test_what_falls_behind_is_stopped(plan: Make, opened: Open, train: Train) -> None:
    Path("all").mkdir()
    Path("all/patient").touch()
    search = train(opened(plan(9, pruner="median", sampler="qmc")), jobs=3)
    trials = search.standing.trials()
    pruned = [one for one in trials if one.state == TrialState.PRUNED]
    assert pruned
    assert all(Entry(Path(f"all/trial_{one.number:04d}.json")).read()["status"] == "stopped" for one in pruned)
    assert all(len(one.intermediate_values) < 4 for one in pruned)
    assert not list(Path("all").glob("*.stop"))
    best = best_of(search.plan, trials)
    assert best is not None
    assert min(one.value or 0.0 for one in pruned) > (best.value or 0.0)


# A search in a process of its own, to be killed.
DRIVER = """
import json, sys
from pathlib import Path
from lightning_recipe.runs import pool
from lightning_recipe.runs.search.dimension import Dimension
from lightning_recipe.runs.judged_by import Judge
from lightning_recipe.runs.search.plan import Plan
from lightning_recipe.runs.search.samplers import make_pruner, make_sampler
from lightning_recipe.runs.search.search import Search
from lightning_recipe.runs.search.standing import Standing
from lightning_recipe.runs.search.storage import open_storage, open_study
where, trials, settings = sys.argv[1], int(sys.argv[2]), json.loads(sys.argv[3])
plan = Plan((Dimension("model.init_args.lr", "log10", -5, -2),), Judge("val/loss", "min"), trials)
storage = open_storage(where)
standing = Standing(storage, "all", plan)
study = open_study(storage, "all", plan.describe(settings), where, make_sampler(plan, standing), make_pruner("none", 4))
search = Search(study, standing, settings, Path("all"))
places = pool.Places([sys.executable, "train.py"], 2)
pool.train_apart(search.fits(), 0, places, ended=search.ended, look=search.look)
"""


@pytest.fixture
def driver(script: list[str], settings: dict) -> Driver:
    def start(where: str, trials: int) -> subprocess.Popen[bytes]:
        words = [sys.executable, "-c", DRIVER, where, str(trials), json.dumps(settings)]
        return subprocess.Popen(words, start_new_session=True)

    return start


@pytest.mark.slow(seconds=12)
def test_after_kill_9_nothing_is_lost_but_the_running_trials(
    plan: Make, opened: Open, train: Train, driver: Driver, capsys: Capture
) -> None:
    process = driver("all/study.journal", 5)
    until(Entry(Path("all/trial_0000.json")).path.exists)
    until(lambda: Entry(Path("all/trial_0000.json")).read()["status"] == "finished")
    Path("all/slow").touch()
    until(lambda: len(list(Path("all").glob("*.waits"))) == 2)
    running = {path.stem for path in Path("all").glob("*.waits")}
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    Path("all/slow").unlink()
    with Path("all/study.journal").open("a") as journal:  # it was writing
        journal.write('{"op_code":8,"worker')

    search = train(opened(plan(5)))
    printed = capsys.readouterr().out
    assert all(f"{name} was killed; its place in the search is free again." in printed for name in running)
    assert states(search) == ["COMPLETE"] * 5
    void = [one for one in search.standing.all() if VOID in one.user_attrs]
    assert {f"trial_{one.number:04d}" for one in void} == running
    clear()
    assert points(search) == points(train(opened(plan(5), "undisturbed.journal"))), "as if nothing had happened"


def test_a_fit_goes_on_without_its_search_and_is_awaited(
    plan: Make, opened: Open, train: Train, driver: Driver, monkeypatch: Patch
) -> None:
    monkeypatch.setattr("lightning_recipe.runs.search.search.WAIT", 0.1)
    Path("all").mkdir()
    Path("all/slow").touch()
    process = driver("all/study.journal", 2)
    until(lambda: len(list(Path("all").glob("*.lock"))) == 2)
    process.kill()  # it alone
    process.wait()
    search = opened(plan(2))
    fits = search.fits()
    assert next(fits) is None
    Path("all/slow").unlink()
    train(search)
    assert states(search) == ["COMPLETE"] * 2
    assert len(search.standing.all()) == 2


@pytest.mark.parametrize("where", ["all/study.journal", "sqlite:///study.db"])
def test_two_processes_share_a_study(where: str, plan: Make, opened: Open, train: Train, driver: Driver) -> None:
    process = driver(where, 8)
    until(lambda: Path("all/trial_0000.json").exists())
    search = train(opened(plan(8), where))
    assert process.wait(60) == 0
    assert states(search) == ["COMPLETE"] * 8
    assert len(set(points(search))) == 8
    owners = {one.user_attrs[OWNER]["pid"] for one in search.standing.trials()}
    assert owners == {process.pid, os.getpid()}
    assert sorted(one.user_attrs[PLACE] for one in search.standing.trials()) == list(range(8))


def test_interrupted_fits_are_ended_and_their_places_are_free(
    plan: Make, opened: Open, train: Train, monkeypatch: Patch
) -> None:
    search = opened(plan(3))
    Path("all/slow").touch()

    def interrupted(running: list) -> None:
        if len(running) == 2 and len(list(Path("all").glob("*.lock"))) == 2:
            raise KeyboardInterrupt

    monkeypatch.setattr(search, "look", interrupted)
    with pytest.raises(KeyboardInterrupt):
        train(search)
    assert states(search) == []
    assert [one.state.name for one in search.standing.all()] == ["FAIL"] * 2
    Path("all/slow").unlink()
    search = train(opened(plan(3)))
    assert states(search) == ["COMPLETE"] * 3
    assert [one.user_attrs[PLACE] for one in search.standing.trials()] == [0, 1, 2]


def test_what_is_killed_each_time_is_left(plan: Make, opened: Open) -> None:
    for _ in range(3):
        search = opened(plan(2))
        assert next(search.fits()) is not None  # and then its process dies, having trained nothing
    (fit,) = [one for one in [next(opened(plan(2)).fits())] if one is not None]
    trials = search.standing.trials()
    assert [one.state.name for one in trials] == ["FAIL", "RUNNING"]
    assert trials[0].user_attrs[REASON] == "its process was killed, 3 times"
    assert fit.name == "trial_0003"
