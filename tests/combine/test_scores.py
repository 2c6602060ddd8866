"""Scores, against other libraries and by hand."""

from __future__ import annotations

import pytest
import torch
from scipy.stats import binomtest
from sklearn.metrics import accuracy_score, log_loss

from lightning_rules.combine.reading import Answer
from lightning_rules.combine.scores import comparable_targets, disagreement, known, paired_gain, scores, wilson

GENERATOR = torch.Generator().manual_seed(1)
LOGITS = torch.randn(60, 4, generator=GENERATOR)
CLASSES = torch.randint(4, (60,), generator=GENERATOR)


def test_classes_as_scikit_learn_has_it() -> None:
    found = scores(Answer(LOGITS), CLASSES, "multiclass")
    assert found.accuracy == pytest.approx(accuracy_score(CLASSES, LOGITS.argmax(1)))
    assert found.nll == pytest.approx(log_loss(CLASSES, LOGITS.softmax(1).double().numpy(), labels=range(4)), rel=1e-5)
    assert found.examples == 60


@pytest.mark.parametrize(("right", "total"), [(0, 5), (3, 7), (179, 179), (50, 1000)])
def test_wilson_as_scipy_has_it(right: int, total: int) -> None:
    expected = binomtest(right, total).proportion_ci(method="wilson")
    assert wilson(right, total) == pytest.approx((expected.low, expected.high), abs=1e-9)


def test_calibration_of_one_who_is_always_sure() -> None:
    answer = Answer(torch.tensor([[50.0, 0.0]] * 10))
    assert scores(answer, torch.tensor([0] * 6 + [1] * 4), "multiclass").ece == pytest.approx(0.4)
    yes = Answer(torch.full((10, 1), 50.0))
    assert scores(yes, torch.tensor([1.0] * 6 + [0.0] * 4)[:, None], "multilabel").ece == pytest.approx(0.4)
    no = Answer(torch.full((10, 1), -50.0))
    assert scores(no, torch.tensor([0.0] * 6 + [1.0] * 4)[:, None], "multilabel").ece == pytest.approx(0.4)


def test_regression_with_right_and_wrong_variances() -> None:
    targets = torch.randn(4000, 1, generator=GENERATOR)
    right = scores(Answer(torch.zeros(4000, 1), torch.ones(4000, 1)), targets, "regression")
    wrong = scores(Answer(torch.zeros(4000, 1), torch.full((4000, 1), 0.01)), targets, "regression")
    assert right.error == pytest.approx(1, abs=0.03)
    assert right.low < right.error < right.high
    assert right.nll == pytest.approx(0.5 * (1 + torch.log(torch.tensor(2 * torch.pi)).item()), abs=0.03)
    assert right.ece < 0.02 < 0.4 < wrong.ece
    assert scores(Answer(targets), targets, "regression").nll is None


def test_gains_are_paired() -> None:
    targets = torch.zeros(100, dtype=torch.long)
    first, second = torch.zeros(100, 2), torch.zeros(100, 2)
    first[:, 0], second[:, 0] = 1, 1
    first[:10, 1] = 2  # wrong on ten
    gain, half = paired_gain(first, second, targets, "multiclass")
    assert gain == pytest.approx(0.1)
    assert half == pytest.approx(1.96 * (0.09 * 100 / 99) ** 0.5 / 10, rel=1e-3)
    gain, _ = paired_gain(torch.ones(5, 1), torch.zeros(5, 1), torch.zeros(5, 1), "regression")
    assert gain == 1


def test_disagreement() -> None:
    same = torch.zeros(2, 10, 3)
    assert disagreement(same, "multiclass") == 0
    other = same.clone()
    other[1, :3, 2] = 1
    assert disagreement(other, "multiclass") == pytest.approx(0.3)
    assert disagreement(torch.tensor([[[1.0]], [[3.0]]]), "regression") == pytest.approx(2**0.5)


def test_targets_are_brought_into_form() -> None:
    soft = torch.eye(4)[CLASSES] * 0.9 + 0.025
    assert torch.equal(comparable_targets(soft, LOGITS, "multiclass"), CLASSES)
    assert torch.equal(comparable_targets(CLASSES[:, None].int(), LOGITS, "multiclass"), CLASSES)
    assert comparable_targets(torch.ones(60), torch.ones(60, 1), "multilabel").shape == (60, 1)
    with pytest.raises(ValueError, match=r"Targets of shape \(60, 2\) .* do not fit"):
        comparable_targets(torch.ones(60, 2), LOGITS, "multiclass")


def test_examples_without_a_target_are_known() -> None:
    assert known(torch.tensor([0, -1, 4, 3]), torch.zeros(4, 4), "multiclass").tolist() == [True, False, False, True]
    assert known(torch.tensor([[0.0], [float("nan")]]), torch.zeros(2, 1), "regression").tolist() == [True, False]
