"""What a search shows: its trials side by side, each option by itself, and which options matter."""

import math
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

from optuna.importance import PedAnovaImportanceEvaluator, get_param_importances
from optuna.study import Study
from optuna.trial import FrozenTrial, TrialState

from lightning_recipe.runs.search.dimension import Dimension
from lightning_recipe.runs.search.plan import Plan
from lightning_recipe.runs.search.search import REASON, shown
from lightning_recipe.runs.search.space import short
from lightning_recipe.runs.search.standing import best_of, has_value, values_of
from lightning_recipe.runs.search.trial_fits import name_of
from lightning_rules.exhibit import (
    Axis,
    Bars,
    Curve,
    Curves,
    Exhibit,
    Listing,
    ParallelCoordinates,
    Scatter,
    Section,
)
from lightning_rules.exhibit import End as Ending

FEW = 4  # finished trials, below which nothing can be said about what matters; nor of as few as options
# The share of trials that counts as good: with Optuna's 0.1, of 10 trials a single one, the option that decided came
# first in 4 of 15 simulated searches of 10 trials and in 12 of 15 of 20; with 0.25 in 13 and in all.
GOOD = 0.25
STATES: Mapping[TrialState, Ending] = {TrialState.COMPLETE: "finished", TrialState.PRUNED: "stopped"}


def exhibits_of(plan: Plan, study: Study, trials: Sequence[FrozenTrial]) -> list[Exhibit]:
    """The exhibits of a search, of which those that need more trials than there are left out.

    Args:
        plan: What was searched.
        study: The study of Optuna.
        trials: Those that count and have ended, in their order.
    """
    trials = [one for one in trials if one.params]
    if not any(map(has_value, trials)):
        return []
    made = [_slices(plan, trials), _parallel(plan, trials), _course(plan, trials)]
    return [*made, *_importance(plan, study, trials), _listing(plan, trials)]


def _slices(plan: Plan, trials: Sequence[FrozenTrial]) -> Exhibit:
    metric, better = plan.objective.metric, _better(plan)
    content = Scatter(
        _axes(plan),
        [_column(one, trials) for one in plan.space],
        _result_axis(plan, trials),
        [one.value for one in trials],
        better,
        [STATES.get(one.state, "failed") for one in trials],
        [float(place) for place in range(len(trials))],
        "pale: early trials, strong: late ones",
    )
    ended = "; of a trial that ended early the last value" if _any(trials, TrialState.PRUNED) else ""
    caption = (
        f"The best {metric} of each trial over each option, on the scale of the search{ended}. A best one at the end "
        "of a range asks for a wider range."
    )
    return Exhibit("search_slices", Section.SEARCH, "Options one by one", caption, content)


def _parallel(plan: Plan, trials: Sequence[FrozenTrial]) -> Exhibit:
    columns = [*(_column(one, trials) for one in plan.space), [one.value for one in trials]]
    content = ParallelCoordinates(
        [*_axes(plan), _result_axis(plan, trials)],
        [list(line) for line in zip(*columns, strict=True)],
        _better(plan),
    )
    caption = (
        f"Each line is a trial; the stronger its colour, the better its {plan.objective.metric}; the best is black or "
        "white, as the text is. Options on whose axis strong lines meet are settled."
    )
    return Exhibit("search_parallel", Section.SEARCH, "Trials side by side", caption, content)


def _course(plan: Plan, trials: Sequence[FrozenTrial]) -> Exhibit:
    numbers = [one.number for one in trials]
    best = [best_of(plan, trials[: place + 1]) for place in range(len(trials))]
    curves = [
        Curve("trial", numbers, [one.value if has_value(one) else None for one in trials], faint=True),
        Curve("best so far", numbers, [one.value if one is not None else None for one in best], "validation"),
    ]
    content = Curves(curves, "trial", plan.objective.metric, log_y=_is_wide(plan, trials))
    caption = "Trials in their order; where the best so far has long been flat, more of the same help little."
    return Exhibit("search_course", Section.SEARCH, "Best so far", caption, content)


