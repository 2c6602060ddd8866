"""What a run is held against: a guess, the best that is known, and the last run of the same configuration."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from lightning_rules.report.document import JSON, Document
from lightning_rules.report.score import Mode, Score, best_of, interval, is_share, main_metric
from lightning_rules.watch.bias_variance import BiasVariance
from lightning_rules.watch.worst_errors import WorstErrors

RUNS = 50  # beside this one that are looked through, the newest


def score_of(document: Document, trainer: Any) -> Score | None:
    """The number by which to judge a run, with what the rules of its Trainer know of it; None where none is logged.

    A callback with an attribute `trains_on_validation` that is true says that there is none: what is measured on
    examples that were trained on is no score.
    """
    if any(getattr(one, "trains_on_validation", False) for one in trainer.callbacks):
        return None
    wanted: list[tuple[str, Mode]] = [
        (one.monitor, one.mode) for one in trainer.callbacks if getattr(one, "monitor", None) and hasattr(one, "mode")
    ]
    names = [name for name in document.metrics if "val" in name.lower()] or list(document.metrics)
    found = main_metric(names, wanted)
    if found is None:
        return None
    name, mode = found
    series = document.metrics[name]
    best = best_of(series.steps, series.values, mode)
    if best is None:
        return None
    score = Score(name, mode, best[1], best[0])
    return _with_rules(score, trainer) if is_share(name) and 0 <= score.value <= 1 else score


def _with_rules(score: Score, trainer: Any) -> Score:
    """A share of examples: how sure it is, and what a guess and the best that is known get."""
    errors = next((one.errors for one in trainer.callbacks if isinstance(one, WorstErrors) and one.errors), None)
    human = next((one.human_error for one in trainer.callbacks if isinstance(one, BiasVariance)), None)
    if errors is not None and errors.members and errors.examples:
        low, high = interval(score.value, errors.examples)
        score = replace(score, examples=errors.examples, low=low, high=high)
        if "acc" in score.name.lower() and not errors.several:
            score = replace(score, majority=max(errors.members) / errors.examples)
    return score if human is None or "acc" not in score.name.lower() else replace(score, known=1 - human)


def beside_previous(document: Document, folder: Path) -> Score | None:
    """The score beside that of the last run of the same configuration in the folder that holds this run's."""
    score, config = document.score, document.record.get("config")
    if score is None or not config or not folder.parent.is_dir():
        return score
    files = [path for path in folder.parent.glob(f"*/{JSON}") if path.parent.parent.resolve() != folder.resolve()]
    for path in sorted(files, key=lambda path: path.stat().st_mtime, reverse=True)[:RUNS]:
        try:
            other = Document.read(path)
        except (OSError, ValueError):
            continue
        same = other.score is not None and other.score.name == score.name and other.record.get("config") == config
        if same and other.score is not None and other.started < document.started and not other.is_unfinished:
            return replace(score, previous=other.score.value, previous_run=other.run or path.parent.parent.name)
    return score
