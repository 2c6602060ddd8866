"""Two ranks share the teacher's work and learn what one process learns; cascades choose as one process does."""

from __future__ import annotations

from typing import Any

import pytest


def test_the_cache_is_whole_and_the_same(results: Any) -> None:
    one, first, second = results
    assert one["distil"]["done"] == [1] * 8
    assert first["distil"]["done"] == [1] * 16
    assert one["distil"]["cache"] == first["distil"]["cache"] == second["distil"]["cache"]
    assert one["distil"]["said"] == first["distil"]["said"] == second["distil"]["said"]


def test_the_student_is_the_same(results: Any) -> None:
    one, first, second = results
    assert first["distil"]["weights"] == second["distil"]["weights"]
    for alone, shared in zip(one["distil"]["weights"], first["distil"]["weights"], strict=True):
        assert shared == pytest.approx(alone, abs=1e-5)


def test_a_teacher_damaged_on_one_rank_is_refused_on_both(results: Any) -> None:
    one, first, second = results
    assert "broken.ckpt is damaged or no checkpoint" in one["refused"]
    assert first["refused"] == second["refused"] == one["refused"]


def test_cascades_count_each_example_once(results: Any) -> None:
    one, first, second = results
    assert first["cascade"] == second["cascade"]
    alone, shared = one["cascade"], first["cascade"]
    assert shared["thresholds"] == pytest.approx(alone["thresholds"])
    assert shared["refuse_under"] == pytest.approx(alone["refuse_under"])
    for name in ("checked", "tested"):
        assert shared[name] == pytest.approx(alone[name], rel=1e-5)
    assert alone["checked"]["val/accuracy"] * 65 == pytest.approx(
        round(alone["checked"]["val/accuracy"] * 65), abs=1e-4
    )
    assert 0 < alone["tested"]["test/stopped_0"] < 1
    assert shared["written"] == alone["written"] == ["cascade.ckpt", "cascade.png"]
