"""The subcommand `report`: the page of a run drawn again, or several runs side by side on one page."""

import sys
from collections.abc import Sequence
from pathlib import Path

NAME = "report"
EPILOG = "Besides: `report RUN` draws the page of a run again; `report RUN RUN ...` compares runs on one page."


def run(arguments: Sequence[str]) -> None:
    """Draw the page of one run, or compare several.

    Args:
        arguments: Those after `report`.

    Raises:
        SystemExit: With status 2, if the arguments make no sense; with 0 after `--help`.
        OSError: If there is no run where one was named, or the page cannot be written.
        ValueError: If a report cannot be read, or a run is named twice.
    """
    from lightning_rules.report import command

    command.run(arguments, f"{Path(sys.argv[0]).name} {NAME}")
