"""What docs/report.md shows is what happens."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from lightning_rules import ReportCard
from lightning_rules.exhibit import Section
from lightning_rules.report.contents import TITLES
from lightning_rules.report.document import HTML, JSON

PAGE = (Path(__file__).resolve().parents[1] / "docs" / "report.md").read_text()
(EXAMPLE,) = re.findall(r"^```python\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)
(SHOWN,) = re.findall(r"^```text\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)

OF_SEVERAL_RUNS = (Section.CROSS_VALIDATION, Section.DATA_NEEDED, Section.SEARCH)


def plain(text: str) -> str:
    """Words alone: how lines break and the numbers of this run are another matter."""
    return re.sub(r"\d\S*( [mµ]?s\b)?", "#", " ".join(text.split()))


@pytest.mark.filterwarnings("ignore")
def test_the_example_prints_what_is_shown_and_writes_what_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    exec(EXAMPLE, {})
    printed = plain(capsys.readouterr().out)
    for line in SHOWN.splitlines():
        assert plain(line).removesuffix("#") in printed
    folder = Path("lightning_logs/version_0")
    assert 10_000 < (folder / HTML).stat().st_size < 3_000_000
    assert (folder / JSON).is_file()
    assert {path.suffix for path in (folder / "rules/figures").iterdir()} == {".png"}


def test_sections_are_those_of_the_page_in_its_order() -> None:
    (told,) = re.findall(r"order of a project's life: (.*?);", " ".join(PAGE.split()))
    words = told.replace(" by layer", "").replace("activations", "").split(", ")
    of_one_run = [title for section, title in TITLES.items() if section not in OF_SEVERAL_RUNS]
    titles = [title.lower().partition(",")[0].removesuffix(" and confidence") for title in of_one_run]
    places = [next(place for place, word in enumerate(words) if title in word) for title in titles]
    assert places == sorted(places)


def test_forms_are_those_of_the_rule() -> None:
    assert ReportCard("json").form == "json"
    assert ReportCard("none").form == "none"
    assert '`ReportCard("json")`' in PAGE
