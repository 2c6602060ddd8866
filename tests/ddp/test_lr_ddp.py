"""Two ranks find one rate, and the one that a single process finds at the same global batch."""

from __future__ import annotations

from typing import Any

import pytest

SAME_BATCHES = ("plain", "ranks_differ", "raises_on_one_rank")
SCENARIOS = (*SAME_BATCHES, "shuffled", "unused_on_one_rank")


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_ranks_agree(results: Any, scenario: str) -> None:
    _, first, second = results
    assert first[scenario]["rate"] is not None, first[scenario]["said"]
    assert first[scenario] == second[scenario]


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_as_in_one_process(results: Any, scenario: str) -> None:
    one, first, _ = results
    assert 1 / 1.5 < first[scenario]["rate"] / one[scenario]["rate"] < 1.5
    if scenario in SAME_BATCHES:  # to the last example
        assert first[scenario]["rate"] == pytest.approx(one[scenario]["rate"], rel=0.02)


def test_groups_keep_their_ratio(results: Any) -> None:
    for run in results:
        first, second = run["plain"]["rates"]
        assert first == pytest.approx(run["plain"]["rate"])
        assert second == pytest.approx(first / 10)


def test_a_search_that_is_not_applied_leaves_no_trace(results: Any) -> None:
    for run in results:
        assert run["no_trace"] == {"same_weights": True, "same_state": True}
