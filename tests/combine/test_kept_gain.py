"""The share of a teacher's gain that a student keeps, and the models that are asked about it."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from lightning_rules.combine.jury import Jury
from lightning_rules.combine.kept_gain import example_scores, kept_gain

pytestmark = pytest.mark.filterwarnings("ignore")


def judged(count: int, accuracy: float, seed: int) -> Tensor:
    return (torch.rand(count, generator=torch.Generator().manual_seed(seed)) < accuracy).double()


def test_half_of_a_large_gain() -> None:
    without, student, teacher = (judged(4000, share, seed) for seed, share in enumerate((0.5, 0.7, 0.9)))
    kept = kept_gain(without, student, teacher)
    assert kept.gain == pytest.approx(0.4, abs=0.03)
    assert kept.gain_low < kept.gain < kept.gain_high
    assert kept.low < 0.5 < kept.high
    assert kept.high - kept.low < 0.2
    assert kept_gain(without, teacher, teacher).share == 1.0
    assert kept_gain(without, without, teacher).share == 0.0
    assert kept == kept_gain(without, student, teacher), "the same examples give the same interval"


def test_intervals_hold_the_truth() -> None:
    held = 0
    for seed in range(40):
        without, student, teacher = (judged(300, share, 100 * seed + i) for i, share in enumerate((0.5, 0.7, 0.9)))
        kept = kept_gain(without, student, teacher)
        held += kept.low <= 0.5 <= kept.high
    assert held >= 34  # 95% of 40, and chance


def test_no_gain_is_told_by_its_interval() -> None:
    scores = judged(200, 0.8, 0)
    assert kept_gain(scores, judged(200, 0.8, 1), judged(200, 0.8, 2)).gain_low < 0
    assert kept_gain(scores, scores, scores).gain == 0


def test_scores_of_examples() -> None:
    values, targets = torch.tensor([[2.0, 0.0], [0.0, 1.0]]), torch.tensor([0, 0])
    scores = example_scores(values, targets, "multiclass")
    assert scores["accuracy"].tolist() == [1.0, 0.0]
    expected = values.log_softmax(1)[:, 0].double()
    torch.testing.assert_close(scores["likelihood"], expected, atol=1e-6, rtol=1e-6)
    labels = example_scores(values, torch.tensor([[1.0, 1.0], [0.0, 1.0]]), "multilabel")
    assert labels["accuracy"].tolist() == [0.5, 1.0]
    errors = example_scores(values, torch.zeros(2, 2), "regression")
    assert errors["squared error"].tolist() == [-2.0, -0.5]


def test_a_jury_answers_in_the_order_of_the_data(quiet: Any, classifier: Any) -> None:
    models = [classifier(5), classifier(7)]
    x, labels = torch.randn(23, 4), torch.arange(23) % 3
    labels[4] = -1  # unknown, and left out
    jury = Jury(models)
    quiet().test(jury, DataLoader(TensorDataset(x, labels), 5), verbose=False)
    kept = labels >= 0
    with torch.no_grad():
        torch.testing.assert_close(jury.values, torch.stack([model.eval()(x[kept]) for model in models]))
    assert torch.equal(jury.targets, labels[kept])


def test_models_of_different_questions(quiet: Any, classifier: Any) -> None:
    other = classifier(5)
    other.net[-1] = nn.Linear(5, 4)
    data = DataLoader(TensorDataset(torch.randn(6, 4), torch.arange(6) % 3), 6)
    with pytest.raises(ValueError, match=r"different questions \(multiclass \[3\], multiclass \[4\]\)"):
        quiet().test(Jury([classifier(5), other]), data, verbose=False)
