"""A page from the disk: complete, silent, asking for nothing, in order, and the same to read without scripts."""

from collections.abc import Callable, Mapping
from itertools import pairwise
from pathlib import Path

import pytest

KINDS = pytest.mark.parametrize(
    "kind", ["healthy", "sick", "unfinished", "bare", "hostile", "compared", "compared-hostile"]
)


@KINDS
def test_nothing_is_asked_for_nothing_is_said_all_is_there_and_headings_are_in_order(
    visit: Callable, files: Mapping[str, Path], kind: str
) -> None:
    seen = visit(kind)
    seen.unfold()
    seen.page.wait_for_load_state("networkidle")
    asked = [address for address in seen.requests if not address.startswith("data:")]
    assert asked == [files[kind].as_uri()]
    assert seen.said == []
    assert seen.probe("unseen") == []
    pictures, drawings = seen.probe("pictures")
    assert pictures == (kind not in ("bare", "hostile"))
    assert drawings > 10 or (kind == "bare" and drawings == 0)
    levels = seen.probe("headings")
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert len(levels) > 1
    assert all(after - before <= 1 for before, after in pairwise(levels))


def test_markup_of_users_does_nothing_in_a_comparison(visit: Callable, markup: str) -> None:
    seen = visit("compared-hostile")
    seen.unfold()
    assert seen.page.evaluate("window.taken") is None
    assert seen.said == []
    assert seen.page.title().startswith(markup)
    assert seen.page.locator("main").inner_text().count("<svg onload=") > 5
    assert seen.page.locator("iframe, textarea, a[href^='javascript'], [onload], [onerror]").count() == 0


def test_markup_of_users_is_shown_letter_by_letter_and_does_nothing(visit: Callable, markup: str) -> None:
    seen = visit("hostile")
    seen.unfold()
    for button in seen.page.get_by_role("button").all():
        button.click()
    assert seen.page.evaluate("window.taken") is None
    assert seen.said == []
    assert seen.page.title() == f"digits/version_7{markup}: Report of a training run"
    for one in ("h1", "main table th", "summary ~ * td", "figcaption", "article h3", "pre", "dd code", "svg text"):
        assert seen.page.locator(one).filter(has_text="<img src=x").count() > 0, one
    assert seen.page.locator("main").inner_text().count("<svg onload=") > 60
    assert seen.page.locator("iframe, textarea, a[href^='javascript'], [onload], [onerror]").count() == 0


@pytest.mark.parametrize("kind", ["healthy", "sick"])
def test_without_scripts_everything_can_be_read_and_no_button_is_dead(visit: Callable, kind: str) -> None:
    plain, full = visit(kind, java_script_enabled=False), visit(kind)
    for summary in plain.page.locator("summary").all():
        summary.click()
    full.unfold()
    assert plain.page.locator("button").count() == 0
    assert full.page.locator("button").count() > 5
    full.page.evaluate("for (const one of document.querySelectorAll('button')) one.remove()")
    words = plain.page.locator("body").inner_text()
    assert words == full.page.locator("body").inner_text()
    assert "seed_everything: 42" in words  # stands in what was folded
