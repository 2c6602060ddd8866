"""One report of a run on two ranks, with what all of them have seen."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from lightning_rules.report.document import Document


@pytest.fixture(scope="module")
def ranks(ran: Path) -> list[dict[str, Any]]:
    return [json.loads((ran / f"two/2-{rank}.json").read_text()) for rank in (0, 1)]


def test_rank_zero_alone_writes(ranks: Any, ran: Path) -> None:
    (folder,) = (ran / "two/with_report/logs").rglob("rules")
    assert {path.name for path in folder.iterdir() if path.name.startswith("report")} == {"report.html", "report.json"}
    assert not [path for path in folder.iterdir() if path.name.startswith(".")], "nothing is left half-written"
    assert "Finished" in (folder / "report.html").read_text(encoding="utf-8")


def test_what_all_ranks_have_seen(ranks: Any) -> None:
    document = Document.from_json(ranks[0]["with_report"]["report"])
    assert document.state == "finished"
    assert document.progress["step"] == 3 * 15
    assert [one.message for one in document.findings if one.rule == "sees-rank-one"] == ["Ranks [0, 1] were heard."]
    assert document.score is not None
    assert document.score.examples == 150, "of both ranks"
    assert len(document.metrics["val/accuracy"].steps) == 3
    assert {one.name for one in document.exhibits} >= {"class_balance", "overlap", "worst_errors", "confusion"}


def test_both_ranks_say_the_same(ranks: Any) -> None:
    assert ranks[0]["with_report"]["said"] == ranks[1]["with_report"]["said"]


def test_no_trace(ranks: Any) -> None:
    weights = [rank[name]["weights"] for rank in ranks for name in ("with_report", "without")]
    assert weights == [weights[0]] * 4
