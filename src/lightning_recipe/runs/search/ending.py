"""What a search ends with: the best settings as a file for `fit`, a summary, and a page."""

import shlex
import sys
import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml  # type: ignore[import-untyped]
from optuna.study import Study
from optuna.trial import FrozenTrial, TrialState

from lightning_recipe import summary
from lightning_recipe.runs.closing_page import write_page
from lightning_recipe.runs.fit_record import reason_of
from lightning_recipe.runs.search.exhibits import exhibits_of
from lightning_recipe.runs.search.plan import Plan
from lightning_recipe.runs.search.search import REASON, shown, spelled
from lightning_recipe.runs.search.space import changed, short
from lightning_recipe.runs.search.standing import Standing, best_of, has_value, values_of
from lightning_recipe.runs.search.trial_fits import fits_of, name_of
from lightning_recipe.whole_file import whole_file

BEST = "best.yaml"


def end(
    study: Study, standing: Standing, settings: Mapping[str, Any], folder: Path, script: Sequence[str]
) -> FrozenTrial:
    """Write the best settings and the page, and print the summary.

    Args:
        study: The study of Optuna.
        standing: Of the same study.
        settings: All settings of `fit`, to which a trial gives its own values.
        folder: The folder of the search.
        script: The words that start the command line, less the interpreter.

    Raises:
        ValueError: If no trial came to its end with a value.
    """
    plan, trials = standing.plan, standing.trials()
    best = best_of(plan, trials)
    if best is None:
        raise ValueError(_nothing(plan, trials))
    write_best(folder / BEST, plan, best, settings, script)
    says = edges(plan, best)
    page = _write_page(folder, plan, study, trials, best, says)
    values = values_of(plan, best)
    rows = [("Best", _result(plan, best))]
    rows += [(short(name), shown(value)) for name, value in values.items()]
    rows += [("Trials", _tally(trials, plan.total)), *(("At an edge", one) for one in says)]
    rows += [("Report", summary.shown_path(page))] if page is not None else []
    rows.append(("Fit", shlex.join(["python", *script, "fit", "--config", summary.shown_path(folder / BEST)])))
    print("\n" + summary.table(rows))
    return best


def write_best(path: Path, plan: Plan, best: FrozenTrial, settings: Mapping[str, Any], script: Sequence[str]) -> None:
    """Write all settings of `fit` with the values of the best trial, so that `fit` trains it again.

    Args:
        path: The file.
        plan: What was searched.
        best: The trial.
        settings: Those that trials have in common.
        script: The words that start the command line, less the interpreter.
    """
    values = values_of(plan, best)
    chosen = {**changed(settings, values), "seed_everything": plan.seed}
    words = textwrap.wrap(f"the best of a search: {_result(plan, best)}, with {spelled(values)}.", 98)
    with whole_file(path) as file:
        print("# Purpose: " + "\n#          ".join(words), file=file)
        print(f"# Launch:  {shlex.join(['python', *script, 'fit', '--config', str(path)])}", file=file)
        yaml.safe_dump(chosen, file, sort_keys=False)


def edges(plan: Plan, best: FrozenTrial) -> list[str]:
    """The options whose best value lies at an end of the range that was given, and what to do about it."""
    said = []
    for one in plan.space:
        side = one.edge(best.params[one.key]) if one.key in best.params else None
        if side is not None:
            end_, name = (one.low if side == "low" else one.high), short(one.name)
            where = f"its best, {shown(one.value(best.params[one.key]))}, is at an end of {one.spelled()}"
            said.append(f"{name}: {where}: search beyond {end_:g} too (Goodfellow et al., 2016, 11.4.3).")
    return said


def _result(plan: Plan, best: FrozenTrial) -> str:
    of_folds = f", the mean of {plan.folds} folds" if plan.folds is not None else ""
    return f"{plan.objective.metric} {best.value:.4g} in {name_of(best.number)}{of_folds}"


def _tally(trials: Sequence[FrozenTrial], total: int) -> str:
    kinds = (
        ("pruned", TrialState.PRUNED),
        ("failed", TrialState.FAIL),
        ("running elsewhere", TrialState.RUNNING),
    )
    counts = [("finished", sum(map(has_value, trials)))]
    counts += [(name, sum(one.state == state for one in trials)) for name, state in kinds]
    return ", ".join(f"{count} {name}" for name, count in counts if count) + f" of {total}"


def _nothing(plan: Plan, trials: Sequence[FrozenTrial]) -> str:
    reasons = [f"{name_of(one.number)}: {one.user_attrs[REASON]}" for one in trials if REASON in one.user_attrs]
    more = f"; and {len(reasons) - 3} more" if len(reasons) > 3 else ""
    told = f" ({'; '.join(reasons[:3])}{more})" if reasons else ""
    return (
        f"None of the {len(trials)} trials came to its end with a value of {plan.objective.metric}{told}: remove what "
        "stopped them, and search in another --folder."
    )


def _write_page(
    folder: Path, plan: Plan, study: Study, trials: Sequence[FrozenTrial], best: FrozenTrial, says: Sequence[str]
) -> Path | None:
    """The page; whatever goes wrong with its figures is one line of warning, for the search is done."""
    sign = 1.0 if plan.objective.mode == "min" else -1.0
    order = sorted(trials, key=lambda one: (one.value is None, sign * (one.value or 0.0)))
    fits = [fit for one in order for fit in fits_of(plan, folder, one.number)]
    try:
        exhibits = exhibits_of(plan, study, [one for one in trials if one.state.is_finished()])
    except Exception as error:
        print(f"warning: the figures of the search could not be made ({reason_of(error)}).", file=sys.stderr)
        exhibits = []
    headline = f"The best is {_result(plan, best)}, with {spelled(values_of(plan, best))}."
    return write_page(folder, fits, exhibits, [_tally(trials, plan.total) + ".", *says], headline)
