"""metric-audit and mode-audit find the same on two ranks and in one process; what is wrong on one rank counts."""

from __future__ import annotations

from typing import Any

import pytest

SCENARIOS = ["healthy", "unsynchronised", "last_batch", "last_batch_of_each_rank", "one_rank_forgets"]


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_ranks_agree(results: Any, scenario: str) -> None:
    _, first, second = results
    assert first[scenario] == second[scenario]


def alarms(run: Any) -> list[str]:
    return sorted(rule for rule, severity, _ in run["found"] if severity in ("warning", "error"))


@pytest.mark.parametrize(
    ("scenario", "expected", "ranks"),
    [
        ("healthy", [], []),
        ("unsynchronised", [], ["unsynchronised-metric"]),
        ("last_batch", ["metric-of-the-last-batch"], ["metric-of-the-last-batch"]),
        (
            "last_batch_of_each_rank",
            ["metric-of-the-last-batch"],
            ["metric-of-the-last-batch", "unsynchronised-metric"],
        ),
        ("one_rank_forgets", ["training-in-evaluation-mode"], ["training-in-evaluation-mode"]),
    ],
)
def test_as_in_one_process(results: Any, scenario: str, expected: list[str], ranks: list[str]) -> None:
    one, *two = results
    assert alarms(one[scenario]) == expected
    for run in two:
        assert alarms(run[scenario]) == ranks
        assert not [message for _, _, message in run[scenario]["found"] if "failed with" in message]


def test_repeated_examples_are_told_to_several_ranks_only(results: Any) -> None:
    one, first, _ = results
    assert not [rule for rule, _, _ in one["healthy"]["found"] if rule == "padded-metric"]
    (said,) = [message for rule, _, message in first["healthy"]["found"] if rule == "padded-metric"]
    assert said.startswith("1 of 103 validation examples count twice")


def test_leaves_no_trace(results: Any) -> None:
    for run in results:
        assert run["no_trace"] == {"same_weights": True, "same_rng": True}
