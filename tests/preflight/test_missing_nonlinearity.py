"""missing-nonlinearity and depth: the judgement on numbers."""

from __future__ import annotations

import pytest

from lightning_rules import Severity
from lightning_rules.preflight.missing_nonlinearity import StackSeen, judge, through_depth

PAIR = ("a", "b", 64, 64, 10)


@pytest.mark.parametrize(
    ("seen", "aspect", "severity", "words"),
    [
        (
            StackSeen((PAIR,), (), 0, 1.0),
            "missing-nonlinearity",
            Severity.WARNING,
            "between `a` (64 to 64) and `b` (64 to 10).",
        ),
        (StackSeen((PAIR, PAIR), (), 0, 1.0), "missing-nonlinearity", Severity.WARNING, "(1 more such pairs)."),
        (StackSeen((), (PAIR,), 0, 1.0), "missing-nonlinearity", Severity.INFO, "Only a batch norm stands between"),
        (StackSeen((), (), 4, 1e-12), "depth", Severity.WARNING, "vanishes with depth: the first layer's is 1.0e-12"),
        (StackSeen((), (), 4, 1e12), "depth", Severity.WARNING, "explodes with depth"),
        (StackSeen((), (), 25, 0.1), "depth", Severity.INFO, "25 weighted layers stand in a row"),
    ],
)
def test_judgement(seen: StackSeen, aspect: str, severity: Severity, words: str) -> None:
    (finding,) = judge([seen, seen])
    assert (finding.rule, finding.severity) == (aspect, severity)
    assert words in finding.message


@pytest.mark.parametrize(
    "seen",
    [
        StackSeen((), (), 5, 1e-6),
        StackSeen((), (), 0, 0.0),  # a branch or a head that is closed at the start
        StackSeen((), (), 0, None),
        StackSeen((), (), 20, 3.0),
    ],
)
def test_healthy(seen: StackSeen) -> None:
    assert judge([seen]) == []


def test_one_step_is_not_depth() -> None:
    assert through_depth([1e-12, 1e-9, 1e-6, 1e-3, 1.0]) == pytest.approx(1e-9)
    assert through_depth([1e-10, 2e-10, 1e-10, 1.0]) == pytest.approx(1.0), "a head that is nearly closed"
    assert through_depth([1.0, 1e-6, 2e-6, 1.0, 1e-6, 1.0]) == pytest.approx(1.0), "branches that are nearly closed"
    assert through_depth([1.0, 2.0]) is None
