"""Exhibits as they stand in the page: drawn, listed, or as the picture that a rule has left in the run's folder."""

from __future__ import annotations

import base64
import io
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from markupsafe import Markup

from lightning_rules.exhibit import Exhibit, Listing, Picture
from lightning_rules.report.draw import is_drawn, svg_of

NOTHING = Markup("")
SIGNATURE = b"\x89PNG\r\n\x1a\n"
LARGE = 400_000  # bytes of a picture, from which on it is made smaller
SIDE = 1400  # pixels of one that was made smaller
ROWS = 100

log = logging.getLogger("lightning_rules")


@dataclass
class Shown:
    """One figure or table of the page.

    Attributes:
        exhibit: What is shown.
        anchor: Its place in the page.
        svg: A drawing; empty where there is none.
        image: A picture as an address that holds it; empty where there is none.
        table: The rows that are shown.
        note: Why there is nothing, or not all, to be seen.
    """

    exhibit: Exhibit
    anchor: str
    svg: Markup = NOTHING
    image: str = ""
    table: Sequence[Sequence[str]] = ()
    note: str = ""

    @property
    def size(self) -> int:
        """Of what could be left out, in bytes."""
        return len(self.svg.encode()) + len(self.image)

    def leave_out(self) -> None:
        """Of a page that would be too large."""
        where = f" It is the file {self.exhibit.content.file}." if isinstance(self.exhibit.content, Picture) else ""
        self.svg, self.image = NOTHING, ""
        self.note = f"Left out, so that the page stays small.{where}"


def show(exhibit: Exhibit, anchor: str, folder: Path) -> Shown:
    """Draw or read an exhibit; one that cannot be is a sentence in the page.

    Args:
        exhibit: What to show.
        anchor: Distinct within the page, in letters, digits and hyphens.
        folder: Of the run, with a folder ``rules`` that holds the pictures.
    """
    content = exhibit.content
    try:
        if isinstance(content, Listing):
            return _listing(exhibit, content, anchor)
        if isinstance(content, Picture):
            return _picture(exhibit, content, anchor, folder)
        if is_drawn(content):
            label = f"{exhibit.title}. {exhibit.caption}"
            return Shown(exhibit, anchor, svg=Markup(svg_of(content, anchor, _clean(label))))
    except Exception as error:
        log.debug(f"{exhibit.name} could not be drawn", exc_info=True)
        return Shown(exhibit, anchor, note=f"This could not be drawn ({type(error).__name__}: {error}).")
    return Shown(exhibit, anchor, note="This version of lightning-rules does not know how to show this.")


def _clean(text: str) -> str:
    return "".join(letter if letter.isprintable() else " " for letter in text)


def _listing(exhibit: Exhibit, content: Listing, anchor: str) -> Shown:
    more = len(content.rows) - ROWS
    return Shown(
        exhibit, anchor, table=content.rows[:ROWS], note=f"{more:,} more rows are left out." if more > 0 else ""
    )


def _picture(exhibit: Exhibit, content: Picture, anchor: str, folder: Path) -> Shown:
    """Only a PNG file right in the folder ``rules``: a document that was tampered with names others in vain."""
    if content.file in ("", ".", "..") or Path(content.file).name != content.file or "\\" in content.file:
        return Shown(exhibit, anchor, note=f"The picture {content.file} is not in the run's folder rules.")
    try:
        data = (folder / "rules" / content.file).read_bytes()
    except (OSError, ValueError):
        return Shown(exhibit, anchor, note=f"The picture {content.file} is missing in the run's folder rules.")
    if not data.startswith(SIGNATURE):
        return Shown(exhibit, anchor, note=f"The file {content.file} is no PNG picture.")
    if len(data) > LARGE:
        data = min(data, _smaller(data), key=len)
    return Shown(exhibit, anchor, image="data:image/png;base64," + base64.b64encode(data).decode())


def _smaller(data: bytes) -> bytes:
    """The picture with fewer pixels and 256 colours, which a figure can do with."""
    from PIL import Image

    with Image.open(io.BytesIO(data)) as image:
        image.thumbnail((SIDE, SIDE))
        paper = Image.new("RGB", image.size, "white")
        shape = image.convert("RGBA")
        paper.paste(shape, mask=shape)
        stream = io.BytesIO()
        paper.quantize(256).save(stream, format="PNG", optimize=True)
    return stream.getvalue()
