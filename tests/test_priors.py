"""The constant that priors.py names is the one where the real loss has its minimum."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from lightning_rules.losses import LossCall
from lightning_rules.priors import constant_output, per_example, tally
from lightning_rules.rule import NotApplicable

N, C = 400, 4


def call(function: Any, output: Tensor, target: Tensor, **arguments: Any) -> LossCall:
    defaults: dict[str, Any] = {"weight": None, "reduction": "mean"}
    if function in (F.cross_entropy, F.nll_loss):
        defaults["ignore_index"] = -100
    if function in (F.mse_loss, F.l1_loss, F.smooth_l1_loss, F.huber_loss):
        defaults.pop("weight")
    arguments = {**defaults, "input": output, "target": target, **arguments}
    return LossCall(function, arguments, output.sum(), {})


def best_constant(seen: LossCall, outputs: int) -> Tensor:
    """Minimise the mean of torch's own loss over all targets by gradient descent on a constant output."""
    constant = torch.zeros(outputs, dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.LBFGS([constant], lr=0.5, max_iter=500, tolerance_grad=1e-12, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        optimizer.zero_grad()
        shape = (1, outputs) if seen.output.dim() < 3 else (1, outputs, *(1,) * (seen.output.dim() - 2))
        output = constant.reshape(shape).expand(seen.output.shape)
        if seen.function is F.nll_loss:
            output = output.log_softmax(1)
        if seen.function is F.binary_cross_entropy:
            output = output.sigmoid()
        loss = seen.function(**{**seen.arguments, "input": output, "reduction": "mean"})
        loss.backward()
        return loss

    optimizer.step(closure)
    return constant.detach()


def labels() -> Tensor:
    return torch.multinomial(torch.tensor([0.6, 0.25, 0.1, 0.05]), N, replacement=True)


WEIGHT = torch.tensor([0.3, 1.0, 2.0, 5.0], dtype=torch.float64)
LOGITS = torch.zeros(N, C, dtype=torch.float64)


@pytest.mark.parametrize(
    "seen",
    [
        pytest.param(lambda: call(F.cross_entropy, LOGITS, labels()), id="plain"),
        pytest.param(lambda: call(F.cross_entropy, LOGITS, labels(), weight=WEIGHT), id="class-weights"),
        pytest.param(lambda: call(F.cross_entropy, LOGITS, labels(), label_smoothing=0.2), id="smoothing"),
        pytest.param(
            lambda: call(F.cross_entropy, LOGITS, labels(), weight=WEIGHT, label_smoothing=0.2, ignore_index=1),
            id="weights-smoothing-ignored",
        ),
        pytest.param(
            lambda: call(F.cross_entropy, LOGITS, torch.rand(N, C, dtype=torch.float64).softmax(1), weight=WEIGHT),
            id="soft-targets",
        ),
        pytest.param(
            lambda: call(F.cross_entropy, torch.zeros(N, C, 3, 2, dtype=torch.float64), torch.randint(C, (N, 3, 2))),
            id="segmentation",
        ),
        pytest.param(lambda: call(F.nll_loss, LOGITS, labels(), weight=WEIGHT), id="log-probabilities"),
    ],
)
def test_log_prior(seen: Any) -> None:
    torch.manual_seed(0)
    seen = seen()
    counted = tally(seen, seen.target, C, "a test")
    best = best_constant(seen, C).log_softmax(0)
    seen_at_all = counted.sums > 0  # for a class never seen the loss has no finite minimum
    np.testing.assert_allclose(counted.constant[seen_at_all], best[seen_at_all], atol=0.01)
    assert np.exp(counted.constant).sum() == pytest.approx(1.0)


@pytest.mark.parametrize("positive_weight", [None, torch.tensor([1.0, 3.0, 0.2], dtype=torch.float64)])
@pytest.mark.parametrize("function", [F.binary_cross_entropy_with_logits, F.binary_cross_entropy])
def test_logits_of_base_rates(function: Any, positive_weight: Tensor | None) -> None:
    torch.manual_seed(0)
    target = (torch.rand(N, 3) < torch.tensor([0.1, 0.5, 0.8])).double()
    if function is F.binary_cross_entropy:
        seen = call(function, torch.full((N, 3), 0.5, dtype=torch.float64), target)
    else:
        seen = call(function, torch.zeros(N, 3, dtype=torch.float64), target, pos_weight=positive_weight)
    counted = tally(seen, target, 3, "a test")
    np.testing.assert_allclose(counted.constant, best_constant(seen, 3), atol=1e-3)


@pytest.mark.parametrize("function", [F.mse_loss, F.l1_loss, F.smooth_l1_loss, F.huber_loss])
def test_mean_and_median(function: Any) -> None:
    torch.manual_seed(0)
    target = torch.randn(N, 2, dtype=torch.float64).exp() * torch.tensor([1.0, 9.0])
    seen = call(function, torch.zeros_like(target), target)
    counted = tally(seen, target, 2, "a test")
    reached = per_example(seen, constant_output(seen, counted.constant)).mean()
    best = per_example(seen, constant_output(seen, best_constant(seen, 2).numpy())).mean()
    # the median is what absolute loss wants exactly; Huber's losses are within a few percent of it
    assert reached <= best * (1.001 if function in (F.mse_loss, F.l1_loss) else 1.06)


def test_class_weights_make_the_plain_prior_worse_than_none() -> None:
    """With class-weighted cross-entropy the logarithm of the plain frequencies starts at a higher loss than zeros."""
    torch.manual_seed(0)
    target = labels()
    balanced = 1 / torch.bincount(target).double()
    seen = call(F.cross_entropy, LOGITS, target, weight=balanced)

    def loss(constant: np.ndarray[Any, Any]) -> float:
        return float(F.cross_entropy(constant_output(seen, constant), target, weight=balanced))

    plain = np.log(np.bincount(target) / N)
    effective = tally(seen, target, C, "a test").constant
    assert loss(plain) > 1.2 * loss(np.zeros(C))
    assert loss(effective) == pytest.approx(loss(np.zeros(C)), abs=0.01)


def test_a_class_never_seen_is_rare_and_not_impossible() -> None:
    seen = call(F.cross_entropy, LOGITS, torch.zeros(N, dtype=torch.long))
    constant = tally(seen, seen.target, C, "a test").constant
    assert np.isfinite(constant).all()
    assert constant[0] == pytest.approx(0.0, abs=0.01)
    assert constant[3] == pytest.approx(np.log(0.25 / (N + 1)), abs=0.01)


def test_how_often_examples_are_drawn_counts() -> None:
    target = torch.tensor([0, 0, 0, 1])
    seen = call(F.cross_entropy, torch.zeros(4, 2), target)
    constant = tally(seen, target, 2, "a test", times=torch.tensor([1.0, 1.0, 1.0, 3.0])).constant
    np.testing.assert_allclose(constant, np.log([0.5, 0.5]))


def test_missing_targets_are_left_out() -> None:
    target = torch.tensor([[1.0], [float("nan")], [3.0]])
    seen = call(F.mse_loss, torch.zeros(3, 1), target)
    assert tally(seen, target, 1, "a test").constant == pytest.approx([2.0])


def test_tallies_of_ranks_add_up() -> None:
    target = labels()
    seen = call(F.cross_entropy, LOGITS, target)
    whole = tally(seen, target, C, "a test")
    parts = tally(seen, target[:100], C, "a test") + tally(seen, target[100:], C, "a test")
    np.testing.assert_allclose(parts.constant, whole.constant)
    assert parts.examples == whole.examples == N


def test_targets_without_the_outputs_dimension_do_not_fit() -> None:
    seen = call(F.mse_loss, torch.zeros(5, 3), torch.zeros(5, 3))
    with pytest.raises(NotApplicable, match=r"shape \[5, 3\] have no dimension of 7 outputs"):
        tally(seen, seen.target, 7, "a test")


def test_weights_that_differ_from_example_to_example_do_not_fit() -> None:
    seen = call(F.binary_cross_entropy_with_logits, torch.zeros(5, 1), torch.zeros(5, 1), weight=torch.rand(5, 1))
    with pytest.raises(NotApplicable, match="differs from example to example"):
        tally(seen, seen.target, 1, "a test")
