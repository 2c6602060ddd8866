"""The trials of a search as fits: drawn when there is room, told to the study when they end, taken over when killed."""

import os
import socket
import time
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from optuna.exceptions import UpdateFinishedTrialError
from optuna.study import Study
from optuna.trial import FrozenTrial, Trial, TrialState

from lightning_recipe.runs.fit import Fit, Settings
from lightning_recipe.runs.manifest import SILENCE, is_running
from lightning_recipe.runs.search.plan import Plan
from lightning_recipe.runs.search.space import changed, short
from lightning_recipe.runs.search.standing import PLACE, VOID, Standing, best_of, next_place, places, values_of
from lightning_recipe.runs.search.trial_fits import fits_of, make_fits, name_of, told_by, trial_of

OWNER, REASON = "owner", "reason"  # attributes of a trial
ATTEMPTS = 3  # at a trial whose process is killed
NAMELESS = 60.0  # seconds after which a trial without an owner is one whose process died at once
WAIT = 2.0  # seconds between two looks at what others do
KILLED = "its process was killed"


@dataclass
class OwnTrial:
    """A trial that this process has drawn, and is at work on.

    Attributes:
        trial: Of Optuna.
        fits: All of the trial, in their order.
        waiting: Those yet to begin.
        running: The names of those that have begun and not ended.
        reported: How many entries of its history Optuna knows.
        is_given_up: Whether it ends early.
    """

    trial: Trial
    fits: list[Fit]
    waiting: deque[Fit] = field(default_factory=deque)
    running: set[str] = field(default_factory=set)
    reported: int = 0
    is_given_up: bool = False


