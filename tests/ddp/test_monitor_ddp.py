"""Two ranks sample the same batches, whatever it costs each of them, and judge alike."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from lightning_rules.cadence import DENSE, DENSELY, FREE_SAMPLES, SELDOM


@pytest.fixture(scope="module")
def ranks(ran: Path) -> list[dict[str, Any]]:
    return [json.loads((ran / f"two/2-{rank}.json").read_text()) for rank in (0, 1)]


def test_ranks_sample_the_same_batches(ranks: Any) -> None:
    (first, _), (second, _) = (rank["watched"]["sampled"] for rank in ranks)
    assert first == second
    begun = DENSE * DENSELY + (FREE_SAMPLES - DENSE) * SELDOM
    quick = FREE_SAMPLES + (1500 - begun) // SELDOM
    assert FREE_SAMPLES < len(first) < (FREE_SAMPLES + quick) / 2
    assert ["ok", "slow", "2 ranks, the same samples: True."] in ranks[0]["watched"]["said"]


def test_a_failure_on_one_rank_ends_the_measurement_on_both(ranks: Any) -> None:
    for rank in ranks:
        (said,) = [said for said in rank["watched"]["said"] if said[1] == "fails-on-rank-1"]
        assert said[0] == "info"
        assert "KeyError: 'nothing there'" in said[2]


def test_no_trace(ranks: Any) -> None:
    assert ranks[0]["watched"]["weights"] == ranks[0]["without"]["weights"] == ranks[1]["watched"]["weights"]
