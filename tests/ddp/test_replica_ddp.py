"""Two ranks: replicas that drift apart and shared batches are told, on both alike; a healthy run is not troubled."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest


@pytest.fixture(scope="module")
def two(ran: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    first, second = (json.loads((ran / "two" / f"2-{rank}.json").read_text()) for rank in range(2))
    return first, second


def test_ranks_agree(two: Any) -> None:
    assert two[0] == two[1]


def test_healthy(two: Any) -> None:
    said = two[0]["healthy"]["said"]
    assert [(rule, severity) for rule, severity, _ in said] == [
        ("replicas-differ", "ok"),
        ("same-batch-on-ranks", "ok"),
    ]
    assert two[0]["healthy"]["updates"] == [["update-ratio", "ok"]]


def test_weights_reset_on_each_rank(two: Any) -> None:
    rule, severity, message = two[0]["reset"]["said"][0]
    assert (rule, severity) == ("replicas-differ", "error")
    assert "`net.0.weight`" in message
    assert "seen first at step 16" in message
    assert two[0]["reset"]["evidence"]["replicas-differ"]["distance"] > 0.1


def test_an_error_stops_both(two: Any) -> None:
    for rank in two:
        assert rank["reset_raises"]["raised"].startswith("replicas-differ: ")
        assert rank["reset_raises"]["steps"] == 16


def test_steps_without_synchronisation_are_dated(two: Any) -> None:
    assert two[0]["alone"]["said"][0][:2] == ["replicas-differ", "error"]
    assert 20 < two[0]["alone"]["evidence"]["replicas-differ"]["since_step"] <= 64, "the first look after step 20"


def test_weights_that_are_drawn_anew_on_all_ranks_are_told_by_both(two: Any) -> None:
    assert ["weights-overwritten", "warning"] in two[0]["drawn_anew"]["updates"]
    assert {severity for _, severity, _ in two[0]["drawn_anew"]["said"]} == {"ok"}, "replicas are the same"


def test_shared_batches(two: Any) -> None:
    said = {rule: severity for rule, severity, _ in two[0]["shared_batches"]["said"]}
    assert said == {"same-batch-on-ranks": "warning", "replicas-differ": "ok"}
