"""The command that draws the page of a run again, or compares several."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from urllib.parse import quote

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.progress import track
from rich.table import Table
from rich.text import Text

from lightning_rules.exhibit import Exhibit
from lightning_rules.record import write_local
from lightning_rules.report.comparison import Comparison, compared
from lightning_rules.report.comparison_page import page_of_comparison
from lightning_rules.report.comparison_rows import RunRow, run_rows
from lightning_rules.report.comparison_words import verdict_on
from lightning_rules.report.document import HTML, JSON
from lightning_rules.report.find_runs import Found, find_runs
from lightning_rules.report.page import page_of
from lightning_rules.report.terminal import STYLES
from lightning_rules.report.verdict import verdict_of

NAME = "comparison.html"
ENDINGS = (".html", ".htm")
MANY = 12  # reports, from which on progress is shown
COLUMNS = ("run", "score", "interval", "to the best", "chance", "test", "verdict")


def run(words: Sequence[str] | None, program: str) -> None:
    """Do what a command line asks for, and say where the page is.

    Args:
        words: Those after the name of the command; None reads ``sys.argv``.
        program: What stands before them.

    Raises:
        SystemExit: With status 2, if the arguments make no sense; with 0 after ``--help``.
        OSError: There is no run at a path, or the page cannot be written.
        ValueError: A report cannot be read, a run comes twice, or the page cannot be written there.
    """
    options = _parser(program).parse_args(words)
    found = find_runs(options.runs, lambda said: print(f"warning: {said}", file=sys.stderr), _watched)
    if len(found) == 1:
        _draw_again(found[0], options.output)
        return
    output = options.output or common_folder([one.folder for one in found]) / NAME
    comparison = write_comparison(found, output)
    _print_table(comparison)
    print(f"{verdict_on(comparison).line}\nThe comparison is {_shown(output)}.")


def _parser(program: str) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog=program,
        description="Draw the page of a run again, or put several runs side by side on one page.",
    )
    parser.add_argument(
        "runs",
        nargs="+",
        type=Path,
        metavar="RUN",
        help=f"a run's log folder, or its {JSON}; a folder that holds runs stands for all of them",
    )
    parser.add_argument(
        "--output",
        type=Path,
        metavar="FILE",
        help=f"the page, in HTML (default: {NAME} in the deepest folder that holds all runs; of one run {HTML})",
    )
    return parser


def _watched(files: Sequence[Path]) -> Iterable[Path]:
    """With a progress bar on the terminal, where there are many."""
    quiet = len(files) < MANY or not sys.stderr.isatty()
    console = Console(stderr=True)
    return track(files, "Reading reports", console=console, transient=True, disable=quiet)


def _draw_again(found: Found, output: Path | None) -> None:
    output = output or found.folder / HTML
    check_output(output)
    _write(page_of(found.document, found.folder), output)
    print(f"{verdict_of(found.document).line}\nThe report is {_shown(output)}.")


def write_comparison(
    found: Sequence[Found],
    output: Path,
    title: str = "",
    exhibits: Sequence[Exhibit] = (),
    says: Sequence[str] = (),
    headline: str = "",
) -> Comparison:
    """Compare two runs or more, and write the page.

    Args:
        found: The runs.
        output: The page, in whose folder ``rules`` the pictures of the exhibits lie.
        title: Of the page; by default the name of the folder that holds all runs.
        exhibits: What the procedure that made the runs shows of them.
        says: What it says of them, in sentences.
        headline: What came of it, in one sentence, which stands in place of the verdict on the best run.

    Raises:
        OSError: The page cannot be written.
        ValueError: There are fewer than two runs, or the page cannot be written there.
    """
    check_output(output)
    hrefs = [address(one.folder / HTML, output.parent) for one in found]
    comparison = compared([one.document for one in found], hrefs)
    name = title or common_folder([one.folder for one in found]).name or "Runs"
    title = f"{name}: {len(found):,} runs"
    _write(page_of_comparison(comparison, title, output.parent, exhibits, says, headline), output)
    return comparison


def _write(page: str, output: Path) -> None:
    try:
        write_local(page, output)
    except OSError as error:
        raise OSError(f"{output} could not be written ({error.strerror}).") from error


def check_output(output: Path) -> None:
    """Refuse a place where no page can or should be written, before any work is done.

    Raises:
        OSError: It is a folder, or its own folder cannot be written.
        ValueError: It does not end like a page: something else could be lost.
    """
    if output.is_dir():
        raise IsADirectoryError(f"{output} is a folder: name a file in it, as in --output {output / NAME}.")
    if output.suffix.lower() not in ENDINGS:
        raise ValueError(f"Expected --output to be a page that ends in .html, but got {output}: name it so.")
    parent = next(one for one in output.absolute().parents if one.exists())
    if not parent.is_dir() or not os.access(parent, os.W_OK | os.X_OK):
        raise PermissionError(f"{output} cannot be written, for {parent} is no folder that you may write to.")


def common_folder(folders: Sequence[Path]) -> Path:
    """The deepest folder that holds them all; the current one where that is the root of the disk."""
    absolute = [os.path.abspath(one) for one in folders]
    common = Path(os.path.commonpath(absolute))
    if len(folders) > 1 and str(common) in absolute:  # a run that holds others
        common = common.parent
    return Path.cwd() if common == Path(common.anchor) else common


def address(page: Path, folder: Path) -> str:
    """Of a page, as a link in a page of a folder; empty where it is not there."""
    if not page.is_file():
        return ""
    try:
        relative = os.path.relpath(page.absolute(), folder.absolute())
    except ValueError:  # on another drive
        return quote(page.absolute().as_uri(), safe=":/%")
    return quote(Path(relative).as_posix(), errors="surrogateescape")


def _shown(path: Path) -> str:
    absolute, here = path.absolute(), Path.cwd()
    return str(absolute.relative_to(here)) if absolute.is_relative_to(here) else str(absolute)


def _print_table(comparison: Comparison) -> None:
    """A table on a terminal, columns divided by tabs elsewhere."""
    rows = run_rows(comparison)
    if not sys.stdout.isatty():
        print(*("\t".join(line) for line in [COLUMNS, *map(_cells, rows)]), sep="\n")
        return
    table = Table(box=SIMPLE_HEAD, title=comparison.metric, title_justify="left")
    for name in COLUMNS:
        table.add_column(name, overflow="fold")
    for row in rows:
        *cells, verdict = _cells(row)
        styles = STYLES[row.level]  # type: ignore[index]
        table.add_row(*map(Text, cells), Text(verdict, style=styles))
    Console().print(table)


def _cells(row: RunRow) -> tuple[str, ...]:
    cells = (row.name.text, row.score, row.sure, row.behind, row.chance, row.test, row.verdict)
    return tuple(" ".join(one.split()) for one in cells)
