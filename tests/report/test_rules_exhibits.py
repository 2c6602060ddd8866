"""What rules show of their numbers: the right numbers under the right names."""

from __future__ import annotations

import pytest
import torch

from lightning_rules import LossAtInit
from lightning_rules.data import class_counts, duplicates
from lightning_rules.data.class_counts import Counts
from lightning_rules.data.duplicates import Twins
from lightning_rules.exhibit import Bars, Curves, Listing
from lightning_rules.finding import Finding, Severity
from lightning_rules.selective import risk_coverage
from lightning_rules.watch.confidence_figures import calibration_of, exhibit_of_calibration, exhibit_of_risk


def test_groups_of_confidences_are_as_often_right_as_they_are() -> None:
    confidence = torch.cat([torch.full((50,), 0.9), torch.full((50,), 0.6)])
    right = torch.cat([torch.arange(50) < 45, torch.arange(50) < 20])
    seen = calibration_of(confidence, right)
    assert seen.examples == 100
    assert seen.confidence == pytest.approx([0.6] * 5 + [0.9] * 5)
    assert sum(seen.right[:5]) / 5 == pytest.approx(0.4)
    assert sum(seen.right[5:]) / 5 == pytest.approx(0.9)
    assert seen.error == pytest.approx(0.5 * 0.2, rel=1e-4), "half of the answers are surer by 0.2 than they are right"
    assert "error 0.100 over 100" in exhibit_of_calibration(seen).caption


def test_a_few_answers_are_one_group() -> None:
    assert len(calibration_of(torch.tensor([0.7, 0.8]), torch.tensor([True, False])).right) == 1


def test_a_long_curve_of_risk_keeps_its_ends() -> None:
    draw = torch.Generator().manual_seed(0)
    curve = risk_coverage(torch.rand(4096, generator=draw), torch.rand(4096, generator=draw) > 0.2)
    content = exhibit_of_risk(curve, (0.5, 0.1)).content
    assert isinstance(content, Curves)
    (line,) = content.curves
    assert len(line.x) <= 201
    assert (line.x[-1], line.y[-1]) == (1.0, pytest.approx(float(curve.risk[-1])))
    assert content.marks == [(0.5, "answers 50%, 10.0% of them wrong")]


def test_shares_of_classes_in_both_splits() -> None:
    (shown,) = class_counts.show([Counts({0: 30, 1: 10}, {0: 5, 1: 5}, 40, 10, True, names=["cat", "dog"])])
    assert isinstance(shown.content, Bars)
    assert list(shown.content.labels) == ["cat", "", "dog", ""]
    assert list(shown.content.values) == pytest.approx([75, 50, 25, 50])
    assert list(shown.content.roles) == ["train", "validation"] * 2
    assert shown.caption.startswith("Of 40 train and 10 validation labels.")


def test_of_many_classes_the_commonest_and_the_rarest_are_shown() -> None:
    (shown,) = class_counts.show([Counts({label: 100 - label for label in range(50)}, None, 3775, None, True)])
    assert isinstance(shown.content, Bars)
    assert list(shown.content.labels) == [f"class {label}" for label in (*range(7), *range(43, 50))]
    assert "of 50 classes" in shown.caption


def test_labels_that_no_loss_is_given_are_not_shown() -> None:
    assert list(class_counts.show([Counts({0: 3, 1: 3}, None, 6, None, True, used=False)])) == []


def test_copies_in_both_splits() -> None:
    (shown,) = duplicates.show([Twins("all examples", 200, 50, doubled=0.05, leaked=0.1, close=0.01, queried=0)])
    assert isinstance(shown.content, Listing)
    assert shown.content.rows == [
        ["training", "200", "10 (5.0%)", "1.0%"],
        ["validation", "50", "5 (10.0%)", "not measured"],
    ]


def test_the_loss_at_the_start_beside_what_it_should_be() -> None:
    rule = LossAtInit()
    assert rule.exhibits() == []
    evidence = {"loss": 2.4, "prior_loss": 2.2, "zero_output_loss": 2.3, "examples": 128.0}
    rule.findings = [Finding("loss-at-init", Severity.OK, "Fine.", "", evidence)]
    (shown,) = rule.exhibits()
    assert isinstance(shown.content, Bars)
    assert list(shown.content.values) == [2.4, 2.2, 2.3]
    assert shown.caption.startswith("Of 128 examples.")
