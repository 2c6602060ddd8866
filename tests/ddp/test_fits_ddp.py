"""Fits of a procedure end, and share their data, on two ranks as in one process."""

from __future__ import annotations

from typing import Any

import pytest

pytestmark = pytest.mark.slow


def test_all_ranks_end_when_rank_0_is_asked_to(results: Any) -> None:
    one, first, second = (run["stopped"] for run in results)
    assert one["epochs"] == first["epochs"] == second["epochs"] == 2
    assert (one["status"], first["status"], second["status"]) == ("stopped", "stopped", None)
    assert [run["lock"] for run in (one, first, second)] == [False] * 3


def test_a_fold_is_held_out_of_all_ranks(results: Any) -> None:
    one, first, second = (run["held_out"] for run in results)
    assert one["seen"] == first["seen"] == second["seen"]
    seen = {split: set(numbers) for split, numbers in first["seen"].items()}
    assert seen["test"] == set(range(1, 128, 4))
    assert not seen["test"] & (seen["train"] | seen["val"])
    assert not seen["train"] & seen["val"]
    assert len(seen["val"]) == pytest.approx(96 / 5, abs=1)
    assert len(first["told"]) == 32, "each example once"
    assert one["told"] == first["told"]


def test_ranks_share_one_subset(results: Any) -> None:
    one, first, _ = (run["subset"] for run in results)
    assert one["train"] == first["train"]
    assert len(first["train"]) == 32
    assert len(first["val"]) == 32
