"""The page: sound, safe whatever the names are, small, and the same for the same document."""

import base64
import hashlib
import re
from copy import deepcopy
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from lightning_rules.exhibit import Bars, Curve, Curves, Exhibit, Listing, Matrix, Panels, Picture, Section
from lightning_rules.finding import Finding, Severity
from lightning_rules.report import page as page_module
from lightning_rules.report.__main__ import main
from lightning_rules.report.document import FINISHED, HTML, JSON, Document
from lightning_rules.report.page import page_of
from lightning_rules.report.score import Score
from lightning_rules.report.series import Series

EVIL = "<img src=x onerror=alert(1)><script>alert(2)</script>'\"><b>&amp;`$x^2$</text></svg>{{ 7*7 }}"


@pytest.fixture(scope="module")
def pages(documents: dict[str, Document], tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    folder = tmp_path_factory.mktemp("run")
    return {name: page_of(document, folder) for name, document in documents.items()}


KINDS = pytest.mark.parametrize("kind", ["healthy", "sick", "unfinished", "bare"])


@KINDS
def test_elements_close_ids_differ_links_lead_somewhere_and_headings_are_in_order(
    seen_page: Any, pages: dict, kind: str
) -> None:
    seen = seen_page(pages[kind])
    ids = [attrs["id"] for _, attrs in seen.elements if "id" in attrs]
    assert len(ids) == len(set(ids))
    links = [
        attrs["href"] for _, attrs in seen.elements if "href" in attrs and not (attrs["href"] or "").startswith("data:")
    ]
    assert links
    assert all(link[0] == "#" and link[1:] in ids for link in links if link)
    named = [attrs["aria-labelledby"] for _, attrs in seen.elements if "aria-labelledby" in attrs]
    assert set(named) <= set(ids)
    levels = [int(tag[1]) for tag, _ in seen.elements if re.fullmatch(r"h[1-6]", tag)]
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(after - before <= 1 for before, after in pairwise(levels))
    assert {"header", "nav", "main", "footer"} <= {tag for tag, _ in seen.elements}
    assert seen.all("html")[0]["lang"] == "en"
    assert all(attrs.get("role") == "img" and attrs.get("aria-label") for attrs in seen.all("svg"))
    assert all(attrs.get("alt") for attrs in seen.all("img"))
    assert all(attrs.get("scope") in ("row", "col") for attrs in seen.all("th"))


@KINDS
def test_nothing_is_loaded_and_only_our_own_script_may_run(seen_page: Any, pages: dict, kind: str) -> None:
    page = pages[kind]
    seen = seen_page(page)
    assert not re.search(r"(src|href|url\(|action)\s*=?\s*[\"'(]?\s*(https?:)?//", page)
    assert not seen.all("link")
    assert "@import" not in page
    policy = next(attrs["content"] for attrs in seen.all("meta") if attrs.get("http-equiv"))
    script = re.findall(r"<script>(.*?)</script>", page, re.DOTALL)
    assert len(script) == 1
    digest = base64.b64encode(hashlib.sha256(script[0].encode()).digest()).decode()
    assert policy is not None
    assert policy.startswith("default-src 'none'")
    assert f"script-src 'sha256-{digest}'" in policy
    assert not [name for _, attrs in seen.elements for name in attrs if name.startswith("on")]


@KINDS
def test_the_same_document_gives_the_same_bytes_also_from_its_file(
    pages: dict, documents: dict, kind: str, tmp_path: Path
) -> None:
    assert page_of(Document.from_json(documents[kind].to_json()), tmp_path) == pages[kind]
    assert len(pages[kind].encode()) < 400_000


def test_what_is_worst_stands_first_with_what_shows_it(pages: dict) -> None:
    page = pages["sick"]
    order = [
        page.index(f"{name}</h3>")
        for name in ("non-finite-gradients", "diverging-loss", "dying-units", "label-suspects")
    ]
    assert order == sorted(order)
    article = page[page.index('<article class="finding error"') : page.index("</article>")]
    assert "Gradient norms by layer</strong>" in article
    assert "<code>backbone.layer3.1.conv2.weight</code>" in article
    assert page.count("Gradient norms by layer</strong>") == 1
    assert (
        '<p class="said"><span class="rule">lr-finder</span> Set the learning rate'
        in page[page.index("Learning rate</h2>") :]
    )
    assert 'Shown above, beside what it is about: <a href="#figure-' in page


def test_states_scores_and_lists(seen_page: Any, pages: dict) -> None:
    healthy, unfinished = seen_page(pages["healthy"]).text, seen_page(pages["unfinished"]).text
    assert "95% interval 96.4% to 99.2%, from 359 examples" in healthy
    assert "digits/version_2: this run is better, but that could be chance" in healthy
    assert "Looked at, and it holds (3)" in healthy
    assert "Skipped, with the reason (2)" in healthy
    assert "Ignored, measured by hand" in healthy
    assert "1.1 s (2.1% of the run)" in healthy
    assert "runs/digits/version_3/408-val-accuracy=0.9833" in healthy
    assert "Unfinished, as of 2026-11-21 14:06:02 UTC (epoch 4 of 12, step 171)" in unfinished
    assert "no rule has looked" in seen_page(pages["bare"]).text


def evil() -> Document:
    """Markup wherever a user's text can stand."""
    curve = Curves([Curve(EVIL, [0, 1], [0.0, 1.0])] * 2, EVIL, EVIL, marks=[(0.5, EVIL)])
    contents = [curve, Panels([EVIL], [curve]), Bars([EVIL], [1.0], EVIL), Matrix([EVIL, "b"], [[1, 2], [3, 4]]),
                Listing([EVIL], [[EVIL], [EVIL]]), Picture(EVIL, EVIL), Picture("there.png", EVIL)]  # fmt: skip
    rules = [{"name": EVIL, "kind": EVIL, "says": EVIL, "source": EVIL}]
    found = [Finding(EVIL, severity, EVIL, EVIL, {EVIL: EVIL}, 3) for severity in Severity]
    shown = [
        Exhibit(f"{EVIL}{place}", section, EVIL, EVIL, one)
        for place, (one, section) in enumerate(zip(contents, list(Section)[: len(contents)], strict=True))
    ]
    one = Series([1, 2], [0.1, 0.2], 1, 2)
    names = (f"gradient_norm/{EVIL}", f"learning_rate/{EVIL}", f"learning_rate/0.{EVIL}")
    return Document(
        EVIL, f"failed: {EVIL}", EVIL, EVIL, {}, found, rules,
        Score(EVIL, "max", 0.5, 1, 10, 0.4, 0.6, previous=0.4, previous_run=EVIL),
        {f"val/{EVIL}": one, EVIL: one}, dict.fromkeys(names, one), shown, {EVIL: 0.1}, {},
        {"command": [EVIL], "config": EVIL, "seed": EVIL, "versions": {EVIL: EVIL}, "tag": EVIL, "why_not": EVIL,
         "code": {"commit": EVIL, "branch": EVIL},
         "data": {"datamodule": EVIL, "datasets": [{"class": EVIL, "of": EVIL}]}},
    )  # fmt: skip


def test_markup_of_users_is_text_everywhere(seen_page: Any, pages: dict, tmp_path: Path, run_picture) -> None:
    run_picture(tmp_path, "there.png")
    page = page_of(evil(), tmp_path)
    seen = seen_page(page)
    known = {tag for one in ("healthy", "sick") for tag, _ in seen_page(pages[one]).elements} | {"img"}
    assert {tag for tag, _ in seen.elements} <= known
    assert not seen.all("b")
    assert len(seen.all("script")) == 1
    assert [attrs["src"][:22] for attrs in seen.all("img") if attrs["src"]] == ["data:image/png;base64,"]
    assert not [name for _, attrs in seen.elements for name in attrs if name.startswith("on")]
    assert seen.text.count("<script>alert(2)</script>") > 40
    assert seen.all("img")[0]["alt"] == EVIL
    assert "{{ 7*7 }}" in seen.text
    assert "49" not in re.findall(r">[^<]*\b49\b[^<]*<", page)


@pytest.mark.parametrize(
    "file", ["missing.png", "../secret.png", "/etc/passwd", "..", "", "not_png.png", "a\0b", "broken.png"]
)
def test_a_picture_that_is_not_there_is_said_and_nothing_else_is_read(
    seen_page: Any, file: str, tmp_path: Path
) -> None:
    (tmp_path / "rules").mkdir()
    (tmp_path / "secret.png").write_bytes(b"\x89PNG\r\n\x1a\nsecret")
    (tmp_path / "rules" / "not_png.png").write_bytes(b"<svg onload=alert(1)>")
    (tmp_path / "rules" / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\n" + b"x" * 500_000)
    exhibit = Exhibit("worst", Section.ERRORS, "Worst", "", Picture(file, "errors"))
    seen = seen_page(page_of(Document(state=FINISHED, exhibits=[exhibit]), tmp_path))
    assert not seen.all("img")
    assert re.search("missing in the run|is not in the run|is no PNG|could not be drawn", seen.text)


def test_a_drawing_that_fails_costs_itself_alone(seen_page: Any, documents: dict, tmp_path: Path) -> None:
    odd = Exhibit("odd", Section.DATA, "Odd", "", Curves([Curve("a", ["x"], [object()])], "x", "y"))  # type: ignore[list-item]
    seen = seen_page(page_of(replace_exhibits(documents["healthy"], [odd]), tmp_path))
    assert "could not be drawn (" in seen.text
    assert "Gradient norms by layer" in seen.text


def replace_exhibits(document: Document, exhibits: list[Exhibit]) -> Document:
    return Document(**{**vars(document), "exhibits": exhibits})


def test_a_page_that_would_be_too_large_leaves_out_the_largest_and_says_so(
    seen_page: Any, tmp_path: Path, run_picture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(page_module, "LIMIT", 150_000)
    run_picture(tmp_path, "large.png", 300, True)
    run_picture(tmp_path, "small.png", 40, True)
    shown = [Exhibit(name, Section.ERRORS, name, "", Picture(f"{name}.png", name)) for name in ("large", "small")]
    page = page_of(Document(state=FINISHED, exhibits=shown), tmp_path)
    assert len(page.encode()) < 150_000
    assert [attrs["alt"] for attrs in seen_page(page).all("img")] == ["small"]
    assert "Left out, so that the page stays small. It is the file large.png." in page


def test_a_large_picture_is_made_smaller(tmp_path: Path, run_picture) -> None:
    run_picture(tmp_path, "a.png", 2000, True)
    exhibit = Exhibit("a", Section.ERRORS, "a", "", Picture("a.png", "a"))
    page = page_of(Document(state=FINISHED, exhibits=[exhibit]), tmp_path)
    assert 100_000 < len(page) < 1_500_000 < (tmp_path / "rules" / "a.png").stat().st_size


def test_texts_without_end_are_cut(tmp_path: Path) -> None:
    many = [Finding(f"rule-{one}", Severity.WARNING, "x" * 200_000, "y", {"z": "w" * 10**6}) for one in range(300)]
    page = page_of(Document(findings=many, record={"config": "a: b\n" * 10**6, "command": ["x"] * 10**6}), tmp_path)
    assert len(page.encode()) < 3_000_000
    assert re.search(r"\d+ more are in rules/findings.jsonl", page)


def test_a_lone_surrogate_does_not_stop_the_page_from_being_written(tmp_path: Path) -> None:
    document = Document(run="a\ud800b", state=FINISHED, tested={"test/\udfff": 1.0})
    (tmp_path / "page.html").write_text(page_of(document, tmp_path), encoding="utf-8")
    assert "a?b" in (tmp_path / "page.html").read_text(encoding="utf-8")


def test_command_draws_the_page_again(documents: dict, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "rules").mkdir()
    (tmp_path / JSON).write_text(documents["sick"].to_json(), encoding="utf-8")
    assert main([str(tmp_path)]) == 0
    assert "This run failed" in capsys.readouterr().out
    before = (tmp_path / HTML).read_text(encoding="utf-8")
    assert main([str(tmp_path / JSON)]) == 0
    assert (tmp_path / HTML).read_text(encoding="utf-8") == before
    assert main([str(tmp_path / "elsewhere")]) == 2
    assert "There is no folder or file" in capsys.readouterr().err


def test_documents_are_left_as_they_are(documents: dict, tmp_path: Path) -> None:
    before = deepcopy(documents["healthy"])
    page_of(documents["healthy"], tmp_path)
    assert documents["healthy"] == before
    assert replace(before.findings[0]) == documents["healthy"].findings[0]
