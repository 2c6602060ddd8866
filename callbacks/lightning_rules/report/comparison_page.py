"""The page of a comparison: one file that opens without a network, drawn from the documents of its runs alone."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from markupsafe import Markup

from lightning_rules.exhibit import Curves, Exhibit, Section
from lightning_rules.finding import Severity
from lightning_rules.report import page as frame_of_page
from lightning_rules.report.comparison import NAME, Comparison
from lightning_rules.report.comparison_rows import RunRow, group_rows, run_rows
from lightning_rules.report.comparison_words import verdict_on
from lightning_rules.report.contents import SIGNS
from lightning_rules.report.draw_overlay import Line, looks_of, overlay_svg
from lightning_rules.report.facts import record_of
from lightning_rules.report.grids import NONE, Cell, cut, findings_grid, metrics_grid, settings_grid
from lightning_rules.report.score import mode_of
from lightning_rules.report.series import Series
from lightning_rules.report.shown import Shown, show
from lightning_rules.report.style import shortened
from lightning_rules.report.verdict import Verdict

MOST = 200  # runs that are shown
CURVES = 12  # metrics that are overlaid
RATE = "learning_rate/0.0"  # of the first optimiser's first group
LETTERS = 300_000  # of all commands
DASHES = ("none", "6 3", "2 2", "9 2 2 2")  # as in the figures
SECTIONS = {
    "more": "What came of them",
    "settings": "What was set differently",
    "runs": "Runs",
    "groups": "Configurations",
    "curves": "Curves",
    "findings": "What the rules say",
    "metrics": "Metrics",
    "reproduction": "Reproduction",
    "how-to-read": "How to read this page",
}
SIGNS_OF = {
    "error": SIGNS[Severity.ERROR],
    "warning": SIGNS[Severity.WARNING],
    "ok": SIGNS[Severity.OK],
    "unknown": SIGNS[Severity.INFO],
}


@dataclass(frozen=True)
class Command:
    """How to make a run again."""

    run: Cell
    text: str
    rest: str


def page_of_comparison(
    comparison: Comparison,
    title: str,
    folder: Path,
    exhibits: Sequence[Exhibit] = (),
    says: Sequence[str] = (),
    headline: str = "",
) -> str:
    """One self-contained HTML text; the same comparison gives the same text.

    Where the page would be larger than 2.9 MB, the largest figures are left out, and said to be.

    Args:
        comparison: Runs side by side; of more than 200 the best are shown.
        title: Of the page.
        folder: Whose folder ``rules`` holds the pictures that the exhibits name.
        exhibits: What the procedure that made the runs shows of them: an ensemble, for instance.
        says: What it says of them, in sentences.
        headline: What came of it, in one sentence; by default the verdict on the best run.
    """
    drawn = overlays(comparison.best(MOST))
    more = [show(one, f"exhibit-{place}", folder) for place, one in enumerate(exhibits)]
    verdict = verdict_on(comparison, headline)
    values = {**_values(comparison, title, verdict, drawn, more, bool(says)), "says": says}
    template = frame_of_page.environment().get_template("compare.html")
    page = template.render(values)
    if (excess := len(page.encode(errors="replace")) - frame_of_page.LIMIT) > 0:
        frame_of_page.leave_out([*drawn, *more], excess)
        page = template.render(values)
    return page.encode(errors="replace").decode()  # a lone surrogate cannot be written to a file


def overlays(comparison: Comparison) -> list[Shown]:
    """The metrics that several runs have logged, what they are compared by first, and learning rates that differ."""
    known = dict.fromkeys(name for one in comparison.runs for name in one.document.metrics)
    drawn = {name: _lines(comparison, [one.document.metrics.get(name) for one in comparison.runs]) for name in known}
    shared = [name for name, lines in drawn.items() if len(lines) > 1]
    shared.sort(key=lambda name: name != comparison.metric)
    better = {"max": "Higher is better.", "min": "Lower is better.", None: ""}
    found = [_overlay(at, name, better[mode_of(name)], drawn[name]) for at, name in enumerate(shared[:CURVES])]
    rates = _lines(comparison, [one.document.series.get(RATE) for one in comparison.runs])
    if len({tuple(one.y) for one in rates}) > 1:
        found.append(_overlay(len(found), "learning rate", "As each run has set it.", rates))
    return found


def _lines(comparison: Comparison, series: Sequence[Series | None]) -> list[Line]:
    """One for each run that has such a series."""
    runs, looks = comparison.runs, looks_of(len(comparison.runs))
    each = zip(runs, looks, series, strict=True)
    return [Line(run.name, look, one.steps, one.values) for run, look, one in each if one is not None]


def _overlay(place: int, name: str, caption: str, lines: Sequence[Line]) -> Shown:
    content = Curves([], "optimiser step", name)
    name = shortened(name, NAME)
    exhibit = Exhibit(f"curve_{place}", Section.CURVES, name, caption, content)
    told = ", ".join(one.name for one in lines if not one.look.is_faint)
    label = "".join(letter if letter.isprintable() else " " for letter in f"{name} over optimiser steps: {told}")
    anchor = f"curve-{place}"
    try:
        return Shown(exhibit, anchor, svg=Markup(overlay_svg(lines, "optimiser step", name, anchor, label)))
    except Exception as error:
        return Shown(exhibit, anchor, note=f"This could not be drawn ({type(error).__name__}: {error}).")


def _commands(comparison: Comparison) -> Iterator[Command]:
    longest = LETTERS // len(comparison.runs)
    for one in comparison.runs:
        facts = {fact.name: fact.text for fact in record_of(one.document)}
        rest = [f"{name}: {facts[name]}" for name in ("Folder", "Commit", "Code as it ran", "Tag") if name in facts]
        text = facts.get("Command", "")
        if text or rest:
            yield Command(cut(one.name), cut(text, longest).text, "; ".join(cut(part, 200).text for part in rest))


def _values(
    comparison: Comparison,
    title: str,
    verdict: Verdict,
    drawn: Sequence[Shown],
    more: Sequence[Shown],
    is_said: bool,
) -> dict[str, Any]:
    number, groups = len(comparison.runs), group_rows(comparison)[:MOST]
    comparison = comparison.best(MOST)
    grid, alike = findings_grid(comparison)
    rows = run_rows(comparison)
    commands = list(_commands(comparison))
    metrics = metrics_grid(comparison)
    updated = max((one.document.updated for one in comparison.runs), default="")
    frame = frame_of_page.frame(title, "Comparison of runs", updated)
    there = {
        "more": bool(more) or is_said,
        "groups": bool(groups),
        "curves": bool(drawn),
        "findings": grid is not None or bool(alike),
        "metrics": bool(metrics.rows) and bool(metrics.columns),
        "reproduction": bool(commands),
    }
    sections = {anchor: name for anchor, name in SECTIONS.items() if there.get(anchor, True)}
    return {
        "comparison": comparison,
        "metric": shortened(comparison.metric, NAME),
        "verdict": verdict,
        "verdict_sign": SIGNS_OF[verdict.level],
        "signs": SIGNS_OF,
        "dashes": DASHES,
        "settings": settings_grid(comparison.settings, comparison.runs) if comparison.settings else None,
        "drawn_settings": settings_grid(comparison.drawn, comparison.runs) if comparison.drawn else None,
        "number": number,
        "rows": rows,
        "has": _columns(rows),
        "groups": groups,
        "overlays": drawn,
        "more": more,
        "findings": grid,
        "alike": alike,
        "metrics": metrics,
        "commands": commands,
        "has_faint": any(one.is_faint for one in looks_of(len(comparison.runs))),
        "links": list(sections.items()),
        "is_there": {anchor: anchor in sections for anchor in SECTIONS},
        **frame,
        "css": frame["css"] + Markup(frame_of_page.own("compare.css")),
    }


def _columns(rows: Sequence[RunRow]) -> dict[str, bool]:
    """Which columns of the table of runs hold anything."""
    return {
        "test": any(one.test != NONE for one in rows),
        "seed": any(one.seed.text != NONE for one in rows),
        "code": any(one.code.text != NONE for one in rows),
        "cost": any(one.cost != NONE for one in rows),
    }
