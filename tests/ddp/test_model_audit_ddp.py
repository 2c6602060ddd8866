"""model-audit finds the same on two ranks and in one process, and what is wrong on one rank counts for all."""

from __future__ import annotations

from typing import Any

import pytest


@pytest.mark.parametrize("scenario", ["healthy", "softmax", "tiny", "nan_on_one_rank", "raises_on_one_rank"])
def test_ranks_agree(results: Any, scenario: str) -> None:
    _, first, second = results
    assert first[scenario] == second[scenario]


def alarms(run: Any) -> list[str]:
    return [rule for rule, severity, _ in run["found"] if severity in ("warning", "error")]


@pytest.mark.parametrize(
    ("scenario", "expected"),
    [
        ("healthy", []),
        ("softmax", ["right-loss"]),
        ("tiny", ["tiny-batch-norm"]),
        ("nan_on_one_rank", ["non-finite-start"]),
    ],
)
def test_as_in_one_process(results: Any, scenario: str, expected: list[str]) -> None:
    for run in results:
        assert alarms(run[scenario]) == expected


def test_a_failure_on_one_rank_is_told_by_all(results: Any) -> None:
    for run in results:
        found = run["raises_on_one_rank"]["found"]
        assert {severity for _, severity, _ in found} <= {"ok", "info"}
        told = [message for rule, _, message in found if rule == "model-audit"]
        assert any("the measurement failed with KeyError: 'only here'" in message for message in told)


def test_leaves_no_trace(results: Any) -> None:
    for run in results:
        assert run["no_trace"] == {"same_weights": True, "same_rng": True}
