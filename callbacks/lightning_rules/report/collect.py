"""What all rules of a run know, brought together in its document."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from lightning_rules import record
from lightning_rules.exhibit import Exhibit, Picture
from lightning_rules.monitor import Monitor
from lightning_rules.report.document import Document
from lightning_rules.report.held_against import beside_previous, score_of
from lightning_rules.reproduce import run_files
from lightning_rules.rule import Rule, attempt


def collect(document: Document, trainer: Any, folder: str | None, costs: Mapping[str, float]) -> None:
    """Bring the document up to now: findings, what the rules show, progress, costs and score.

    Args:
        document: The run; changed in place.
        trainer: The run's Trainer.
        folder: Of the run; beside a local one the previous run is looked for.
        costs: As in :attr:`Document.cost`.
    """
    rules = [one for one in trainer.callbacks if isinstance(one, Rule)]
    document.findings = [finding for rule in rules for finding in rule.findings]
    document.rules = [
        {"name": one.name, "kind": one.kind, "says": _first_line(one), "source": one.source} for one in rules
    ]
    document.exhibits = _with_earlier([shown for rule in rules for shown in _exhibits(rule)], document.exhibits)
    document.progress = {
        "epoch": trainer.current_epoch,
        "epochs": trainer.max_epochs if trainer.max_epochs and trainer.max_epochs > 0 else None,
        "step": trainer.global_step,
        "steps": trainer.max_steps if trainer.max_steps > 0 else None,
    }
    document.cost |= costs
    document.record |= best_checkpoint(trainer)
    document.score = score_of(document, trainer)
    if folder is not None and "://" not in folder:
        document.score = beside_previous(document, Path(folder))


def best_checkpoint(trainer: Any) -> dict[str, str]:
    """The path of the best checkpoint that was kept, and its tag, where it has one."""
    path = str(getattr(trainer.checkpoint_callback, "best_model_path", "") or "")
    known = run_files.read_record(path) if path else None
    return {name: value for name, value in (("checkpoint", path), ("tag", (known or {}).get("tag"))) if value}


def to_keep(document: Document, trainer: Any) -> Document:
    """What a checkpoint has to hold, so that a resumed run goes on with it: series, and what was seen before the start.

    Monitors show theirs anew; findings are in the state of their rules.
    """
    before = [rule for rule in trainer.callbacks if isinstance(rule, Rule) and not isinstance(rule, Monitor)]
    shown = _with_earlier([one for rule in before for one in _exhibits(rule)], document.exhibits)
    return replace(document, exhibits=shown, findings=[], rules=[], record={})


def _exhibits(rule: Rule) -> list[Exhibit]:
    found, why_not = attempt(rule.exhibits)
    if why_not:
        record.log.debug(f"{rule.name} shows nothing: {why_not}")
    return list(found or ())


def _with_earlier(shown: list[Exhibit], earlier: list[Exhibit]) -> list[Exhibit]:
    """What was shown before the run was resumed stays until it is shown anew; pictures are files of that run's folder.

    A resumed run does not look at its data and its start again.
    """
    names = {one.name for one in shown}
    return [*shown, *(one for one in earlier if one.name not in names and not isinstance(one.content, Picture))]


def _first_line(rule: Rule) -> str:
    return (type(rule).__doc__ or "").strip().partition("\n")[0]
