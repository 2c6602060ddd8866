"""The page of a run: one file that opens without a network, drawn from a document alone."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Mapping, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

from jinja2 import Environment, FunctionLoader, StrictUndefined
from markupsafe import Markup, escape

from lightning_rules.finding import Severity
from lightning_rules.report.contents import SIGNS, Contents, contents_of, score_lines, state_of
from lightning_rules.report.document import Document
from lightning_rules.report.draw_score import is_worth_it, score_svg, told
from lightning_rules.report.facts import costs_of, record_of
from lightning_rules.report.score import is_share
from lightning_rules.report.shown import Shown, show
from lightning_rules.report.style import number, shortened
from lightning_rules.report.verdict import verdict_of

LIMIT = 2_900_000  # bytes of a page: it is to be sent, and opened on a telephone
LONGEST = 2_000  # letters of a sentence or of a cell
NUMBERS = 60  # of a finding that are shown


def page_of(document: Document, folder: Path) -> str:
    """One self-contained HTML text; the same document gives the same text.

    What cannot be drawn or read is a sentence in the page. Where the page would be larger than 2.9 MB, the largest
    figures are left out, and said to be.

    Args:
        document: The run.
        folder: Of the run, whose folder ``rules`` holds the pictures that the document names.
    """
    contents = contents_of(document)
    shown = _shown(contents, folder)
    values = _values(document, contents, shown)
    template = environment().get_template("run.html")
    page = template.render(values)
    if (excess := len(page.encode(errors="replace")) - LIMIT) > 0:
        leave_out(list(shown.values()), excess)
        page = template.render(values)
    while len(page.encode(errors="replace")) > LIMIT and len(contents.findings) > 1:
        contents.leave_out_half()
        page = template.render(values)
    return page.encode(errors="replace").decode()  # a lone surrogate cannot be written to a file


def own(name: str) -> str:
    """The text of a file beside this one."""
    return files(__package__).joinpath(name).read_text(encoding="utf-8")


def environment() -> Environment:
    """The templates of this folder: ``run.html`` for a run, on the frame ``base.html``; text is escaped everywhere."""
    made = Environment(autoescape=True, undefined=StrictUndefined, loader=FunctionLoader(own))
    made.filters["evidence"] = _evidence
    made.filters["words"] = _words
    made.filters["short"] = lambda text: shortened(str(text), LONGEST)
    return made


def _words(text: str) -> Markup:
    """A sentence with its code, which stands between backticks, set as code."""
    parts = shortened(text, LONGEST).split("`")
    if len(parts) % 2 == 0:
        return escape("`".join(parts))
    return Markup("").join(
        Markup("<code>{}</code>").format(part) if place % 2 else part for place, part in enumerate(parts)
    )


def _evidence(value: Any) -> str:
    """A number of a finding as a person reads it."""
    if isinstance(value, bool) or value is None:
        return {True: "yes", False: "no", None: "not known"}[value]
    if isinstance(value, float):
        return number(float(f"{value:.4g}"))
    text = f"{value:,}" if isinstance(value, int) else str(value)
    return shortened(text, LONGEST // 10)


def _shown(contents: Contents, folder: Path) -> dict[str, Shown]:
    beside = [one for told in contents.findings for one in told.exhibits]
    placed = [*beside, *(one for part in contents.parts for one in part.exhibits)]
    return {one.anchor: show(one.exhibit, one.anchor, folder) for one in placed}


def leave_out(shown: Sequence[Shown], excess: int) -> None:
    """Leave the largest figures out, until the page is so many bytes smaller."""
    for one in sorted(shown, key=lambda one: -one.size):
        if excess <= 0 or not one.size:
            return
        excess -= one.size
        one.leave_out()


def _values(document: Document, contents: Contents, shown: Mapping[str, Shown]) -> dict[str, Any]:
    verdict = verdict_of(document)
    costs, record = costs_of(document), record_of(document)
    lines = score_lines(document.score) if document.score else []
    return {
        "document": document,
        "contents": contents,
        "shown": shown,
        "verdict": verdict,
        "verdict_sign": SIGNS[
            {"error": Severity.ERROR, "warning": Severity.WARNING, "ok": Severity.OK}.get(verdict.level, Severity.INFO)
        ],
        "state": state_of(document),
        "started": _when(document.started),
        "score_lines": lines,
        "score_svg": _score_drawing(document, lines),
        "tested": [(name, told(value, is_share(name))) for name, value in document.tested.items()],
        "costs": costs,
        "record": record,
        "links": _links(document, contents, bool(costs), bool(record)),
        **frame(document.run or "A run without a name", "Report of a training run", document.updated),
    }


def frame(title: str, kind: str, updated: str) -> dict[str, Any]:
    """What every page needs, beside ``links``, the table of contents as pairs of anchor and name."""
    script = own("copy.js")
    return {
        "title": title,
        "kind": kind,
        "updated": _when(updated),
        "numbers": NUMBERS,
        "css": Markup(own("style.css")),
        "script": Markup(script),
        "script_hash": base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
    }


def _score_drawing(document: Document, lines: Sequence[tuple[str, str, str]]) -> Markup:
    if document.score is None or not is_worth_it(document.score):
        return Markup("")
    label = "; ".join(f"{name}: {value}" for name, value, _ in lines)
    return Markup(score_svg(document.score, label))


def _when(moment: str) -> str:
    return moment.replace("T", " ").replace("+00:00", " UTC")


def _links(document: Document, contents: Contents, has_costs: bool, has_record: bool) -> list[tuple[str, str]]:
    """The table of contents: only what there is."""
    checked = bool(contents.held or contents.skipped or contents.noted)
    there = [
        ("score", "Score", document.score is not None or bool(document.tested)),
        ("findings", "What to look at", bool(contents.findings)),
        *((part.anchor, part.title, True) for part in contents.parts),
        ("cost", "Cost", has_costs),
        ("reproduction", "Reproduction", has_record),
        ("checked", "What was checked", checked),
        ("how-to-read", "How to read this page", True),
    ]
    return [(anchor, name) for anchor, name, is_there in there if is_there]
