"""Two ranks see the same rates, schedules, parameters and modes as one process does, and train on as if not looked "
"at."""

from __future__ import annotations

from typing import Any


def alarms(said: list[Any]) -> set[str]:
    return {rule for severity, rule, _ in said if severity in ("warning", "error")}


def test_ranks_agree(results: Any) -> None:
    _, first, second = results
    for scenario in first.keys() - {"trace"}:  # running statistics of batch norm are local
        assert first[scenario] == second[scenario], scenario


def test_what_is_found(results: Any) -> None:
    expected = {
        "healthy": set(),
        "cleared": set(),
        "rate_too_high": {"step-size"},
        "decays_early": {"schedule-audit"},
        "never_cleared": {"gradients-kept"},
    }
    for run in results:
        assert {scenario: alarms(run[scenario]) for scenario in expected} == expected


def test_nothing_failed(results: Any) -> None:
    for run in results:
        messages = [message for scenario, said in run.items() if scenario != "trace" for _, _, message in said]
        assert messages
        assert not [message for message in messages if "failed with" in message]


def test_no_trace(results: Any) -> None:
    for run in results:
        without, with_rules = run["trace"]
        assert with_rules == without
