"""The page that a procedure ends with: its fits side by side, and what came of them together."""

import sys
from collections.abc import Sequence
from pathlib import Path

from lightning_recipe.runs.fit import Fit
from lightning_recipe.runs.fit_record import reason_of
from lightning_rules.exhibit import Exhibit

PAGE = "report.html"
RUNS = 200  # that a page compares
NAMED = 5


def write_page(
    folder: Path,
    fits: Sequence[Fit],
    exhibits: Sequence[Exhibit] = (),
    says: Sequence[str] = (),
    headline: str = "",
) -> Path | None:
    """Write `report.html` into the folder of a procedure; return where the page is, None where there is none.

    Fits without a report are told of and left out, and of more than 200 the last. Whatever goes wrong is one line of
    warning: the results are there.

    Args:
        folder: The folder of the procedure.
        fits: Those to be shown, the most important first.
        exhibits: What the procedure shows of them.
        says: What it says of them, in sentences.
        headline: What came of it, in one sentence; by default the page says which fit is the best.
    """
    try:
        return _write(folder, fits, exhibits, says, headline)
    except Exception as error:
        print(f"warning: the page of {folder.name} could not be made ({reason_of(error)}).", file=sys.stderr)
        return None


def _write(
    folder: Path, fits: Sequence[Fit], exhibits: Sequence[Exhibit], says: Sequence[str], headline: str
) -> Path | None:
    from lightning_rules.report.command import write_comparison
    from lightning_rules.report.find_runs import find_runs

    newest = {fit.name: newest_report(fit) for fit in fits}
    reports = [path for path in newest.values() if path is not None]
    without = [name for name, path in newest.items() if path is None]
    if len(reports) < 2:
        print(f"No page compares the fits: {_have(without)} no report (made with --report none or --rules none).")
        return None
    if without:
        print(f"warning: left out of the page is what has no report: {_named(without)}.", file=sys.stderr)
    if len(reports) > RUNS:
        says = [*says, f"Of {len(reports):,} fits the first {RUNS} are compared as runs."]
    found = find_runs(reports[:RUNS], lambda said: print(f"warning: {said}", file=sys.stderr))
    write_comparison(found, folder / PAGE, folder.name, exhibits, says, headline)
    return folder / PAGE


def newest_report(fit: Fit) -> Path | None:
    """That of the last attempt to make a fit."""
    from lightning_rules.report.find_runs import below

    found = below(fit.folder / fit.name)
    return max(found, key=lambda path: path.stat().st_mtime_ns, default=None)


def _have(names: Sequence[str]) -> str:
    return f"{_named(names)} {'has' if len(names) == 1 else 'have'}"


def _named(names: Sequence[str]) -> str:
    more = [f"{len(names) - NAMED:,} more"] if len(names) > NAMED else []
    return ", ".join([*names[:NAMED], *more])
