"""summed-loss: the judgement on numbers."""

from __future__ import annotations

import pytest

from lightning_rules import Severity
from lightning_rules.preflight.summed_loss import SummedSeen, judge


@pytest.mark.parametrize(
    ("rate", "momentum", "clipped", "severity", "words"),
    [
        (0.1, 0.9, False, Severity.WARNING, "steps as at 3.2 with a mean."),
        (0.1, 0.0, False, Severity.WARNING, "steps as at 3.2 with a mean."),
        (0.1, 0.9, True, Severity.INFO, "within bounds"),
        (1e-3, 0.9, False, Severity.INFO, "steps as at 0.032 with a mean, within bounds."),
        (None, 0.0, False, Severity.INFO, "the optimiser normalises it away"),
    ],
)
def test_judgement(rate: float | None, momentum: float, clipped: bool, severity: Severity, words: str) -> None:
    (finding,) = judge([SummedSeen((("cross_entropy", 32, 32.0),), rate, momentum, clipped)] * 2)
    assert finding.severity is severity
    assert words in finding.message


def test_means_are_no_matter() -> None:
    assert judge([SummedSeen((), 10.0, 0.9, False)]) == []
