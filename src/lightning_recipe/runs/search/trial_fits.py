"""The fits of a trial, one or one for each fold of the data, and what they tell together."""

import itertools
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lightning_recipe.runs.fit import Fit, Settings, make_fit
from lightning_recipe.runs.search.plan import Plan

FOLD = "_fold_"


def name_of(number: int) -> str:
    """What a trial is called."""
    return f"trial_{number:04d}"


def trial_of(fit: Fit) -> str:
    """What the trial of a fit is called."""
    return fit.name.partition(FOLD)[0]


def fits_of(plan: Plan, folder: Path, number: int) -> list[Fit]:
    """The fits of a trial, without their settings.

    Args:
        plan: The search.
        folder: Where the fits go.
        number: Of the trial.
    """
    name = name_of(number)
    if plan.folds is None:
        return [Fit(folder, name, {})]
    return [Fit(folder, f"{name}{FOLD}{fold + 1}", {}) for fold in range(plan.folds)]


def make_fits(plan: Plan, settings: Settings, folder: Path, number: int) -> list[Fit]:
    """The fits of a trial.

    Those of folds have the folds and seeds that they have in a cross-validation: the same in all trials, so that these
    differ by their options alone.

    Args:
        plan: The search.
        settings: All settings of `fit`, with the values of the trial.
        folder: Where the fits go.
        number: Of the trial.
    """
    made = []
    for fold, fit in enumerate(fits_of(plan, folder, number)):
        own: Settings = {"seed_everything": plan.seed + fold}
        own |= {} if plan.folds is None else {"held_out": f"{fold + 1}/{plan.folds}@{plan.seed}"}
        made.append(make_fit(settings, folder, fit.name, own, awaits=_awaits(plan), stoppable=True))
    return made


def _awaits(plan: Plan) -> list[str]:
    return [] if plan.folds is None else ["test"]


def told_by(plan: Plan, fits: Sequence[Fit]) -> dict[str, Any]:
    """How a trial stands, as one fit would tell it: `status`, `history`, `best`, `error`.

    The history of folds has a value for each that has ended after those before it: their mean. So trials are compared
    on the same examples at each place of it.

    Args:
        plan: The search.
        fits: Those of the trial, in their order.
    """
    records = [_record(fit) for fit in fits]
    if plan.folds is None:
        return records[0]
    states = [one["status"] for one in records]
    ended = itertools.takewhile(lambda one: one["status"] == "finished", records)
    scores = [one.get("test", {}).get(plan.objective.metric, math.nan) for one in ended]
    means = [sum(scores[:count]) / count for count in range(1, len(scores) + 1)]
    told: dict[str, Any] = {"status": _together(states), "history": [[at + 1, mean] for at, mean in enumerate(means)]}
    if told["status"] == "finished":
        told["best"] = {"name": plan.objective.metric, "mode": plan.objective.mode, "value": means[-1]}
    if told["status"] == "failed":
        at = states.index("failed")
        told["error"] = f"fold {at + 1}: {records[at].get('error', 'failed')}"
    return told


def _together(states: Sequence[str]) -> str:
    if set(states) == {"finished"}:
        return "finished"
    return next((state for state in ("failed", "stopped") if state in states), "running")


def _record(fit: Fit) -> dict[str, Any]:
    try:
        return fit.entry.read()
    except ValueError as error:
        return {"status": "failed", "error": str(error)}
