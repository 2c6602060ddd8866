"""The page of a comparison: sound, safe whatever the names are, small, and quick for many runs."""

from __future__ import annotations

import random
import re
import time
from copy import deepcopy
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from lightning_rules.exhibit import Bars, Exhibit, Listing, Section
from lightning_rules.finding import Finding, Severity
from lightning_rules.report import page as page_module
from lightning_rules.report.comparison import compared
from lightning_rules.report.comparison_page import page_of_comparison
from lightning_rules.report.comparison_rows import group_rows, run_rows, signed
from lightning_rules.report.document import Document
from lightning_rules.report.draw_overlay import looks_of
from lightning_rules.report.grids import CELLS, Cell, findings_grid, grid_of, metrics_grid
from lightning_rules.report.score import Score, interval
from lightning_rules.report.series import Series

EVIL = "<img src=x onerror=alert(1)><script>alert(2)</script>'\"><b>&amp;`$x^2$</text></svg>{{ 7*7 }}"
OTHER = "seed_everything: 1\nmodel: {class_path: other.Net, init_args: {width: 8}}\n"


def several(healthy: Document, count: int, points: int = 12) -> list[Document]:
    """Runs of a healthy one's kind with other rates and seeds, each a little different."""
    draw, made = random.Random(0), []
    for place in range(count):
        one = replace(healthy, record=dict(healthy.record), metrics=dict(healthy.metrics), series=dict(healthy.series))
        one.run, value = f"digits/version_{place}", round(draw.uniform(0.9, 0.99) * 359) / 359
        low, high = interval(value, 359)
        one.score = replace(one.score, value=value, low=low, high=high, previous=None)  # type: ignore[type-var]
        text = one.record["config"].replace("lr: 0.001", f"lr: {10.0 ** -(place // 2)}")
        one.record["config"], one.record["seed"] = text.replace("42", str(place)), place
        steps = [39 * (at + 1) for at in range(points)]
        for name in one.metrics:
            one.metrics[name] = Series(steps, [draw.random() for _ in steps], 1, points)
        made.append(one)
    return made


def page_for(documents: list[Document], folder: Path, **options: Any) -> str:
    hrefs = [f"version_{place}/rules/report.html" for place in range(len(documents))]
    return page_of_comparison(compared(documents, hrefs), f"digits: {len(documents)} runs", folder, **options)


@pytest.mark.parametrize("count", [2, 3, 30])
def test_a_page_is_sound(count: int, documents: dict[str, Document], seen_page: Any, tmp_path: Path) -> None:
    made = several(documents["healthy"], count)
    page = page_for(made, tmp_path)
    seen = seen_page(page)
    ids = [attrs["id"] for _, attrs in seen.elements if "id" in attrs]
    assert len(ids) == len(set(ids))
    links = [attrs["href"] for attrs in seen.all("a")]
    assert all(link[1:] in ids for link in links if link[0] == "#")
    assert sorted(link for link in links if link[0] != "#") == sorted(
        f"version_{place}/rules/report.html" for place in range(count)
    )
    assert {attrs["aria-labelledby"] for _, attrs in seen.elements if "aria-labelledby" in attrs} <= set(ids)
    levels = [int(tag[1]) for tag, _ in seen.elements if re.fullmatch(r"h[1-6]", tag)]
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(after - before <= 1 for before, after in pairwise(levels))
    assert all(attrs.get("aria-label") or attrs.get("aria-hidden") for attrs in seen.all("svg"))
    assert all(attrs.get("scope") in ("row", "col") for attrs in seen.all("th"))
    assert all(attrs.get("tabindex") == "0" for attrs in seen.all("div") if "scroll" in (attrs.get("class") or ""))
    assert len(seen.all("script")) == 1
    order = [page.index(f'<section id="{name}"') for name in ("settings", "runs", "groups", "curves", "reproduction")]
    assert order == sorted(order)
    assert page == page_for(deepcopy(made), tmp_path), "the same runs give the same bytes"
    assert len(page.encode()) < 600_000
    assert ("all others are grey" in seen.text) is (count == 30)
    assert ("stroke: var(--run-rest)" in page) is (count == 30)
    assert "stroke: var(--run-1)" in page
    assert "#b9bfc7;" not in page.partition("</style>")[2]
    assert page.count('<svg class="key"') == min(count, 5 if count > 8 else 8)


