"""What outputs mean is told from the loss, or from outputs and targets."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import lightning.pytorch as L
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lightning_rules.combine.reading import Reading, arguments_of, call, probabilities, read, reading_of, targets_of


class Module(L.LightningModule):
    def __init__(self, outputs: int, loss: Any, last: Any = None) -> None:
        super().__init__()
        self.net, self.loss, self.last = nn.Linear(4, outputs), loss, last or nn.Identity()
        self.steps = 0

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.net(x))

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self.steps += 1
        self.log("val/loss", self.loss(self(batch[0]), batch[1]))


X, CLASSES, YES, VALUES = torch.randn(6, 4), torch.arange(6) % 3, (torch.arange(6) % 2).float(), torch.randn(6)


@pytest.mark.parametrize(
    ("module", "targets", "task", "scale"),
    [
        (Module(3, F.cross_entropy), CLASSES, "multiclass", "logits"),
        (Module(3, lambda p, y: F.nll_loss(p.log(), y), nn.Softmax(1)), CLASSES, "multiclass", "probabilities"),
        (Module(3, F.nll_loss, nn.LogSoftmax(1)), CLASSES, "multiclass", "logits"),
        (Module(1, lambda z, y: F.binary_cross_entropy_with_logits(z[:, 0], y)), YES, "multilabel", "logits"),
        (Module(1, lambda p, y: F.binary_cross_entropy(p[:, 0], y), nn.Sigmoid()), YES, "multilabel", "probabilities"),
        (Module(1, lambda z, y: F.mse_loss(z[:, 0], y)), VALUES, "regression", "logits"),
        (Module(3, lambda z, y: (z.log_softmax(1)[range(6), y]).mean()), CLASSES, "multiclass", "logits"),
        (Module(1, lambda z, y: (z[:, 0] - y).abs().mean()), VALUES, "regression", "logits"),
    ],
)  # fmt: skip
def test_is_told_from_the_loss(module: Module, targets: Tensor, task: str, scale: str) -> None:
    assert reading_of(module, (X, targets)) == Reading(task, scale)  # type: ignore[arg-type]
    assert module.steps == 0  # put back
    assert module.training
    assert "log" not in vars(module)


def test_yes_and_no_within_0_and_1_are_logits_where_the_loss_says_so() -> None:
    module = Module(1, lambda z, y: F.binary_cross_entropy_with_logits(z[:, 0], y))
    torch.nn.init.zeros_(module.net.weight)
    torch.nn.init.constant_(module.net.bias, 0.5)
    assert reading_of(module, (X, YES)).scale == "logits"


def test_what_nobody_can_tell_is_asked_for() -> None:
    module = Module(2, lambda z, y: z.sum())
    with pytest.raises(ValueError, match=r"name the `task`, one of multiclass"):
        reading_of(module, (X, torch.randn(6, 5)))


def test_probabilities_are_read_as_logits() -> None:
    shares = torch.tensor([[0.2, 0.8], [1.0, 0.0]])
    logits = read(shares, Reading("multiclass", "probabilities")).values
    assert torch.allclose(probabilities(logits, "multiclass"), shares, atol=1e-6)
    rates = read(shares[:, 0], Reading("multilabel", "probabilities")).values
    assert torch.allclose(probabilities(rates, "multilabel"), shares[:, :1], atol=1e-6)


@pytest.mark.parametrize("returned", [(VALUES, VALUES.exp()), {"mean": VALUES, "variance": VALUES.exp()}])
def test_means_with_variances(returned: Any) -> None:
    answer = read(returned, Reading("regression"))
    assert answer.values.shape == (6, 1)
    assert torch.equal(answer.variances, VALUES.exp()[:, None])


def test_logits_inside_an_object_and_what_is_none_of_these() -> None:
    assert torch.equal(read(SimpleNamespace(logits=X), Reading("multiclass")).values, X)
    with pytest.raises(TypeError, match="returned str, but a tensor was expected"):
        read("no", Reading("multiclass"))


class Sequences(nn.Module):
    def forward(self, x: Tensor, length: Tensor, labels: Tensor | None = None) -> Tensor:
        assert labels is None
        return x.sum(1) / length


def test_named_parts_go_to_parameters_of_their_names_and_targets_do_not() -> None:
    batch = {"x": X, "length": torch.full((6,), 2), "labels": CLASSES}
    assert torch.equal(call(Sequences(), batch), X.sum(1) / 2)
    assert targets_of(Sequences(), batch) is CLASSES
    assert arguments_of(nn.Linear(4, 2), (X, CLASSES))[0][0] is X


def test_an_unknown_task_is_refused() -> None:
    with pytest.raises(ValueError, match="Expected `task` to be one of multiclass, multilabel, regression"):
        Reading("classes")  # type: ignore[arg-type]
