"""A refit ends at its step, and begins at a checkpoint, on two ranks as in one process."""

from __future__ import annotations

from typing import Any

import pytest

pytestmark = pytest.mark.slow


def test_all_ranks_end_at_the_step_and_go_on_from_the_same_weights(results: Any) -> None:
    one, first, second = (run["refitted"] for run in results)
    assert [run["restarted"] for run in (one, first, second)] == [11] * 3, "in the midst of the second epoch of 8"
    assert one["train"] == first["train"] == second["train"] == list(range(128)), "validation examples too"
    assert [run["continued"] for run in (one, first, second)] == [8] * 3
    assert first["weights"] == second["weights"]
    assert first["from"] == second["from"] != first["weights"][0]
