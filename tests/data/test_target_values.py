"""target-type and target-scale: the judgement on what a loss was called with."""

from __future__ import annotations

from typing import Any

import pytest

from lightning_rules import Severity
from lightning_rules.data.network_seen import LossFacts
from lightning_rules.data.target_values import TargetsSeen, judge


def call(function: str, kind: str, lowest: float, highest: float, **more: Any) -> LossFacts:
    known: dict[str, Any] = {"classes": 1, "floating": True, "target_rms": 1.0, "target_std": 1.0, "output_std": 0.3}
    known |= {"error_rms": 1.0, "uneven_rows": 0.0, "weighted": False, "ignored": -100, "own": True}
    return LossFacts(function, kind, lowest=lowest, highest=highest, **{**known, **more})


def classes(lowest: float, highest: float, **more: Any) -> LossFacts:
    return call("cross_entropy", "softmax", lowest, highest, **{"classes": 10, "floating": False, **more})


def squared(**more: Any) -> LossFacts:
    return call("mse_loss", "mean", -1.0, 1.0, **more)


BCE = "binary_cross_entropy_with_logits"
UNSCALED = {"target_rms": 170.0, "target_std": 77.0, "error_rms": 170.0}


@pytest.mark.parametrize(
    ("seen", "alarm"),
    [
        (call(BCE, "sigmoid", -1, 1), ("target-type", Severity.ERROR, "Map -1 to 0")),
        (call(BCE, "sigmoid", 0, 255), ("target-type", Severity.ERROR, "Scale the targets")),
        (call(BCE, "sigmoid", 0, 1), None),
        (call(BCE, "sigmoid", 0.05, 0.95), None),  # smoothed
        (classes(0, 9), None),
        (classes(1, 10), ("target-type", Severity.ERROR, "labels go from 1 to 10")),
        (classes(-1, 9), ("target-type", Severity.ERROR, "labels go from -1")),
        (classes(-100, 9), None),
        (classes(-1, 9, ignored=-1), None),
        (classes(0, 255, ignored=255), None),
        (classes(0, 1, floating=True), None),
        (classes(0, 1, floating=True, uneven_rows=0.4), ("target-type", Severity.WARNING, "add up to 1 for 40%")),
        (classes(-0.1, 1, floating=True), ("target-type", Severity.ERROR, "probabilities down to -0.1")),
        (squared(), None),
        (squared(**UNSCALED), ("target-scale", Severity.WARNING, "standard deviation 77")),
        (squared(**UNSCALED, own=False), None),
        (squared(**{**UNSCALED, "output_std": 60.0}), None),  # something scales the output
        (squared(**{**UNSCALED, "target_std": 0.0}), None),
        (squared(target_rms=12.0, target_std=0.4, error_rms=12.0), None),  # logarithms of prices
        (
            squared(target_rms=1998.0, target_std=9.0, error_rms=1998.0),
            ("target-scale", Severity.WARNING, "not scaled"),
        ),
        (squared(target_rms=0.001, target_std=0.001, error_rms=0.3), ("target-scale", Severity.WARNING, "so small")),
        (squared(target_rms=0.012, target_std=0.012, error_rms=0.3), None),  # daily returns
    ],
)
def test_judgement(seen: LossFacts, alarm: tuple[str, Severity, str] | None) -> None:
    found = [finding for finding in judge([TargetsSeen((seen,), "", None, None)]) if finding.severity > Severity.INFO]
    assert [(finding.rule, finding.severity) for finding in found] == ([] if alarm is None else [alarm[:2]])
    assert all(alarm and alarm[2] in f"{finding.message} {finding.advice}" for finding in found)


def test_labels_of_the_whole_set_count() -> None:
    """A label beyond the classes that the batch of the probe did not hold."""
    (finding,) = judge([TargetsSeen((classes(0, 9),), "", 0, 10)])
    assert finding.severity is Severity.ERROR


def test_a_step_that_fails() -> None:
    (finding,) = judge([TargetsSeen((), "IndexError: Target 10 is out of bounds.", 1, 10)])
    assert (finding.rule, finding.severity) == ("target-type", Severity.ERROR)
    assert "training labels are 1 to 10" in finding.message
    (finding,) = judge([TargetsSeen((), "AttributeError: no attribute 'margin'", 0, 9)])
    assert finding.severity is Severity.INFO
