"""The verdict on a run in a terminal: the same words as on its page."""

from __future__ import annotations

import logging
import os

from rich.console import Console
from rich.table import Table
from rich.text import Text

from lightning_rules.record import log
from lightning_rules.report.contents import score_lines
from lightning_rules.report.document import Document
from lightning_rules.report.facts import costs_of
from lightning_rules.report.verdict import Level, verdict_of

STYLES: dict[Level, str] = {"error": "bold red", "warning": "yellow", "ok": "green", "unknown": "cyan"}
COSTS = 3  # that are told


def print_summary(document: Document, page: str) -> None:
    """Print the verdict, the score, the cost and where the page is, below the findings.

    Without colours where the output is no terminal; silent when the program has set the logger ``lightning_rules`` to
    more than warnings.

    Args:
        document: The run.
        page: The path of its page; empty where there is none.
    """
    if not log.isEnabledFor(logging.WARNING):
        return
    console = Console()
    table = Table.grid(padding=(0, 2))
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    for name, text in summary_of(document, page):
        style = STYLES[verdict_of(document).level] if name == "verdict" else ""
        table.add_row(Text(name, style="dim"), Text(text, style=style))
    console.print(table)
    console.print()


def summary_of(document: Document, page: str) -> list[tuple[str, str]]:
    """Lines of name and text, at most eight; pure.

    Args:
        document: The run.
        page: The path of its page; empty where there is none.
    """
    lines = [("verdict", verdict_of(document).line)]
    if document.score is not None:
        for name, value, remark in score_lines(document.score):
            lines.append((document.score.name if name == "This run" else name.lower(), _joined(value, remark)))
    costs = costs_of(document)[:COSTS]
    if costs:
        lines.append(("cost", ", ".join(f"{fact.name.lower()} {fact.text}" for fact in costs)))
    if page:
        here = os.getcwd() + os.sep
        lines.append(("report", os.path.relpath(page) if page.startswith(here) else page))
    return lines


def _joined(value: str, remark: str) -> str:
    return f"{value} ({remark})" if remark else value
