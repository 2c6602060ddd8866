"""symmetric-init and flat-start: the judgement on numbers, and how rows are told apart."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from lightning_rules import Severity
from lightning_rules.preflight.model_seen import distinct_rows
from lightning_rules.preflight.symmetric_init import WeightSeen, judge

SOUND = WeightSeen("w", 64, 64, False, 64, False, True)
COPIES = WeightSeen("c", 64, 1, False, 1, False, True)
ZERO = WeightSeen("z", 64, 1, True, 64, False, True)  # the last layer of a branch: moves at once
WAITING = WeightSeen("a", 64, 1, True, 1, True, True)  # behind such a layer: moves at the second step


@pytest.mark.parametrize(
    ("weights", "aspect", "severity", "words"),
    [
        ([SOUND, SOUND], "symmetric-init", Severity.OK, "Units of all 2 weight matrices differ"),
        ([SOUND, ZERO, WAITING], "symmetric-init", Severity.OK, "Units of all 3 weight matrices differ"),
        ([COPIES, SOUND], "symmetric-init", Severity.ERROR, "The 64 units of `c` have 1 distinct rows"),
        ([replace(COPIES, gradient_zero=True), SOUND], "symmetric-init", Severity.ERROR, "copies of one another"),
        ([replace(COPIES, gradient_distinct=4)], "symmetric-init", Severity.ERROR, "4 of gradients"),  # an LSTM's gates
        ([WAITING, WAITING], "symmetric-init", Severity.ERROR, "only biases can move"),
        ([replace(SOUND, gradient_zero=True)] * 2, "flat-start", Severity.WARNING, "is exactly zero"),
    ],
)
def test_judgement(weights: list[WeightSeen], aspect: str, severity: Severity, words: str) -> None:
    (finding,) = judge([weights, weights])
    assert (finding.rule, finding.severity) == (aspect, severity)
    assert words in finding.message


def test_what_differs_on_one_rank_breaks_free() -> None:
    (finding,) = judge([[COPIES], [replace(COPIES, gradient_distinct=64)]])
    assert finding.severity is Severity.OK


def test_nothing_to_say() -> None:
    assert judge([[]]) == []
    assert judge([[replace(COPIES, gradient_finite=False)]]) == []


def test_distinct_rows() -> None:
    rows = torch.randn(64, 5)
    assert distinct_rows(rows) == 64
    assert distinct_rows(rows.view(64, 5, 1, 1)) == 64
    assert distinct_rows(rows[:1].expand(64, 5) * (1 + 1e-8)) == 1
    assert distinct_rows(torch.cat([rows[:3]] * 5)) == 3
    assert distinct_rows(torch.zeros(8, 3)) == 1
    assert distinct_rows(rows[:, :1] * 1e-30) == 64, "it is relative"
    assert distinct_rows(torch.tensor([[1.0, 2.0], [2.0, 1.0]])) == 2, "the order within a row counts"
