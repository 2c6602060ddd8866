"""The page that an ensemble ends with: its members side by side, and what was made of them."""

import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from lightning_recipe.runs.fit import Fit
from lightning_recipe.runs.fit_record import reason_of
from lightning_rules import Ensemble
from lightning_rules.exhibit import Bars, Exhibit

PAGE = "report.html"


def write_report(folder: Path, finished: Sequence[Fit], trainer: Any) -> Path | None:
    """Write `report.html` into the folder of the ensemble; return where the page is, None where there is none.

    Members without a report are told of and left out. Whatever goes wrong is one line of warning: the ensemble is
    there. A single fit, as of snapshots, has compared its members in its own report.

    Args:
        folder: The folder of the ensemble.
        finished: The members.
        trainer: That of the run that compared them, whose callbacks hold the rule; None where their own fit did.
    """
    try:
        return _write(folder, finished, trainer)
    except Exception as error:
        print(f"warning: the page of the ensemble could not be made ({reason_of(error)}).", file=sys.stderr)
        return None


def _write(folder: Path, finished: Sequence[Fit], trainer: Any) -> Path | None:
    from lightning_rules.report.command import write_comparison
    from lightning_rules.report.document import HTML
    from lightning_rules.report.find_runs import find_runs

    newest = {member.name: _newest_report(member) for member in finished}
    reports = [path for path in newest.values() if path is not None]
    if trainer is None:
        page = reports[0].parent.parent / HTML if reports else None
        return page if page is not None and page.is_file() else None
    without = [name for name, path in newest.items() if path is None]
    if len(reports) < 2:
        print(f"No page compares the members: {_have(without)} no report (made with --report none or --rules none).")
        return None
    if without:
        print(f"warning: left out of the page is what has no report: {', '.join(without)}.", file=sys.stderr)
    found = find_runs(reports, lambda said: print(f"warning: {said}", file=sys.stderr))
    rules = [one for one in trainer.callbacks if isinstance(one, Ensemble)]
    names = {str(member.entry.checkpoint()): member.name for member in finished}
    exhibits = [_with_names(shown, names) for rule in rules for shown in rule.exhibits()]
    says = [finding.message for rule in rules for finding in rule.findings]
    write_comparison(found, folder / PAGE, folder.name, exhibits, says)
    return folder / PAGE


def _with_names(exhibit: Exhibit, names: Mapping[str, str]) -> Exhibit:
    """The bars of members have their names, not those of their checkpoints."""
    if not isinstance(exhibit.content, Bars):
        return exhibit
    labels = [names.get(label, label) for label in exhibit.content.labels]
    return replace(exhibit, content=replace(exhibit.content, labels=labels))


def _newest_report(member: Fit) -> Path | None:
    """That of the last attempt to train it."""
    from lightning_rules.report.find_runs import below

    found = below(member.folder / member.name)
    return max(found, key=lambda path: path.stat().st_mtime_ns, default=None)


def _have(names: Sequence[str]) -> str:
    return f"{', '.join(names)} {'has' if len(names) == 1 else 'have'}"
