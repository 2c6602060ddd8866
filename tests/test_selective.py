"""The reject option, against definitions written out and simulation."""

from __future__ import annotations

import re

import pytest
import torch
from scipy.stats import beta
from torch import Tensor

from lightning_rules.selective import (
    risk_bound,
    risk_coverage,
    threshold_for_coverage,
    threshold_for_risk,
)


def answers(count: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Confidences, and answers that are right as often as the confidence says."""
    generator = torch.Generator().manual_seed(seed)
    confidence = torch.rand(count, generator=generator)
    return confidence, torch.rand(count, generator=generator) < confidence


def test_the_curve_is_its_definition() -> None:
    confidence, right = answers(60)
    confidence = (confidence * 20).round() / 20  # ties
    curve = risk_coverage(confidence, right)
    assert len(curve.thresholds) == len(confidence.unique())
    for threshold, coverage, risk in zip(curve.thresholds, curve.coverage, curve.risk, strict=True):
        given = confidence >= threshold.float()
        assert float(coverage) == pytest.approx(float(given.double().mean()))
        assert float(risk) == pytest.approx(float((~right[given]).double().mean()))


def test_the_area_is_the_mean_over_random_ties() -> None:
    confidence, right = answers(40)
    confidence = (confidence * 4).round() / 4
    generator = torch.Generator().manual_seed(1)
    areas = []
    for _ in range(3000):
        order = torch.randperm(40, generator=generator)
        ranked = right[order][confidence[order].sort(descending=True, stable=True).indices]
        areas.append(((~ranked).double().cumsum(0) / torch.arange(1, 41)).mean())
    assert risk_coverage(confidence, right).area == pytest.approx(float(torch.stack(areas).mean()), abs=2e-3)


def test_perfect_and_blind_confidence() -> None:
    right = torch.tensor([True] * 9 + [False])
    assert risk_coverage(right.float(), right).area == pytest.approx(0.1 / 10)
    assert risk_coverage(torch.ones(10), right).area == pytest.approx(0.1)


@pytest.mark.parametrize(("wrong", "answered"), [(0, 30), (1, 30), (29, 30), (40, 1000), (2500, 5000)])
@pytest.mark.parametrize("sure", [0.9, 0.999])
def test_the_bound_is_clopper_and_pearsons(wrong: int, answered: int, sure: float) -> None:
    assert risk_bound(wrong, answered, sure) == pytest.approx(beta.ppf(sure, wrong + 1, answered - wrong), rel=1e-6)


def test_nothing_answered_bounds_nothing() -> None:
    assert risk_bound(0, 0) == risk_bound(5, 5) == 1.0


def test_the_wanted_risk_is_kept_on_new_examples() -> None:
    """Of 50 choices, at most the promised share (10%, and chance) breaks the promise; and coverage is had for it."""
    broken, coverages = 0, []
    for seed in range(50):
        selection = threshold_for_risk(*answers(1000, seed), risk=0.2, sure=0.9)
        assert selection is not None
        assert selection.risk <= selection.bound <= 0.2
        coverages.append(selection.coverage)
        broken += (1 - selection.threshold) / 2 > 0.2  # the risk above a threshold, by how `answers` draws
    assert broken <= 9
    assert 0.2 < sum(coverages) / len(coverages) < 0.4  # 0.4 is the most that any threshold can have


def test_no_threshold_is_strict_enough() -> None:
    assert threshold_for_risk(torch.rand(50), torch.rand(50) < 0.5, risk=0.001) is None


def test_the_wanted_coverage_is_reached_and_not_more() -> None:
    confidence, right = answers(200)
    selection = threshold_for_coverage(confidence, right, 0.3)
    assert selection.coverage == 0.3
    assert int((confidence >= selection.threshold).sum()) == 60
    assert threshold_for_coverage(torch.ones(5), torch.ones(5).bool(), 0.1).coverage == 1.0


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda: threshold_for_risk(*answers(9), risk=1.0), "Expected `risk` to be above 0 and below 1, but got 1.0."),
        (lambda: threshold_for_coverage(*answers(9), coverage=0.0), "Expected `coverage` to be above 0 and at most 1"),
        (lambda: risk_coverage(torch.ones(3), torch.ones(2)), "but got shapes (3,) and (2,)."),
        (lambda: risk_coverage(torch.ones(0), torch.ones(0)), "at least one example"),
    ],
)
def test_wrong_arguments(call: object, said: str) -> None:
    with pytest.raises(ValueError, match=re.escape(said)):
        call()  # type: ignore[operator]
