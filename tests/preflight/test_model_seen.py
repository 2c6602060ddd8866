"""What one training step shows: layers in order, what feeds them, gradients, and what it calls."""

from __future__ import annotations

from typing import Any

import lightning.pytorch as L
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from lightning_rules.preflight.model_seen import ModelSeen, Trace
from lightning_rules.view import View


class Net(L.LightningModule):
    """Everything a trace tells apart."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.norm, self.second = nn.Linear(6, 8), nn.BatchNorm1d(8), nn.Linear(8, 8)
        self.frozen = nn.Linear(8, 8).requires_grad_(False)
        self.unused = nn.Linear(2, 2)
        self.cell, self.head = nn.BatchNorm1d(8), nn.Linear(8, 3, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(F.dropout(self.norm(self.first(x)), 0.5, self.training), inplace=True)
        x = self.second(F.dropout(x, 0.2)) + self.frozen(x)
        for _ in range(3):
            x = torch.tanh(self.cell(x))
        return self.head(x)

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        x, y = batch
        return 2 * F.cross_entropy(self(x + torch.randn_like(x)), y, reduction="sum")

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), 1e-3)


class Keep(L.Callback):
    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        self.seen = ModelSeen(View(trainer, pl_module))
        self.trace, self.evaluation = self.seen.trace, self.seen.evaluation
        assert self.seen.trace is self.trace, "read once"


@pytest.fixture
def kept() -> Keep:
    torch.manual_seed(0)
    keep = Keep()
    quiet = dict.fromkeys(("logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary"), False)
    trainer = L.Trainer(accelerator="cpu", max_steps=1, callbacks=[keep], **quiet)
    trainer.fit(Net(), DataLoader(TensorDataset(torch.randn(32, 6), torch.arange(32) % 3), 16))
    return keep


def test_layers(kept: Keep) -> None:
    trace: Trace = kept.trace
    names = [run.name for run in trace.runs]
    assert names == ["first", "norm", "second", "frozen", *["cell"] * 3, "head"]
    runs = dict(zip(names, trace.runs, strict=True))
    assert (runs["first"].inputs, runs["first"].outputs, runs["first"].node) == ((16, 6), (16, 8), "Addmm")
    assert runs["norm"].source == "first"
    assert runs["second"].source is None, "a ReLU stands between"
    assert [run.recurs for run in trace.runs] == [False] * 5 + [True, True, False]
    assert runs["norm"].rms == pytest.approx(1.0, abs=0.05)
    assert runs["norm"].spread == pytest.approx(1.0, abs=0.05)
    assert all(run.readers == 1 for run in trace.runs)
    assert trace.branches == 1, "the ReLU's output is read by two layers"
    assert (trace.examples, trace.inputs_finite) == (16, True)


def test_gradients(kept: Keep) -> None:
    gradients = kept.trace.gradients
    assert not any(name.startswith("frozen") for name in gradients)
    assert not gradients["unused.weight"].reached
    first = gradients["first.weight"]
    assert first.reached
    assert first.finite
    assert not first.zero
    assert (first.rows, first.distinct_rows) == (8, 8), "dropout is off: no unit's gradient is lost"
    assert gradients["first.bias"].rows == 0


def test_loss(kept: Keep) -> None:
    (facts,) = kept.trace.losses
    assert (facts.name, facts.output, facts.target, facts.distinct) == ("cross_entropy", (16, 3), (16,), 3)
    assert facts.total_weight == pytest.approx(2 * 16), "the sum over 16 examples, doubled"


def test_calls(kept: Keep) -> None:
    trained = [(call.name, call.rate, call.active) for call in kept.trace.dropouts]
    assert trained == [("", 0.5, True), ("", 0.2, True)]
    evaluated = [(call.name, call.rate, call.active) for call in kept.evaluation.dropouts]
    assert evaluated == [("", 0.5, False), ("", 0.2, True)], "the second is always on"
    assert [(draw.name, draw.function) for draw in kept.evaluation.draws] == [(None, "randn_like")]
    assert [call.kind for call in kept.trace.activations] == ["ReLU", "tanh", "tanh", "tanh"]
