"""Readable on a phone and on a desk, in light and in dark, for those who see less."""

import io
import re
from collections.abc import Callable, Sequence
from typing import Any

import pytest

KINDS = pytest.mark.parametrize("kind", ["healthy", "sick", "bare", "compared"])
SCHEMES = pytest.mark.parametrize("scheme", ["light", "dark"])
TAGS = ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa", "best-practice"]
LEAST = 8.0  # pixels, of the smallest words of a drawing on a phone


@SCHEMES
@KINDS
def test_axe_finds_nothing_to_object_to(visit: Callable, kind: str, scheme: str) -> None:
    from axe_playwright_python.sync_playwright import Axe  # with axe-core 4.12 from npm inside

    seen = visit(kind, scheme=scheme)
    seen.unfold()
    found = Axe().run(seen.page, options={"runOnly": TAGS, "resultTypes": ["violations", "incomplete"]}).response
    assert [f"{one['id']}: {one['nodes'][0]['html']}" for one in found["violations"]] == []
    assert {"color-contrast", "heading-order", "region"} <= {one["id"] for one in found["passes"]}
    # It judges no single sign, and cannot tell what is behind the words of a drawing: the last test of this file does.
    unsure = [f"{one['id']}: {node['html']}" for one in found["incomplete"] for node in one["nodes"]]
    assert [one for one in unsure if not re.match('color-contrast: <(text|span .*aria-hidden="true")', one)] == []


@pytest.mark.parametrize("width", [320, 400, 1400])
@pytest.mark.parametrize("kind", ["healthy", "sick", "hostile", "compared", "compared-hostile"])
def test_nothing_sticks_out_or_is_covered_and_the_keyboard_can_scroll(visit: Callable, kind: str, width: int) -> None:
    seen = visit(kind, width, "dark" if width == 400 else "light")
    seen.unfold()
    assert seen.probe("sticking") == []
    assert seen.probe("covered") == []
    assert seen.probe("stuck") == []
    if width >= 400:
        sizes = {word["text"]: round(word["size"], 1) for word in seen.probe("words")}
        assert {text: size for text, size in sizes.items() if size < LEAST} == {}


@SCHEMES
@pytest.mark.parametrize("kind", ["healthy", "sick", "compared"])
def test_words_and_lines_of_drawings_stand_out_from_what_is_behind_them(
    visit: Callable, kind: str, scheme: str
) -> None:
    from PIL import Image

    seen = visit(kind, scheme=scheme)
    words, lines = seen.probe("words"), seen.probe("lines")
    assert len(words) > 150
    assert len(lines) > 20
    seen.probe("hideWords")
    ground = Image.open(io.BytesIO(seen.page.screenshot(full_page=True))).convert("RGB")
    ratios = [(word["text"], _contrast(_seen(word, behind := _behind(ground, word)), behind)) for word in words]
    assert [one for one in ratios if one[1] < 4.5] == []
    card = _numbers(seen.page.evaluate("getComputedStyle(document.querySelector('.exhibit')).backgroundColor"))
    assert [line for line in lines if _contrast(_numbers(line), card) < 3] == []


def _behind(ground: Any, word: dict[str, Any]) -> Sequence[float]:
    """What stands behind a word for the most part: a thin line through it does not count."""
    box = word["box"]
    points = [
        ground.getpixel((box["left"] + x * (box["right"] - box["left"]), box["top"] + y * (box["bottom"] - box["top"])))
        for x in (0.1, 0.3, 0.5, 0.7, 0.9)
        for y in (0.25, 0.5, 0.75)
    ]
    return sorted(points, key=sum)[len(points) // 2]


def _seen(word: dict[str, Any], behind: Sequence[float]) -> list[float]:
    share = word["opacity"]
    return [share * ink + (1 - share) * under for ink, under in zip(_numbers(word["fill"]), behind, strict=True)]


def _numbers(colour: str) -> list[float]:
    return [float(one) for one in re.findall(r"[\d.]+", colour)[:3]]


def _contrast(one: Sequence[float], other: Sequence[float]) -> float:
    """WCAG 2.2, "contrast ratio": from 1 to 21."""
    light, dark = sorted(map(_luminance, (one, other)), reverse=True)
    return (light + 0.05) / (dark + 0.05)


def _luminance(colour: Sequence[float]) -> float:
    parts = [value / 255 for value in colour]
    linear = [value / 12.92 if value <= 0.04045 else ((value + 0.055) / 1.055) ** 2.4 for value in parts]
    return sum(weight * value for weight, value in zip((0.2126, 0.7152, 0.0722), linear, strict=True))
