"""Two ranks find one rate, and the one that a single process finds at the same global batch."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

SAME_BATCHES = ("plain", "ranks_differ", "raises_on_one_rank")
SCENARIOS = (*SAME_BATCHES, "shuffled", "unused_on_one_rank")


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory, run_ranks: Callable[..., None]) -> Any:
    """What one process saw, and what each of two ranks saw."""
    folder = tmp_path_factory.mktemp("lr")
    script = Path(__file__).with_name("lr_scenarios.py")
    run_ranks(script, str(folder / "one"), ranks=1)
    run_ranks(script, str(folder / "two"), ranks=2)
    return [json.loads((folder / f"{name}.json").read_text()) for name in ("one/1-0", "two/2-0", "two/2-1")]


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_ranks_agree(results: Any, scenario: str) -> None:
    _, first, second = results
    assert first[scenario]["rate"] is not None, first[scenario]["said"]
    assert first[scenario] == second[scenario]


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_as_in_one_process(results: Any, scenario: str) -> None:
    one, first, _ = results
    assert 1 / 1.5 < first[scenario]["rate"] / one[scenario]["rate"] < 1.5
    if scenario in SAME_BATCHES:  # to the last example
        assert first[scenario]["rate"] == pytest.approx(one[scenario]["rate"], rel=0.02)


def test_groups_keep_their_ratio(results: Any) -> None:
    for run in results:
        first, second = run["plain"]["rates"]
        assert first == run["plain"]["rate"]
        assert second == pytest.approx(first / 10)


def test_a_search_that_is_not_applied_leaves_no_trace(results: Any) -> None:
    for run in results:
        assert run["no_trace"] == {"same_weights": True, "same_state": True}
