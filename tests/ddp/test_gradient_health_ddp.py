"""Two ranks find the same: what is averaged over them, and what only one of them has seen."""

from __future__ import annotations

from typing import Any

import pytest


def test_ranks_agree(results: Any) -> None:
    _, first, second = results
    assert first == second


def test_a_healthy_run_is_told_as_such(results: Any) -> None:
    one, first, _ = results
    for run in (one, first):
        assert [severity for severity, _, _ in run["healthy"]] == ["ok"]


@pytest.mark.parametrize("scenario", ["bad_batch_on_one_rank", "bad_batch_on_one_rank_without_synchronisation"])
def test_one_rank_with_a_bad_batch_is_enough(results: Any, scenario: str) -> None:
    one, first, _ = results
    for run in (one, first):
        (error,) = [message for severity, _, message in run[scenario] if severity == "error"]
        assert "first at step 9: 4 of 4, `net.2.bias` nearest to the loss" in error
