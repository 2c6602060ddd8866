"""``python -m lightning_rules.report FOLDER``: draws the page of a run again, from its ``rules/report.json``."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from lightning_rules.record import write_local
from lightning_rules.report.document import HTML, JSON, Document
from lightning_rules.report.page import page_of
from lightning_rules.report.verdict import verdict_of


def main(words: Sequence[str] | None = None) -> int:
    """Write the page and say where it is; 1 where there is nothing to draw or no place to write."""
    parser = argparse.ArgumentParser(
        prog="python -m lightning_rules.report", description="Draw the page of a run again."
    )
    parser.add_argument("folder", type=Path, help=f"of the run: the one that holds {JSON}")
    given = parser.parse_args(words).folder
    folder = given.parent.parent if given.is_file() else given
    try:
        document = Document.read(given)
        write_local(page_of(document, folder), folder / HTML)
    except (OSError, ValueError) as error:
        print(error, file=sys.stderr)
        return 1
    print(f"{verdict_of(document).line}\nThe report is {folder / HTML}.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
