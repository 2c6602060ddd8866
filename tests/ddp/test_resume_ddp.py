from __future__ import annotations

from typing import Any

import pytest


@pytest.mark.parametrize("scenario", ["in_flight", "beside_other_rules"])
def test_same_bits_on_every_rank(results: Any, scenario: str) -> None:
    for run in results:
        assert run[scenario]["left"] > 0
        assert run[scenario]["same_batches"]
        assert run[scenario]["same"]


def test_gradients_in_flight_are_each_ranks_own(results: Any) -> None:
    one, first, _ = results
    assert len(one["in_flight"]["gradients"]) == 1
    assert one["in_flight"]["gradients"][0] > 0
    assert len(set(first["in_flight"]["gradients"])) == 2


def test_statistics_of_batch_norm_are_kept_where_they_are_not_rank_zeros(results: Any) -> None:
    one, first, _ = results
    assert one["in_flight"]["buffers"] == [0]
    assert first["in_flight"]["buffers"] == [0, 2]


def test_says_that_another_number_of_ranks_cannot_go_on_exactly(results: Any) -> None:
    for run in results:
        assert any("warning" in said.lower() and "saved by 7 ranks" in said for said in run["other_ranks"]["finding"])
