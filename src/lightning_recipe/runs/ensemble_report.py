"""The page that an ensemble ends with: its members side by side, and what was made of them."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from lightning_recipe.runs.closing_page import newest_report, write_page
from lightning_recipe.runs.fit import Fit
from lightning_rules import Ensemble
from lightning_rules.exhibit import Bars, Exhibit
from lightning_rules.report.document import HTML


def write_report(folder: Path, finished: Sequence[Fit], trainer: Any) -> Path | None:
    """Write `report.html` into the folder of the ensemble; return where the page is, None where there is none.

    A single fit, as of snapshots, has compared its members in its own report.

    Args:
        folder: The folder of the ensemble.
        finished: The members.
        trainer: That of the run that compared them, whose callbacks hold the rule; None where their own fit did.
    """
    if trainer is None:
        reports = [path for one in finished if (path := newest_report(one)) is not None]
        page = reports[0].parent.parent / HTML if reports else None
        return page if page is not None and page.is_file() else None
    rules = [one for one in trainer.callbacks if isinstance(one, Ensemble)]
    names = {str(member.entry.checkpoint()): member.name for member in finished} if rules else {}
    exhibits = [_with_names(shown, names) for rule in rules for shown in rule.exhibits()]
    says = [finding.message for rule in rules for finding in rule.findings]
    return write_page(folder, finished, exhibits, says)


def _with_names(exhibit: Exhibit, names: Mapping[str, str]) -> Exhibit:
    """The bars of members have their names, not those of their checkpoints."""
    if not isinstance(exhibit.content, Bars):
        return exhibit
    labels = [names.get(label, label) for label in exhibit.content.labels]
    return replace(exhibit, content=replace(exhibit.content, labels=labels))
