"""dropout and stochastic-evaluation: the judgement on numbers."""

from __future__ import annotations

import pytest

from lightning_rules import Severity
from lightning_rules.preflight.dropout import DropoutSeen, judge

DROPPED = (("net.2", 0.3),)


@pytest.mark.parametrize(
    ("seen", "aspect", "severity", "words"),
    [
        (DropoutSeen(DROPPED, examples=60_000), "dropout", Severity.OK, "at most 30%"),
        (DropoutSeen(DROPPED), "dropout", Severity.OK, "at most 30%"),
        (DropoutSeen((*DROPPED, ("net.5", 0.9))), "dropout", Severity.WARNING, "`net.5` drops 90%"),
        (DropoutSeen((("net.2", 0.6),)), "dropout", Severity.INFO, "`net.2` drops 60%"),
        (DropoutSeen(DROPPED, examples=1797), "dropout", Severity.INFO, "30% on 1,797 examples"),
        (DropoutSeen(DROPPED, ("bn",)), "dropout", Severity.INFO, "right before `bn`"),
        (
            DropoutSeen(always_on=(("net", "dropout", 0.3),)),
            *("stochastic-evaluation", Severity.WARNING, "`net` calls dropout (30%)"),
        ),
        (
            DropoutSeen(draws=(("vae", "randn_like"),)),
            "stochastic-evaluation",
            Severity.INFO,
            "`vae` draws random numbers",
        ),
    ],
)
def test_judgement(seen: DropoutSeen, aspect: str, severity: Severity, words: str) -> None:
    (finding,) = judge([seen, seen])
    assert (finding.rule, finding.severity) == (aspect, severity)
    assert words in finding.message


def test_nothing_is_dropped() -> None:
    assert judge([DropoutSeen(examples=100)]) == []
