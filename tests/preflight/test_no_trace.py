"""The three short trainings and probes leave no trace in the run that follows."""

from __future__ import annotations

from typing import Any

import lightning.pytorch as L
import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from lightning_rules import BatchIndependence, InputIndependentBaseline, OverfitOneBatch, Severity


def trained(plain: Any, data: Any, rules: list[Any]) -> tuple[Any, ...]:
    L.seed_everything(3, verbose=False)
    net = nn.Sequential(nn.Linear(64, 32), nn.BatchNorm1d(32), nn.ReLU(), nn.Dropout(0.3), nn.Linear(32, 10))
    module = plain(net, F.cross_entropy, lambda p: torch.optim.SGD(p, 0.05, momentum=0.9))
    quiet = dict.fromkeys(("logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary"), False)
    trainer = L.Trainer(accelerator="cpu", max_epochs=2, callbacks=rules, **quiet)
    trainer.fit(module, DataLoader(TensorDataset(data[0][:320], data[1][:320]), 32, shuffle=True))
    momentum = [state["momentum_buffer"] for state in trainer.optimizers[0].state.values()]
    return [*module.state_dict().values()], momentum, torch.get_rng_state()


@pytest.mark.filterwarnings("ignore")
def test_training_is_bit_identical(plain: Any, digits: Any) -> None:
    rules = [OverfitOneBatch(None), InputIndependentBaseline(None), BatchIndependence(budget=None)]
    with_rules, without = trained(plain, digits, rules), trained(plain, digits, [])
    assert [rule.findings[0].severity for rule in rules] == [Severity.OK] * 3
    for one, other in zip(with_rules[:2], without[:2], strict=True):
        assert len(one) == len(other) > 0
        assert all(torch.equal(a, b) for a, b in zip(one, other, strict=True))
    assert torch.equal(with_rules[2], without[2])
