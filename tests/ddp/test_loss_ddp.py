"""Ranks see other batches, and judge the mean of their losses and the sum of their errors alike."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest


@pytest.fixture(scope="module")
def ranks(ran: Path) -> list[dict[str, Any]]:
    return [json.loads((ran / f"two/2-{rank}.json").read_text()) for rank in (0, 1)]


def test_all_ranks_find_the_same(ranks: Any) -> None:
    first, second = ranks
    assert first["healthy"]["found"] == second["healthy"]["found"]
    assert first["healthy"]["first"] != second["healthy"]["first"]
    (fell, verdict) = first["healthy"]["found"]
    assert fell[:2] == ["ok", "loss-decreases"]
    assert "640 answers" in verdict[2]  # 320 of each rank


def test_a_loss_that_is_not_finite_on_one_rank_is_an_error_on_all(ranks: Any) -> None:
    for rank in ranks:
        severity, aspect, message = rank["broken"]["found"][0]
        assert (severity, aspect) == ("error", "non-finite-loss")
        assert "batch 7 on" in message


def test_no_trace(ranks: Any) -> None:
    for rank in ranks:
        assert rank["healthy"]["weights"] == rank["without_rules"]["weights"]
