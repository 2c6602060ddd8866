"""Averages of answers, and weights that are fitted or greedily chosen."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from lightning_rules.combine.averaging import averaged, fitted_weights, greedy_weights, mean_loss

GENERATOR = torch.Generator().manual_seed(0)
VALUES = torch.randn(3, 40, 5, generator=GENERATOR)
CLASSES = torch.randint(5, (40,), generator=GENERATOR)


def test_probabilities_are_averaged() -> None:
    answer = averaged(VALUES, "multiclass").values
    torch.testing.assert_close(answer.exp(), VALUES.softmax(2).mean(0))


def test_weights_count() -> None:
    weights = torch.tensor([0.7, 0.3, 0.0])
    torch.testing.assert_close(
        averaged(VALUES, "multiclass", weights=weights).values.exp(),
        0.7 * VALUES[0].softmax(1) + 0.3 * VALUES[1].softmax(1),
    )


def test_logits_are_averaged() -> None:
    answer = averaged(VALUES, "multiclass", "logits").values
    torch.testing.assert_close(answer.exp(), VALUES.mean(0).softmax(1))


def test_rates_are_averaged_without_overflow() -> None:
    values = torch.tensor([[[200.0, -3.0]], [[200.0, 1.0]]])
    answer = averaged(values, "multilabel").values
    assert answer[0, 0] == pytest.approx(200, rel=1e-4)
    assert answer[0, 1].sigmoid() == pytest.approx(float(values[:, 0, 1].sigmoid().mean()))


def test_pictures_of_classes() -> None:
    values = torch.randn(2, 3, 4, 5, 6)
    torch.testing.assert_close(averaged(values, "multiclass").values.exp(), values.softmax(2).mean(0))


def test_the_spread_of_means_is_part_of_the_variance() -> None:
    means, variances = torch.tensor([[[1.0]], [[3.0]]]), torch.tensor([[[0.5]], [[1.5]]])
    answer = averaged(means, "regression", variances=variances)
    assert (answer.values.item(), answer.variances.item()) == (2.0, 2.0)  # mean of 0.5 and 1.5, and 1 of spread
    assert averaged(means, "regression").variances.item() == 1.0


@pytest.mark.parametrize("average", ["probabilities", "logits"])
def test_fitted_weights_have_the_least_loss(average: str) -> None:
    values = VALUES.clone()
    values[1, torch.arange(40), CLASSES] += 2.0  # knows much
    weights = fitted_weights(values, CLASSES, "multiclass", average)
    assert weights.sum() == pytest.approx(1)

    def loss(shares: Tensor) -> float:
        return float(mean_loss(averaged(values, "multiclass", average, shares), CLASSES, "multiclass"))

    grid = [torch.tensor([a, b, 20 - a - b]) / 20 for a in range(21) for b in range(21 - a)]
    assert loss(weights) <= min(map(loss, grid)) + 1e-3


def test_greedy_selection_leaves_out_what_hurts_and_takes_the_good_twice() -> None:
    values = torch.stack([VALUES[0], VALUES[1], -VALUES[0]])
    values[0, torch.arange(40), CLASSES] += 1.0
    values[1, torch.arange(40), CLASSES] += 0.9
    weights = greedy_weights(values, CLASSES, "multiclass")
    assert weights[2] == 0
    assert weights[0] > weights[1] > 0
    assert weights.sum() == pytest.approx(1)


def test_greedy_selection_may_keep_one() -> None:
    targets = torch.randn(30, 1)
    values = torch.stack([targets, targets + 1, targets + 2])
    assert greedy_weights(values, targets, "regression").tolist() == [1, 0, 0]


def test_the_best_of_all_rounds_counts() -> None:
    targets = torch.randn(30, 1)
    values = torch.stack([targets - 1, targets + 1])
    assert greedy_weights(values, targets, "regression", rounds=3).tolist() == [0.5, 0.5]  # and not 2 to 1


def test_a_network_that_adds_nothing_does_not_run() -> None:
    targets = torch.randn(30, 1)
    values = torch.stack([targets, targets + 5])
    assert fitted_weights(values, targets, "regression").tolist() == [1, 0]
