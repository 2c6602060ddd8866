"""The subcommand `restore`: a kept checkpoint with the code and configuration that made it, or a list of them."""

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from rich.text import Text

from lightning_rules import restore
from lightning_rules.repository.kept_runs import RunRow, list_runs

EPILOG = "Besides: `restore TAG|CHECKPOINT|RUN` brings back code and weights of a run; `restore --list` shows the runs."
COLUMNS = ("run", "step", "metrics", "tag", "started", "checkpoint")


def run(arguments: Sequence[str]) -> None:
    """Restore what is named, or list what there is.

    Args:
        arguments: Those after `restore`.

    Raises:
        SystemExit: With status 2, if the arguments make no sense; with 0 after `--help`.
        OSError: If git fails, or what is named is not there.
        ValueError: If it cannot be brought back as it was.
    """
    parser = _parser()
    options = parser.parse_args(arguments)
    if options.list == bool(options.what):
        parser.error("name a TAG, CHECKPOINT or RUN, or ask for --list")
    if options.list:
        _print_list(list_runs())
    else:
        print(restore(options.what, options.folder))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog=f"{Path(sys.argv[0]).name} restore",
        description="Check the code that made a kept checkpoint out into a new working tree beside the project, verify "
        "the checkpoint, write its configuration, and print the commands that evaluate or resume it.",
    )
    parser.add_argument(
        "what",
        nargs="?",
        metavar="TAG|CHECKPOINT|RUN",
        help="a tag (runs/...), the path of a checkpoint, or the name of a run, whose best checkpoint is meant",
    )
    parser.add_argument("--folder", help="where the code goes (default: <project>-<run>-<step> beside the project)")
    parser.add_argument("--list", action="store_true", help="show the tagged checkpoints and whether they are there")
    return parser


def _print_list(rows: Sequence[RunRow]) -> None:
    """A table on a terminal; columns divided by tabs, and paths too, elsewhere."""
    if not rows:
        print("No checkpoint is tagged here: GitTagCheckpoint among the callbacks of a run tags those that it keeps.")
        return
    if not sys.stdout.isatty():
        print(*("\t".join(line) for line in [COLUMNS, *map(_cells, rows)]), sep="\n")
        return
    table = Table(box=SIMPLE_HEAD)
    for name in COLUMNS:
        table.add_column(name, overflow="fold", no_wrap=name in ("step", "checkpoint"))
    for row in rows:
        run, step, metrics, tag, started, _ = map(Text, _cells(row))
        state = Text(row.state, style="green" if row.state == "there" else "bold red")
        table.add_row(run, step, Text("\n").join(metrics.split(", ")), tag, started, state)
    Console().print(table)


def _cells(row: RunRow) -> tuple[str, ...]:
    """What is shown of a checkpoint; the state of its file is the last."""
    metrics = ", ".join(f"{name} {value:.4g}" for name, value in row.metrics.items())
    step = "" if row.step is None else str(row.step)
    path = os.path.relpath(row.checkpoint) if row.checkpoint else ""
    return row.run, step, metrics, row.tag, row.started[:16].replace("T", " "), f"{path} ({row.state})".strip()
