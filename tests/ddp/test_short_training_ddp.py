"""Short trainings before the first step: all ranks find the same, and training goes on as if they had not been."""

from __future__ import annotations

from typing import Any


def test_all_ranks_find_the_same(results: Any) -> None:
    _, first, second = results
    for name in ("seeing", "blind"):
        assert first[name]["found"] == second[name]["found"]
    assert first["seeing"]["rank"] != second["seeing"]["rank"]


def test_healthy_code_passes_and_lost_inputs_do_not(results: Any) -> None:
    for ranks in results:
        assert [severity for severity, _ in ranks["seeing"]["found"]] == ["ok"] * 3
        assert [severity for severity, _ in ranks["blind"]["found"]] == ["error", "error", "info"]


def test_no_trace_is_left(results: Any) -> None:
    for ranks in results:
        assert ranks["seeing"]["weights"] == ranks["without_rules"]["weights"]
