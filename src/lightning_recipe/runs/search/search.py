"""The trials of a search as fits: drawn when there is room, told to the study when they end, taken over when killed."""

import os
import socket
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from optuna.exceptions import UpdateFinishedTrialError
from optuna.study import Study
from optuna.trial import FrozenTrial, Trial, TrialState

from lightning_recipe.runs.fit import Fit, Settings, make_fit
from lightning_recipe.runs.manifest import SILENCE, Entry, is_running
from lightning_recipe.runs.search.space import changed, short
from lightning_recipe.runs.search.standing import PLACE, VOID, Standing, best_of, next_place, places, values_of

OWNER, REASON = "owner", "reason"  # attributes of a trial
ATTEMPTS = 3  # at a trial whose process is killed
NAMELESS = 60.0  # seconds after which a trial without an owner is one whose process died at once
WAIT = 2.0  # seconds between two looks at what others do
KILLED = "its process was killed"


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
        self._mine: dict[str, Trial] = {}
        self._reported: dict[str, int] = {}
        self._asked = -WAIT

    def fits(self) -> Iterator[Fit | None]:
        """The fits to make, drawn one by one when they are asked for; None while others have to end first."""
        while True:
            if time.monotonic() - self._asked < WAIT:
                yield None
                continue
            awaited = self._take_over()
            trials = self.standing.trials()
            if len(trials) >= self.plan.total and not awaited:
                return
            fit = self._draw() if self._may_begin(trials, next_place(trials)) else None
            self._asked = time.monotonic() if fit is None else -WAIT
            yield fit

    def _may_begin(self, trials: Sequence[FrozenTrial], place: int) -> bool:
        """Whether a trial may begin at a place: a round begins when those before it have ended."""
        if place >= self.plan.total:
            return False
        this, at = self.plan.round_of(place), places(trials)
        return all(one.state.is_finished() or self.plan.round_of(at[one.number]) >= this for one in trials)

    def _draw(self) -> Fit | None:
        """The next trial as a fit; None where another process was faster, and none is to begin now."""
        trial = self.study.ask()  # its sampler takes the place
        self._mine[name_of(trial.number)] = trial
        self.standing.note(trial.number, OWNER, {"host": socket.gethostname(), "pid": os.getpid()})
        trials = self.standing.trials()
        place = places(trials)[trial.number]
        if not self._may_begin(trials, place):
            self._void(trial.number, "another process was faster")
            return None
        for one in self.standing.space_at(place):
            one.suggest(trial)
        values = values_of(self.plan, self.standing.trial(trial.number))
        own = {"seed_everything": self.plan.seed}
        name = name_of(trial.number)
        fit = make_fit(changed(self.settings, values), self.folder, name, own, stoppable=True)
        fit.write_config()
        return fit

    def look(self, running: Sequence[Fit]) -> None:
        """Tell the study how far fits are, and ask those to stop that it gives up."""
        if self.plan.pruner == "none":
            return
        for fit in running:
            if self._report(fit) and not fit.stop_file.exists() and self._mine[fit.name].should_prune():
                fit.stop_file.touch()

    def _report(self, fit: Fit) -> bool:
        """Report what was measured since the last time, counted in validations; whether there was anything."""
        history, before = fit.entry.read().get("history", []), self._reported.get(fit.name, 0)
        for place in range(before, len(history)):
            value = history[place][1]
            self._mine[fit.name].report(float("nan") if value is None else value, place + 1)
        self._reported[fit.name] = max(before, len(history))
        return len(history) > before

    def ended(self, fit: Fit) -> None:
        """Tell the study how a fit ended, and people if it is the best so far."""
        before = best_of(self.plan, self.standing.trials())
        if self.plan.pruner != "none":
            self._report(fit)
        number = self._mine.pop(fit.name).number
        fit.stop_file.unlink(missing_ok=True)
        self._tell(number, fit.entry.read())
        best = best_of(self.plan, self.standing.trials())
        if best is not None and best.number == number:
            than = f" (before: {before.value:.4g} of {name_of(before.number)})" if before is not None else ""
            metric, values = self.plan.objective.metric, spelled(values_of(self.plan, best))
            print(f"{fit.name} is the best so far: {metric} {best.value:.4g}{than}, with {values}.", flush=True)

    def close(self) -> None:
        """Tell the study of the fits that were ended from outside: their places are free for the next time."""
        for name, trial in list(self._mine.items()):
            record = _record(Entry(self.folder / f"{name}.json"))
            if record["status"] in ("finished", "stopped"):
                self._tell(trial.number, record)
            else:
                self._void(trial.number, "it was interrupted")
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
        fit = Fit(self.folder, name_of(trial.number), {})
        owner = trial.user_attrs.get(OWNER)
        if VOID in trial.user_attrs:
            self._end(trial.number, TrialState.FAIL)
            return False
        if owner is None:
            if trial.datetime_start is None or time.time() - trial.datetime_start.timestamp() > NAMELESS:
                self._void(trial.number, KILLED)
            return True
        if _is_alive(owner, fit):
            return False
        if fit.entry.holder() is not None:
            return True  # its search was killed, and it goes on
        record = _record(fit.entry)
        if record["status"] in ("finished", "stopped", "failed"):
            self._tell(trial.number, record)
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


def name_of(number: int) -> str:
    """What the fit of a trial is called."""
    return f"trial_{number:04d}"


def spelled(values: Mapping[str, Any]) -> str:
    """Values of options on one line."""
    return ", ".join(f"{short(name)}={shown(value)}" for name, value in values.items())


def shown(value: Any) -> str:
    """A value in few letters."""
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def strangers(folder: Path, known: Sequence[FrozenTrial]) -> list[str]:
    """The fits in a folder that are of no trial of the study.

    Args:
        folder: Where the fits go.
        known: All trials of the study.
    """
    names = {name_of(one.number) for one in known}
    return sorted(path.stem for path in folder.glob("trial_[0-9]*.yaml") if path.stem not in names)


def _record(entry: Entry) -> dict[str, Any]:
    try:
        return entry.read()
    except ValueError as error:
        return {"status": "failed", "error": str(error)}


def _is_alive(owner: Mapping[str, Any], fit: Fit) -> bool:
    """Whether the search that has a trial is at work on it; on another machine that shows in the files of the fit."""
    if owner["host"] == socket.gethostname():
        return bool(owner["pid"] != os.getpid() and is_running(owner["pid"]))
    signs = [path.stat().st_mtime for path in (fit.config, fit.entry.path, fit.entry.lock) if path.exists()]
    return not signs or time.time() - max(signs) < SILENCE