def _importance(plan: Plan, study: Study, trials: Sequence[FrozenTrial]) -> list[Exhibit]:
    found = importances(study, trials)
    if not found:
        return []
    names = {one.key: name for one, name in zip(plan.space, _names(plan), strict=True)}
    content = Bars([names.get(key, key) for key in found], list(found.values()), "share of the variance")
    caption = (
        "How much each option by itself tells the best quarter of the trials from the others (PED-ANOVA, Watanabe "
        "et al., 2023); of few trials a rough guess."
    )
    return [Exhibit("search_importance", Section.SEARCH, "What matters", caption, content)]


def importances(study: Study, trials: Sequence[FrozenTrial]) -> dict[str, float]:
    """The share of each dimension, by its name in the study, the greatest first; none of too few trials.

    Args:
        study: The study of Optuna.
        trials: Those that count.
    """
    finished = [one for one in trials if has_value(one)]
    most = max((len(one.params) for one in finished), default=0)
    if len(finished) < max(FEW, most + 1) or len({one.value for one in finished}) < 2:
        return {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            found = get_param_importances(study, evaluator=PedAnovaImportanceEvaluator(target_quantile=GOOD))
        except (RuntimeError, ValueError, ZeroDivisionError):  # of some samples it has no variance to share out
            return {}
    return {name: float(share) for name, share in found.items() if math.isfinite(share)}


def _listing(plan: Plan, trials: Sequence[FrozenTrial]) -> Exhibit:
    sign = 1.0 if plan.objective.mode == "min" else -1.0
    order = sorted(trials, key=lambda one: (not has_value(one), sign * (one.value or 0.0) if has_value(one) else 0.0))
    rows = [[name_of(one.number), *_cells(plan, one), _ending(one)] for one in order]
    columns = ["trial", plan.objective.metric, *_names(plan), "ended"]
    return Exhibit("search_trials", Section.SEARCH, "Trials", "The best first.", Listing(columns, rows))


def _cells(plan: Plan, trial: FrozenTrial) -> list[str]:
    values = values_of(plan, trial)
    told = "" if trial.value is None else f"{trial.value:.4g}"
    return [told, *(shown(values[one.name]) if one.name in values else "" for one in plan.space)]


def _ending(trial: FrozenTrial) -> str:
    if trial.state == TrialState.FAIL:
        return f"failed: {trial.user_attrs.get(REASON, 'unknown')}"
    return "early" if trial.state == TrialState.PRUNED else "finished"


def _axes(plan: Plan) -> list[Axis]:
    """Of the dimensions, from end to end of what was searched."""
    return [_axis(one, name) for one, name in zip(plan.space, _names(plan), strict=True)]


def _axis(one: Dimension, name: str) -> Axis:
    if one.kind == "choice":
        return Axis(name, "categories", [str(label) for label in one.labels])
    if one.is_logarithmic:
        label = f"1 − {name}" if one.kind == "one_minus_log10" else name
        return Axis(label, "log", low=10.0**one.low, high=10.0**one.high)
    return Axis(name, "whole" if one.kind == "int" else "linear", low=one.low, high=one.high)


def _names(plan: Plan) -> list[str]:
    """The last words of the options, or more where two end alike."""
    lasts = [one.name.rpartition(".")[2] for one in plan.space]
    return [last if lasts.count(last) == 1 else short(one.name) for one, last in zip(plan.space, lasts, strict=True)]


def _column(one: Dimension, trials: Sequence[FrozenTrial]) -> list[float | None]:
    drawn: list[Any] = [trial.params.get(one.key) for trial in trials]
    if one.kind == "choice":
        return [float(one.labels.index(value)) if value in one.labels else None for value in drawn]
    return [None if value is None else float(value) for value in drawn]


def _result_axis(plan: Plan, trials: Sequence[FrozenTrial]) -> Axis:
    return Axis(plan.objective.metric, "log" if _is_wide(plan, trials) else "linear")


def _is_wide(plan: Plan, trials: Sequence[FrozenTrial]) -> bool:
    """Whether values of which the least is the best span so much that only a logarithmic axis shows the good ones."""
    values = [one.value for one in trials if one.value is not None and math.isfinite(one.value)]
    is_min = plan.objective.mode == "min"
    return is_min and bool(values) and min(values) > 0 and max(values) > 10 * min(values)


def _better(plan: Plan) -> Any:
    return "low" if plan.objective.mode == "min" else "high"


def _any(trials: Sequence[FrozenTrial], state: TrialState) -> bool:
    return any(one.state == state for one in trials)
