"""With a keyboard, with the clipboard and on paper."""

import io
import re
import unicodedata
from collections.abc import Callable, Mapping

import pytest

from lightning_rules.report.document import Document
from lightning_rules.report.verdict import verdict_of

A4 = 718  # pixels, between margins of a centimetre
COPIED = "navigator.clipboard.readText()"


@pytest.mark.parametrize("is_open", [False, True])
def test_the_keyboard_reaches_all_that_can_be_used_in_order_and_shows_where_it_is(
    visit: Callable, is_open: bool
) -> None:
    seen = visit("sick", 400, reduced_motion="reduce")
    if is_open:
        seen.unfold()
    stops = seen.probe("stops")
    assert stops > 30
    for stop in range(stops):
        seen.page.keyboard.press("Tab")
        focused = seen.probe("focused")
        assert focused["stop"] == stop, focused
        assert focused["seen"], focused
        assert focused["outline"] >= 2, focused


def test_enter_follows_links_and_opens_what_is_folded(visit: Callable) -> None:
    seen = visit("sick", reduced_motion="reduce")
    seen.page.keyboard.press("Tab")
    seen.page.keyboard.press("Enter")
    seen.page.wait_for_function("document.activeElement.id == 'main'")  # raises after 30 s
    seen.page.get_by_role("link", name="Curves", exact=True).focus()
    seen.page.keyboard.press("Enter")
    seen.page.wait_for_url("**/*#curves")
    seen.page.wait_for_function("Math.abs(document.querySelector('#curves').getBoundingClientRect().y) < 100")
    folded = seen.page.locator("details").filter(has_text="Looked at, and it holds")
    assert not folded.get_by_text("loss-at-init").is_visible()
    folded.locator("summary").focus()
    seen.page.keyboard.press("Enter")
    assert folded.get_by_text("loss-at-init").is_visible()
    seen.page.keyboard.press("Space")
    assert not folded.get_by_text("loss-at-init").is_visible()


def test_buttons_copy_what_stands_beside_them(visit: Callable, documents: Mapping[str, Document]) -> None:
    seen = visit("healthy", permissions=["clipboard-read", "clipboard-write"])
    record = documents["healthy"].record
    seen.unfold()
    wanted = {
        "Configuration": record["config"],
        "Command": " ".join(record["command"]),
        "Seed": "42",
        "Commit": record["code"]["commit"],
    }
    for name, text in wanted.items():
        button = seen.page.get_by_role("button", name=f"Copy: {name}", exact=True)
        button.press("Enter")
        seen.page.get_by_text("Copied", exact=True).and_(button).wait_for()
        assert seen.page.evaluate(COPIED) == text
        assert seen.page.get_by_role("status").inner_text() == f"{name} is copied."
    assert seen.said == []


def test_where_a_browser_does_not_let_pages_copy_the_text_is_selected(visit: Callable) -> None:
    seen = visit("healthy")
    seen.page.evaluate("Object.defineProperty(navigator, 'clipboard', { value: undefined })")
    seen.page.get_by_role("button", name="Copy: Tag").click()
    assert seen.page.evaluate("getSelection().toString()") == "runs/digits/version_3/408-val-accuracy=0.9833"
    assert "copy it with your keyboard" in seen.page.get_by_role("status").inner_text()
    assert seen.said == []


def test_paper_is_white_and_nothing_is_folded_on_it(visit: Callable) -> None:
    seen = visit("sick", scheme="dark")
    assert len(seen.probe("folded")) > 5
    seen.page.emulate_media(media="print")
    assert seen.probe("folded") == []
    assert seen.page.evaluate("getComputedStyle(document.body).color") == "rgb(0, 0, 0)"
    assert seen.page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    assert seen.page.evaluate("getComputedStyle(document.querySelector('svg text')).fill") == "rgb(0, 0, 0)"
    assert not seen.page.locator("nav").is_visible()
    assert not seen.page.get_by_role("button").first.is_visible()


@pytest.mark.parametrize("kind", ["healthy", "sick"])
def test_nothing_is_cut_off_on_paper(visit: Callable, kind: str) -> None:
    seen = visit(kind, A4)
    seen.page.emulate_media(media="print")
    assert seen.probe("sticking") == []
    assert seen.probe("covered") == []


@pytest.mark.parametrize("scripts", [True, False])
def test_printed_pages_hold_all_words(visit: Callable, documents: Mapping[str, Document], scripts: bool) -> None:
    from pypdf import PdfReader

    document = documents["sick"]
    seen = visit("sick", java_script_enabled=scripts)
    printed = PdfReader(io.BytesIO(seen.page.pdf(format="A4")))
    assert 3 < len(printed.pages) < 15
    words = _letters("".join(page.extract_text() for page in printed.pages))
    for sentence in [verdict_of(document).line, document.record["config"], *(one["says"] for one in document.rules)]:
        assert _letters(sentence) in words
    for finding in document.findings:
        assert _letters(finding.message) in words
        assert _letters(finding.advice or "") in words
    assert seen.page.locator("details[open]").count() == 0


def _letters(text: str) -> str:
    """Without spaces, breaks of lines and ligatures, which a printed page sets as it likes."""
    return re.sub(r"[\s`]+", "", unicodedata.normalize("NFKC", text))
