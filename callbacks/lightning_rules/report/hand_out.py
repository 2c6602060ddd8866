"""The figures of a report as files in the run's folder, and to the loggers that take pictures."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator
from typing import Any

from lightning_rules.exhibit import Exhibit
from lightning_rules.log_to import log_picture
from lightning_rules.record import write_file
from lightning_rules.report.course import exhibits_of
from lightning_rules.report.document import Document
from lightning_rules.report.draw import is_drawn, png_of

FOLDER = "rules/figures"

log = logging.getLogger("lightning_rules")


def hand_out(document: Document, folder: str, trainer: Any) -> None:
    """Write each figure of a page to ``rules/figures/NAME.png``, and log it as ``rules/figures/NAME``.

    One that cannot be drawn is left out. Pictures that rules have drawn themselves are in ``rules/`` and in the loggers
    already.

    Args:
        document: The run.
        folder: Of the run, local or any address that fsspec knows.
        trainer: The run's Trainer.

    Raises:
        OSError: The folder cannot be written.
    """
    for name, exhibit in figures_of(document):
        try:
            drawn = png_of(exhibit.content)
        except Exception:
            log.debug(f"{exhibit.name} could not be drawn", exc_info=True)
            continue
        write_file(drawn, f"{folder}/{FOLDER}/{name}.png")
        log_picture(trainer, f"figures/{name}", drawn)


def figures_of(document: Document) -> Iterator[tuple[str, Exhibit]]:
    """What is drawn for the page, each with a file name of its own, without an ending."""
    taken: set[str] = set()
    for exhibit in (*document.exhibits, *exhibits_of(document)):
        if is_drawn(exhibit.content):
            base = re.sub(r"[^a-z0-9]+", "_", exhibit.name.lower()).strip("_")[:60] or "figure"
            name = next(one for number in range(len(taken) + 1) if (one := _numbered(base, number)) not in taken)
            taken.add(name)
            yield name, exhibit


def _numbered(base: str, number: int) -> str:
    return f"{base}_{number + 1}" if number else base
