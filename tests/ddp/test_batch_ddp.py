"""Two ranks agree on a batch size, though one of them has less room."""

from __future__ import annotations

from typing import Any

import pytest


def test_ranks_agree(results: Any) -> None:
    """Lightning's finder raises under DDP (2.6.6)."""
    _, first, second = results
    assert first == second


@pytest.mark.parametrize(
    ("scenario", "size", "one_steps", "two_steps"),
    [
        ("plain", 256, 2, 1),
        ("tight_on_one_rank", 32, 16, 8),
        ("tight_in_the_optimiser", 64, 8, 4),
        ("uneven", None, None, None),
        ("accumulated", 32, 4, 4),
    ],
)
def test_sizes(results: Any, scenario: str, size: int | None, one_steps: int | None, two_steps: int | None) -> None:
    one, first, _ = results
    if scenario == "uneven":  # 301 examples in one process, 151 a rank in two
        assert (one[scenario]["size"], first[scenario]["size"]) == (256, 128)
        assert (one[scenario]["sizes"], first[scenario]["sizes"]) == ([256, 45], [128, 23])
        return
    for run, steps in ((one, one_steps), (first, two_steps)):
        assert run[scenario]["size"] == size
        assert run[scenario]["steps"] == steps


def test_rates_and_accumulation_know_the_number_of_ranks(results: Any) -> None:
    one, first, _ = results
    assert one["accumulated"]["rate"] == pytest.approx(0.1 * 128 / 8)
    assert first["accumulated"]["rate"] == pytest.approx(0.1 * 128 / 16)
    assert "accumulated over 4 batches" in one["accumulated"]["said"]
    assert "accumulated over 2 batches" in first["accumulated"]["said"]
