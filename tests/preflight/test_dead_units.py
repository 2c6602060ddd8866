"""dead-units and non-finite-start: the judgement on numbers."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from lightning_rules import Severity
from lightning_rules.preflight.dead_units import StartSeen, judge
from lightning_rules.preflight.function_calls import ActivationCall, WatchFunctions

FINE = StartSeen((), 2.3, True, "", (), 4)


def relu(stuck: float, kind: str = "ReLU") -> StartSeen:
    return replace(FINE, activations=(ActivationCall("net.1", kind, 64, stuck, (32, 64)),))


@pytest.mark.parametrize(
    ("seen", "aspect", "severity", "words"),
    [
        (relu(1.0), "dead-units", Severity.ERROR, "100% of the 64 units of the ReLU in `net.1` are zero"),
        (relu(0.97), "dead-units", Severity.WARNING, "97% of the 64 units"),
        (relu(1.0, "sigmoid"), "dead-units", Severity.WARNING, "at the end of the sigmoid's range"),
        (relu(0.6), "dead-units", Severity.INFO, "60% of the 64 units"),
        (relu(0.1), "dead-units", Severity.OK, "At most 10%"),
        (
            replace(FINE, value=float("nan")),
            "non-finite-start",
            Severity.ERROR,
            "The loss of the first step is not finite.",
        ),
        (
            replace(FINE, value=float("inf"), first_layer="net.3"),
            *("non-finite-start", Severity.ERROR, "`net.3` is the first layer whose output is not finite"),
        ),
        (
            replace(FINE, gradients=("a", "b"), first_layer=""),
            *("non-finite-start", Severity.ERROR, "not the gradients of 2 of 4 parameters (`b` last)"),
        ),
        (
            replace(FINE, value=float("nan"), inputs_finite=False),
            *("non-finite-start", Severity.ERROR, "its inputs hold NaN or infinity"),
        ),
    ],
)
def test_judgement(seen: StartSeen, aspect: str, severity: Severity, words: str) -> None:
    (finding,) = judge([seen, seen])
    assert (finding.rule, finding.severity) == (aspect, severity)
    assert words in finding.message


def test_ranks() -> None:
    (finding,) = judge([relu(1.0), relu(0.1)])
    assert finding.severity is Severity.OK, "units that live on one rank get a gradient"
    (finding,) = judge([FINE, replace(FINE, value=float("nan"))])
    assert finding.severity is Severity.ERROR, "one rank's NaN reaches all"
    assert judge([replace(FINE, first_layer="mask")]) == [], "infinity in a mask does no harm while the loss is finite"


@pytest.mark.parametrize(
    ("values", "stuck"),
    [
        (torch.full((32, 16), -1.0), 1.0),
        (torch.zeros(32, 16), 0.0),  # a closed branch waits
        (torch.tensor([[-1.0, 1.0]] * 32), 0.5),
        (torch.stack([-torch.ones(32, 8), torch.ones(32, 8)], 1), 0.0),  # 3-D: what is more alive counts
        (torch.cat([-torch.ones(32, 3, 4, 4), torch.ones(32, 1, 4, 4)], 1), 0.75),
    ],
)
def test_share_of_units_that_are_off(values: torch.Tensor, stuck: float) -> None:
    with WatchFunctions(keep_all=True) as watch:
        torch.relu_(values)
    (activation,) = watch.seen.activations
    assert activation().stuck == stuck