class Search:
    """Draws the trials of a study and makes fits of them.

    Args:
        study: Of Optuna, shared by all who take part.
        standing: Of the same study.
        settings: All settings of `fit`, to which a trial gives its own values.
        folder: Where the fits go.
    """

    def __init__(self, study: Study, standing: Standing, settings: Settings, folder: Path) -> None:
        self.study, self.standing, self.settings, self.folder = study, standing, settings, folder
        self.plan = standing.plan
        self._mine: dict[str, OwnTrial] = {}
        self._asked = -WAIT

    def fits(self) -> Iterator[Fit | None]:
        """The fits to make, drawn trial by trial when they are asked for; None while others have to end first."""
        while True:
            mine = next((one for one in self._mine.values() if one.waiting), None)
            if mine is not None:
                fit = mine.waiting.popleft()
                mine.running.add(fit.name)
                yield fit
                continue
            if time.monotonic() - self._asked < WAIT:
                yield None
                continue
            awaited = self._take_over()
            trials = self.standing.trials()
            if len(trials) >= self.plan.total and not awaited:
                return
            if not (self._may_begin(trials, next_place(trials)) and self._draw()):
                self._asked = time.monotonic()

    def _may_begin(self, trials: Sequence[FrozenTrial], place: int) -> bool:
        """Whether a trial may begin at a place: a round begins when those before it have ended."""
        if place >= self.plan.total:
            return False
        this, at = self.plan.round_of(place), places(trials)
        return all(one.state.is_finished() or self.plan.round_of(at[one.number]) >= this for one in trials)

    def _draw(self) -> bool:
        """Draw the next trial; whether there is one: another process may have been faster, and none is to begin now."""
        trial = self.study.ask()  # its sampler takes the place
        mine = OwnTrial(trial, fits_of(self.plan, self.folder, trial.number))
        self._mine[name_of(trial.number)] = mine
        self.standing.note(trial.number, OWNER, {"host": socket.gethostname(), "pid": os.getpid()})
        trials = self.standing.trials()
        place = places(trials)[trial.number]
        if not self._may_begin(trials, place):
            self._void(trial.number, "another process was faster")
            return False
        for one in self.standing.space_at(place):
            one.suggest(trial)
        values = values_of(self.plan, self.standing.trial(trial.number))
        mine.fits = make_fits(self.plan, changed(self.settings, values), self.folder, trial.number)
        for fit in mine.fits:
            fit.write_config()
        mine.waiting.extend(mine.fits)
        return True

    def look(self, running: Sequence[Fit]) -> None:
        """Tell the study how far trials are, and end those that it gives up."""
        if self.plan.pruner == "none":
            return
        for name in dict.fromkeys(map(trial_of, running)):
            self._prune(self._mine[name])

    def _prune(self, mine: OwnTrial) -> None:
        if self._report(mine) and not mine.is_given_up and mine.trial.should_prune():
            self._give_up(mine)

    def _give_up(self, mine: OwnTrial) -> None:
        mine.is_given_up = True
        mine.waiting.clear()
        for fit in mine.fits:
            if fit.name in mine.running:
                fit.stop_file.touch()

    def _report(self, mine: OwnTrial) -> bool:
        """Report what was measured since the last time, counted in validations or folds; whether there was anything."""
        history, before = told_by(self.plan, mine.fits).get("history", []), mine.reported
        for place in range(before, len(history)):
            value = history[place][1]
            mine.trial.report(float("nan") if value is None else value, place + 1)
        mine.reported = max(before, len(history))
        return len(history) > before

    def ended(self, fit: Fit) -> None:
        """Take in that a fit has ended; with the last of its trial, tell the study how the trial ended."""
        mine = self._mine[trial_of(fit)]
        mine.running.discard(fit.name)
        fit.stop_file.unlink(missing_ok=True)
        if told_by(self.plan, mine.fits)["status"] in ("failed", "stopped"):
            self._give_up(mine)
        elif self.plan.pruner != "none" and mine.waiting:
            self._prune(mine)
        if not mine.running and not mine.waiting:
            self._conclude(mine)

    def _conclude(self, mine: OwnTrial) -> None:
        """Tell the study how a trial ended, and people if it is the best so far."""
        number, before = mine.trial.number, best_of(self.plan, self.standing.trials())
        if self.plan.pruner != "none":
            self._report(mine)
        del self._mine[name_of(number)]
        told = told_by(self.plan, mine.fits)
        self._tell(number, {"status": "stopped"} if mine.is_given_up and told["status"] == "running" else told)
        best = best_of(self.plan, self.standing.trials())
        if best is not None and best.number == number:
            than = f" (before: {before.value:.4g} of {name_of(before.number)})" if before is not None else ""
            metric, values = self.plan.objective.metric, spelled(values_of(self.plan, best))
            print(f"{name_of(number)} is the best so far: {metric} {best.value:.4g}{than}, with {values}.", flush=True)

    def close(self) -> None:
        """Tell the study of the trials that were ended from outside: their places are free for the next time."""
        for mine in list(self._mine.values()):
            told = told_by(self.plan, mine.fits)
            if told["status"] in ("finished", "stopped"):
                self._tell(mine.trial.number, told)
            else:
                self._void(mine.trial.number, "it was interrupted")
        self._mine.clear()

    def _tell(self, number: int, record: Mapping[str, Any]) -> None:
        """Tell the study how a trial ended."""
        value, metric = self.plan.objective.value_of(record), self.plan.objective.metric
        if record["status"] == "finished" and value is not None:
            self._end(number, TrialState.COMPLETE, value)
        elif record["status"] == "stopped":
            self._end(number, TrialState.PRUNED)
        elif record["status"] == "finished":
            self._fail(number, f"no finite value of {metric} was measured")
        else:
            self._fail(number, str(record.get("error", record["status"])))

    def _fail(self, number: int, reason: str) -> None:
        if not self.standing.trial(number).state.is_finished():
            self.standing.note(number, REASON, reason)
        self._end(number, TrialState.FAIL)

    def _void(self, number: int, why: str) -> None:
        """Let a trial not count, so that its place is free again."""
        self._mine.pop(name_of(number), None)
        if not self.standing.trial(number).state.is_finished():
            self.standing.note(number, VOID, why)
        self._end(number, TrialState.FAIL)

    def _end(self, number: int, state: TrialState, value: float | None = None) -> None:
        """End a trial, unless another process has."""
        with suppress(UpdateFinishedTrialError):
            self.study.tell(number, value, state, skip_if_finished=True)

    def _take_over(self) -> bool:
        """Tell the study of trials whose process died before it could; whether one is to be waited for."""
        running = [one for one in self.standing.all() if one.state == TrialState.RUNNING]
        awaited = [self._take_over_one(one) for one in running if name_of(one.number) not in self._mine]
        return any(awaited)

    def _take_over_one(self, trial: FrozenTrial) -> bool:
        fits = fits_of(self.plan, self.folder, trial.number)
        owner = trial.user_attrs.get(OWNER)
        if VOID in trial.user_attrs:
            self._end(trial.number, TrialState.FAIL)
            return False
        if owner is None:
            if trial.datetime_start is None or time.time() - trial.datetime_start.timestamp() > NAMELESS:
                self._void(trial.number, KILLED)
            return True
        if _is_alive(owner, fits):
            return False
        if any(fit.entry.holder() is not None for fit in fits):
            return True  # its search was killed, and it goes on
        told = told_by(self.plan, fits)
        if told["status"] in ("finished", "stopped", "failed"):
            self._tell(trial.number, told)
        else:
            self._killed(trial)
        return False

    def _killed(self, trial: FrozenTrial) -> None:
        place = trial.user_attrs.get(PLACE)
        before = [one for one in self.standing.all() if one.user_attrs.get(VOID) == KILLED]
        times = 1 + sum(one.user_attrs.get(PLACE) == place for one in before)
        if times < ATTEMPTS:
            print(f"{name_of(trial.number)} was killed; its place in the search is free again.", flush=True)
            self._void(trial.number, KILLED)
        else:
            self._fail(trial.number, f"{KILLED}, {times} times")


def spelled(values: Mapping[str, Any]) -> str:
    """Values of options on one line."""
    return ", ".join(f"{short(name)}={shown(value)}" for name, value in values.items())


def shown(value: Any) -> str:
    """A value in few letters."""
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def strangers(plan: Plan, folder: Path, known: Sequence[FrozenTrial]) -> list[str]:
    """The fits in a folder that are of no trial of the study.

    Args:
        plan: The search.
        folder: Where the fits go.
        known: All trials of the study.
    """
    names = {fit.name for one in known for fit in fits_of(plan, folder, one.number)}
    return sorted(path.stem for path in folder.glob("trial_[0-9]*.yaml") if path.stem not in names)


def _is_alive(owner: Mapping[str, Any], fits: Sequence[Fit]) -> bool:
    """Whether the search that has a trial is at work on it; on another machine that shows in the files of its fits."""
    if owner["host"] == socket.gethostname():
        return bool(owner["pid"] != os.getpid() and is_running(owner["pid"]))
    files = [path for fit in fits for path in (fit.config, fit.entry.path, fit.entry.lock)]
    signs = [path.stat().st_mtime for path in files if path.exists()]
    return not signs or time.time() - max(signs) < SILENCE