def test_what_is_told_of_two_runs(documents: dict[str, Document], seen_page: Any, tmp_path: Path) -> None:
    sick, healthy = deepcopy(documents["sick"]), documents["healthy"]
    sick.score, sick.record["config"] = replace(healthy.score, value=0.5, low=0.45, high=0.55), OTHER  # type: ignore[type-var]
    shown = [
        Exhibit("members", Section.ENSEMBLE, "Members", "All of them.", Bars(["a"], [1.0], "accuracy (%)")),
        Exhibit("gain", Section.ENSEMBLE, "What it gains", "", Listing(["what", "gain"], [["soup", "+0.8"]])),
    ]
    page = page_for([sick, healthy], tmp_path, exhibits=shown, says=["The `soup` <is> better."])
    assert "<p>The <code>soup</code> &lt;is&gt; better.</p>" in page
    text = re.sub(r"\s+", " ", seen_page(page).text)
    assert "val/accuracy: version_3 is best with 98.3%, then version_7 with 50.0%; that is more than chance." in text
    assert "96.4% to 99.2%" in text
    assert "−48.3 points more than chance (p < 0.001)" in text
    assert "This run failed: ValueError: loss is not finite at step 131." in text
    assert "ended early, epoch 3 of 12" in text
    assert "97.2%" in text, "the test score"
    assert "8f612fc0" in text
    assert "✖ error" in text
    assert "not seen" in text
    assert "Said of all runs alike: label-suspects." in text
    assert "soup" in text
    assert "What came of them" in text
    assert "python scripts/train.py fit --config configs/digits.yaml --model.lr=1e-3" in text
    assert '<span title="model.init_args.lr">lr</span>' in page
    assert "lightning_recipe.models.ImageClassifier" in text
    assert "Configurations" not in text, "no run repeats another"
    assert text.index("What was set differently ") < text.index("verdict of its report")


def test_runs_without_a_score_of_other_metrics_and_of_which_nothing_is_known(
    documents: dict[str, Document], seen_page: Any, tmp_path: Path
) -> None:
    other = deepcopy(documents["healthy"])
    other.metrics = {"val/f1": Series([1, 2], [0.1, 0.2], 1, 2)}
    other.score = Score("val/f1", "max", 0.2, 2)
    page = page_for([Document(), documents["healthy"], other, documents["unfinished"], Document()], tmp_path)
    text = seen_page(page).text
    assert "5 runs, the best first, by val/accuracy" in text
    assert "unfinished, epoch 4 of 12" in text
    assert "run (2)" in text
    bare = seen_page(page_for([Document(), Document()], tmp_path)).text
    assert "no metric in common" in bare
    assert "No setting differs" in bare
    assert "Curves" not in bare


def evil(other: bool) -> Document:
    """Markup wherever a user's text can stand."""
    one = Series([1, 2], [0.1, 0.2], 1, 2)
    config = f"? {EVIL!r}\n: {EVIL!r}\n" if other else "a: 1\n"
    found = [Finding(EVIL, Severity.ERROR, EVIL, EVIL, {EVIL: EVIL}, 3)] if other else []
    code = {"commit": EVIL, "dirty": True}
    return Document(
        EVIL, f"failed: {EVIL}", EVIL, EVIL, {}, found, [], Score(EVIL, "max", 0.5, 1, 10, 0.4, 0.6),
        {EVIL: one}, {"learning_rate/0.0": one}, [], {EVIL: 0.1}, {},
        {"command": [EVIL], "config": config, "seed": EVIL, "code": code, "folder": EVIL, "tag": EVIL},
    )  # fmt: skip


def test_markup_of_users_is_text_everywhere(documents: dict[str, Document], seen_page: Any, tmp_path: Path) -> None:
    more = [
        Exhibit(EVIL, Section.ENSEMBLE, EVIL, EVIL, one) for one in (Bars([EVIL], [1.0], EVIL), Listing([EVIL], []))
    ]
    page = page_of_comparison(compared([evil(True), evil(False)], [EVIL, EVIL]), EVIL, tmp_path, more)
    seen = seen_page(page)
    usual = seen_page(page_for(several(documents["healthy"], 3), tmp_path))
    assert {tag for tag, _ in seen.elements} <= {tag for tag, _ in usual.elements}
    assert not seen.all("img") + seen.all("b")
    assert len(seen.all("script")) == 1
    assert not [name for _, attrs in seen.elements for name in attrs if name.startswith("on")]
    assert seen.text.count("{{ 7*7 }}") > 15
    assert "49" not in re.findall(r">[^<]*\b49\b[^<]*<", page)


def test_200_runs_are_one_small_page_in_seconds(documents: dict[str, Document], tmp_path: Path) -> None:
    made = several(documents["healthy"], 200, points=256)
    for place, one in enumerate(made):
        for number in range(12):
            one.metrics[f"val/metric_{number}"] = one.metrics["val/loss"]
        one.record["config"] += "".join(f"key_{number}: {place}\n" for number in range(150))
        one.record["command"] = ["x" * 5000]
    began = time.process_time()
    page = page_for(made, tmp_path)
    assert time.process_time() - began < 10
    assert len(page.encode()) < 2_900_000
    assert page.count('class="drawing"') == 12
    assert "more are left out" in page


def test_more_runs_are_left_out_and_said_to_be(documents: dict[str, Document], tmp_path: Path) -> None:
    made = several(documents["healthy"], 203, points=2)
    page = page_for(made, tmp_path)
    assert "203 runs, the best first, of which 200 are shown, by val/accuracy" in page
    assert page.count("/rules/report.html") == 200


