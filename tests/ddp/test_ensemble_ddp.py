"""An ensemble on two ranks is the one of one process, and each example counts once."""

from __future__ import annotations

from typing import Any

import pytest

pytestmark = pytest.mark.slow


def test_ranks_agree_to_the_bit(results: Any) -> None:
    _, first, second = results
    assert first == second


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
