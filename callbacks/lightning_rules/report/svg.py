"""A figure as text that stands within a page: small, the same each time, in the page's own ink and font."""

from __future__ import annotations

import io
import re
from typing import Any
from xml.etree import ElementTree

from lightning_rules.report.style import GROUND, INK, OTHERS, RAMP, REST, ROLES, RUNS

SPACE = "{http://www.w3.org/2000/svg}"
LINK = "{http://www.w3.org/1999/xlink}href"
DECIMALS = re.compile(r"-?\d+\.\d+")
FONT = re.compile(r"font(-family)?:[^;]*;?\s*")
FONT_SIZE = re.compile(r"(\d+(?:\.\d+)?)px")
COLOURS = {
    INK: "currentColor",
    **{ROLES[role]: f"var(--{role})" for role in ("train", "validation", "test")},
    **{colour: f"var(--other-{place})" for place, colour in enumerate(OTHERS[1:], 1)},
    **{colour: f"var(--run-{place})" for place, colour in enumerate(RUNS) if place},
    **{colour: f"var(--ramp-{place})" for place, colour in enumerate(RAMP)},
    REST: "var(--run-rest)",
    GROUND: "var(--card)",
}
HELD = ("d", "x", "y", "width", "height", "transform", "points", "cx", "cy", "r", "viewBox")


def inline(figure: Any, name: str, label: str) -> str:
    """The figure as an ``<svg>`` element of HTML.

    Words are words, so that they can be read aloud, searched and copied. Ink has the colour of the text around it, and
    all other colours are those of the page, which are lighter in a dark one.

    Args:
        figure: Drawn inside :func:`~lightning_rules.report.style.style`, which has to be active still.
        name: Distinct within the page: what the figure refers to inside of it begins so.
        label: What is shown, for those who do not see it.
    """
    stream = io.BytesIO()
    nothing = dict.fromkeys(("Date", "Creator", "Format", "Type"))
    figure.savefig(stream, format="svg", transparent=True, metadata=nothing)
    root = ElementTree.fromstring(stream.getvalue())
    used = {_target(one) for one in root.iter()} - {""}
    _clean(root, used, name)
    for gone in ("width", "height", "version"):
        root.attrib.pop(gone, None)
    root.attrib |= {"role": "img", "aria-label": label, "class": "drawing"}
    return ElementTree.tostring(root, encoding="unicode")


def _clean(parent: Any, used: set[str], name: str) -> None:
    for one in list(parent):
        tag = one.tag.removeprefix(SPACE) if isinstance(one.tag, str) else ""
        if tag in ("", "metadata", "style") or tag.startswith("{"):
            parent.remove(one)
        else:
            _clean(one, used, name)
    parent.tag = parent.tag.removeprefix(SPACE)
    if not (parent.text or "").strip() and parent.tag not in ("text", "tspan"):
        parent.text = None
    parent.tail = None
    for key, value in list(parent.attrib.items()):
        del parent.attrib[key]
        if key == "id":
            if value in used:
                parent.attrib["id"] = f"{name}-{value}"
        elif key == LINK:
            parent.attrib["href"] = f"#{name}-{value[1:]}" if value.startswith("#") else value
        elif not key.startswith("{"):
            parent.attrib[key] = _value(key, value, name)


def _target(one: Any) -> str:
    """The id that an element refers to; "" for none."""
    if one.attrib.get(LINK, "").startswith("#"):
        return str(one.attrib[LINK][1:])
    found = re.search(r"url\(#([^)]+)\)", one.attrib.get("clip-path", ""))
    return found[1] if found else ""


def _value(key: str, value: str, name: str) -> str:
    if key in HELD:
        return " ".join(DECIMALS.sub(_fewer, value).split())
    if key == "clip-path":
        return value.replace("url(#", f"url(#{name}-")
    if key == "style":
        size = FONT_SIZE.search(value) if "font:" in value or "font-size:" in value else None
        value = FONT.sub("", value).strip()
        for colour, here in COLOURS.items():
            value = value.replace(colour, here)
        value = re.sub(r"font-size:[^;]*;?\s*", "", value)
        return f"font-size: {size[1]}px; {value}" if size else value
    return value


def _fewer(found: re.Match[str]) -> str:
    text = f"{float(found[0]):.2f}".rstrip("0").rstrip(".")
    return "0" if text == "-0" else text
