"""Ensembles, students and cascades on two ranks are those of one process, and each example counts once."""

from __future__ import annotations

from typing import Any

import pytest

pytestmark = pytest.mark.slow


def test_ranks_agree_to_the_bit(results: Any) -> None:
    _, first, second = results
    for scenario in first:
        assert first[scenario] == second[scenario], scenario


def test_members_from_files_as_in_one_process(results: Any) -> None:
    one, first, _ = (run["of_a_list"] for run in results)
    assert first["winner"] == one["winner"]
    assert first["weights"] == pytest.approx(one["weights"], abs=1e-4)
    assert (
        first["rows"].keys() == one["rows"].keys() == {"single best", "ensemble", "uniform soup"} | first["rows"].keys()
    )
    for name, splits in one["rows"].items():
        for split, scores in splits.items():
            assert first["rows"][name][split] == pytest.approx(scores, abs=1e-4), name
    assert one["rows"]["ensemble"]["val"]["examples"] == 53
    assert one["rows"]["ensemble"]["test"]["examples"] == 41


@pytest.mark.parametrize("scenario", ["of_a_run", "of_snapshots"])
def test_members_of_a_run_count_each_example_once(results: Any, scenario: str) -> None:
    for run in results:
        assert {scores["val"]["examples"] for scores in run[scenario]["rows"].values()} == {53}
        assert {scores["test"]["examples"] for scores in run[scenario]["rows"].values()} == {41}


def test_as_one_model_whatever_the_sampler_repeats(results: Any) -> None:
    one, first, _ = (run["as_one_model"] for run in results)
    assert first == pytest.approx(one, abs=1e-5)
    assert one["test/accuracy"] * 41 == pytest.approx(round(one["test/accuracy"] * 41), abs=1e-4)


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
