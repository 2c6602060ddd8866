"""carried-state and last-batch-norm: planted bugs and healthy twins before the first step."""

from __future__ import annotations

from typing import Any

import lightning.pytorch as L
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from lightning_rules import Finding, ModelAudit, Severity
from lightning_rules.preflight.carried_state import StateSeen, judge


class Reader(L.LightningModule):
    """An LSTM, or a cell, over the rows of an image."""

    def __init__(self, carry: bool = False, cell: bool = False, learned: bool = False) -> None:
        super().__init__()
        self.rnn: Any = nn.GRUCell(8, 16) if cell else nn.LSTM(8, 16, batch_first=True)
        self.head, self.carry, self.cell, self.kept = nn.Linear(16, 10), carry, cell, None
        self.first = nn.Parameter(torch.randn(1, 1, 16)) if learned else None

    def forward(self, x: Tensor) -> Tensor:
        x = x.view(-1, 8, 8)
        state: Any = self.kept if self.carry else None
        if self.first is not None:
            state = self.first.expand(-1, len(x), -1).contiguous(), torch.zeros(1, len(x), 16)
        if self.cell:
            for row in x.unbind(1):
                state = self.rnn(row, state)
            self.kept = state.detach()
            return self.head(state)
        out, state = self.rnn(x, state)
        self.kept = tuple(part.detach() for part in state)
        return self.head(out[:, -1])

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        return F.cross_entropy(self(batch[0]), batch[1])

    def configure_optimizers(self) -> Any:
        return torch.optim.Adam(self.parameters(), 1e-3)


def audit(model: Any, shuffle: bool = True, batch: int = 16) -> list[Finding]:
    torch.manual_seed(0)
    data = TensorDataset(torch.randn(64, 64), torch.randint(10, (64,)))
    quiet = dict.fromkeys(("logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary"), False)
    rule = ModelAudit(budget=None)
    trainer = L.Trainer(accelerator="cpu", max_steps=1, callbacks=[rule], **quiet)
    trainer.fit(model, DataLoader(data, batch, shuffle=shuffle, drop_last=True))
    assert not any("failed" in one.message for one in rule.findings)
    return list(rule.findings)


@pytest.mark.parametrize("cell", [False, True])
def test_a_state_that_is_carried_is_told(cell: bool) -> None:
    model = Reader(carry=True, cell=cell)
    (found,) = [one for one in audit(model) if one.rule == "carried-state"]
    assert found.severity is Severity.WARNING
    assert "`rnn` is carried from one batch to the next, though examples are shuffled" in found.message
    assert "fresh state" in found.advice
    assert not model.rnn._forward_hooks


def test_sequences_that_go_on_in_order_are_no_alarm() -> None:
    (found,) = [one for one in audit(Reader(carry=True), shuffle=False) if one.rule == "carried-state"]
    assert found.severity is Severity.INFO


@pytest.mark.parametrize("options", [{}, {"cell": True}, {"learned": True}])
def test_fresh_states_are_silent(options: Any) -> None:
    assert not [one for one in audit(Reader(**options)) if one.rule == "carried-state"]


def test_judgement() -> None:
    assert judge([StateSeen((), True)]) == []
    assert [one.severity for one in judge([StateSeen(("a",), True)] * 2)] == [Severity.WARNING]
    assert [one.severity for one in judge([StateSeen(("a",), True), StateSeen(("a",), False)])] == [Severity.INFO]


class Normed(Reader):
    def __init__(self, momentum: float | None) -> None:
        super().__init__()
        layers = [nn.Linear(64, 16), nn.BatchNorm1d(16, momentum=momentum), nn.ReLU(), nn.Linear(16, 10)]
        self.net = nn.Sequential(*layers)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.net(x)
        return out


@pytest.mark.parametrize(
    ("momentum", "batch", "fires"),
    [(1.0, 16, True), (0.99, 16, True), (0.5, 16, False), (None, 16, False), (1, 64, False)],
)
def test_statistics_of_the_last_batch(momentum: float | None, batch: int, fires: bool) -> None:
    found = [one for one in audit(Normed(momentum), batch=batch) if one.rule == "last-batch-norm"]
    assert [one.severity for one in found] == ([Severity.WARNING] if fires else [])
    assert all(f"have momentum {momentum:.3g}" in one.message for one in found)