def test_a_page_that_would_be_too_large_leaves_figures_out(
    documents: dict[str, Document], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(page_module, "LIMIT", 40_000)
    page = page_for(several(documents["healthy"], 3), tmp_path)
    assert "Left out, so that the page stays small." in page
    assert len(page.encode()) < 40_000


def test_texts_without_end_are_cut(tmp_path: Path) -> None:
    long = "x" * 100_000
    made = [
        Document(
            run=f"{place}{long}", state=f"failed: {long}", score=Score(f"accuracy{long}", "max", 0.5, 1, 10, 0.4, 0.6),
            findings=[Finding(f"{place}{long}", Severity.ERROR, long)], tested={f"test/{long}": 1.0},
            metrics={f"accuracy{long}": Series([1, 2], [0.1, 0.2], 1, 2)},
            record={"config": f"? {long}\n: {place}{long}\n", "command": [long] * 9, "code": {"commit": long}},
        )
        for place in range(30)
    ]  # fmt: skip
    assert len(page_for(made, tmp_path).encode()) < 1_000_000


def test_a_figure_that_fails_costs_itself_alone(documents: dict[str, Document], tmp_path: Path) -> None:
    made = several(documents["healthy"], 2)
    made[0].series["learning_rate/0.0"] = Series([1], [object()], 1, 1)  # type: ignore[list-item]
    page = page_for(made, tmp_path)
    assert "This could not be drawn (TypeError" in page
    assert page.count('class="drawing"') == 3


def test_a_table_has_fewer_columns_than_rows(documents: dict[str, Document]) -> None:
    runs = compared(several(documents["healthy"], 4)).runs
    few = grid_of("key", [Cell("a"), Cell("b")], runs, lambda thing, run: Cell(f"{thing}{run}"))
    assert [one.text for one in few.columns] == ["a", "b"]
    assert [one.text for _, cells in few.rows for one in cells] == ["00", "10", "01", "11", "02", "12", "03", "13"]
    many = grid_of("key", [Cell(str(at)) for at in range(9)], runs, lambda thing, run: Cell(f"{thing}{run}"))
    assert [one.text for one in many.columns] == [one.name for one in runs]
    assert [one.text for one in many.rows[8][1]] == ["80", "81", "82", "83"]
    assert grid_of("key", [Cell("")] * (CELLS + 9), runs, lambda thing, run: Cell("")).left_out == CELLS * 3 // 4 + 9


def test_metrics_are_those_at_the_score(documents: dict[str, Document]) -> None:
    grid = metrics_grid(compared([documents["healthy"], documents["unfinished"]]))
    rows = {head.text: [one.text for one in cells] for head, cells in grid.rows}
    assert rows["val/accuracy"] == ["98.3%", "93.0%"]
    assert rows["test/accuracy"] == ["97.2%", "—"]


def test_findings_that_all_have_alike_are_one_line(documents: dict[str, Document]) -> None:
    grid, alike = findings_grid(compared([documents["healthy"], documents["sick"]]))
    assert alike == ["label-suspects"]
    assert grid is not None
    assert [head.text for head, _ in grid.rows] == ["non-finite-gradients", "diverging-loss", "dying-units"]
    assert [one.text for one in grid.rows[0][1]] == ["not seen", "✖ error"]


def test_strips_share_a_scale_that_the_worst_do_not_stretch(documents: dict[str, Document]) -> None:
    made = several(documents["healthy"], 4)
    for one, value in zip(made, (0.97, 0.96, 0.95, 0.1), strict=True):
        low, high = interval(value, 359)
        one.score = replace(one.score, value=value, low=low, high=high)  # type: ignore[type-var]
    strips = [row.strip for row in run_rows(compared(made))]
    assert [one.off for one in strips if one] == ["", "", "", "left"]
    places = [one.at for one in strips if one]
    assert places == sorted(places, reverse=True)
    assert places[0] - places[2] > 20
    groups = group_rows(compared(several(documents["healthy"], 4)))
    assert [one.count for one in groups] == ["2", "2"]
    assert groups[0].behind == "best"
    assert all(not one.sure.endswith("10%") and "100.0%" in one.sure for one in groups), "no share is above 1"


def test_looks_are_distinct_up_to_eight_and_grey_beyond() -> None:
    few = looks_of(8)
    assert len({one.color for one in few}) == 8
    many = looks_of(9)
    assert [one.is_faint for one in many] == [False] * 5 + [True] * 4


def test_a_difference_is_never_told_as_none_with_a_sign() -> None:
    def points(value: float) -> str:
        return f"{100 * abs(value):.1f} points"

    assert [signed(one, points) for one in (0, -0.0004, 0.0004, -0.1, 0.1004)] == [
        "0", "−under 0.1 points", "+under 0.1 points", "−10.0 points", "+10.0 points",
    ]  # fmt: skip
    assert signed(-0.00012, lambda value: f"{abs(value):.3g}") == "−0.00012"
