"""Two ranks clip and skip as one process does at the same global batch, and together."""

from __future__ import annotations

from typing import Any

import pytest

Results = dict[str, Any]


def test_ranks_agree(results: Any) -> None:
    _, first, second = results
    assert first.keys() == second.keys()
    for scenario, seen in first.items():
        local = {"norms", "weights"} if "without_synchronisation" in scenario else set()
        for key in seen.keys() - local:
            assert seen[key] == second[scenario][key], (scenario, key)


@pytest.mark.parametrize("scenario", ["max_norm", "percentile", "agc", "sharded"])
def test_as_in_one_process(results: Any, scenario: str) -> None:
    one, first, _ = results
    assert first[scenario]["evidence"] == pytest.approx(one[scenario]["evidence"], rel=1e-3)
    assert first[scenario]["evidence"]["steps"] == 16
    assert first[scenario]["evidence"]["clipped_share"] > 0
    assert first[scenario]["norms"] == pytest.approx(one[scenario]["norms"], rel=1e-3)
    for two, alone in zip(first[scenario]["weights"], one[scenario]["weights"], strict=True):
        assert two == pytest.approx(alone, abs=1e-3)


def test_norm_over_flat_shards(results: Any) -> None:
    one, first, _ = results
    assert first["flat_shards"]["ours"] == pytest.approx(first["flat_shards"]["theirs"], rel=1e-6)
    assert first["flat_shards"]["ours"] == pytest.approx(one["flat_shards"]["theirs"], rel=1e-6)


@pytest.mark.parametrize(
    ("scenario", "share"),
    [
        ("one_bad_batch", 1 / 16),
        ("one_bad_batch_fused", 1 / 16),
        ("one_bad_batch_accumulated", 1 / 4),
        ("one_bad_batch_without_synchronisation", 1 / 16),
        ("sharded", 1 / 16),
    ],
)
def test_a_bad_batch_on_one_rank_is_skipped_on_both(results: Any, scenario: str, share: float) -> None:
    for run in results:
        assert run[scenario]["raised"] == ""
        assert run[scenario]["finite"]
        assert run[scenario]["evidence"]["skipped_share"] == share


@pytest.mark.parametrize("scenario", ["budget_stops", "budget_stops_without_synchronisation", "budget_raises"])
def test_the_budget_ends_the_run_on_both(results: Any, scenario: str) -> None:
    for run in results:
        seen = run[scenario]
        (error,) = [message for severity, message in seen["said"] if severity == "error"]
        assert "those of 6 of 6 parameters, the last of them `head.bias`" in error
        assert "at most 3 may be skipped" in error
        assert seen["finite"]
        assert ("not finite" in seen["raised"]) is (scenario == "budget_raises")
        assert seen["steps"] < 16
