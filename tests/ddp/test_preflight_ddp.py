"""Two ranks reach one verdict, and their training does not notice."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest


@pytest.fixture(scope="module")
def ranks(ran: Path) -> list[dict[str, Any]]:
    return [json.loads((ran / f"two/2-{rank}.json").read_text()) for rank in (0, 1)]


def test_ranks_agree(ranks: Any) -> None:
    assert ranks[0] == ranks[1]


def test_no_alarm(ranks: Any) -> None:
    severities = {rule: severity for severity, rule, _ in ranks[0]["healthy"]["said"]}
    assert severities == {"gradient-check": "ok", "capacity-check": "ok", "random-features": "info"}


def test_examples_of_both_ranks_are_counted(ranks: Any) -> None:
    (said,) = [message for _, rule, message in ranks[0]["healthy"]["said"] if rule == "random-features"]
    assert "on 256 other examples" in said


def test_a_fault_on_one_rank_is_told_by_both(ranks: Any) -> None:
    for run in ranks:
        severity, _, message = run["wrong_on_rank_1"]["said"][0]
        assert severity == "warning"
        assert "gives them no gradient" in message


def test_no_trace(ranks: Any) -> None:
    assert ranks[0]["healthy"]["weights"] == ranks[0]["without"]["weights"]
