"""data-audit on two ranks says what it says in one process."""

from __future__ import annotations

from typing import Any

import pytest

Results = Any


def alarms(said: list[list[str]]) -> list[list[str]]:
    return [[severity, rule] for severity, rule, _ in said if severity in ("warning", "error")]


def test_ranks_agree(results: Results) -> None:
    _, first, second = results
    for scenario in first.keys() - {"trace"}:  # running statistics of batch norm are local
        assert first[scenario] == second[scenario], scenario
        assert len(first[scenario]["said"]) > 3


@pytest.mark.parametrize(
    ("scenario", "expected"),
    [("healthy_sets", []), ("leaking_sets", [["error", "no-leak"]]), ("sharded_streams", [])],
)
def test_same_alarms_as_in_one_process(results: Results, scenario: str, expected: list[Any]) -> None:
    for run in results:
        assert alarms(run[scenario]["said"]) == expected
        assert not [message for _, _, message in run[scenario]["said"] if "failed with" in message]


def test_classes_of_all_ranks_are_counted_together(results: Results) -> None:
    for run in results:
        (balance,) = [message for _, rule, message in run["sharded_streams"]["said"] if rule == "imbalance"]
        assert balance.startswith("4 classes")


def test_no_trace_on_any_rank(results: Results) -> None:
    for run in results:
        assert run["trace"]["with"] == run["trace"]["without"]
