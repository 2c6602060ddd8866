"""Soups of weights."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import nn

from lightning_rules.combine.soup import (
    estimate_batch_statistics,
    greedy_soup,
    has_batch_statistics,
    same_architecture,
    soup_of,
)


def test_the_mean_of_weights() -> None:
    first, second = nn.BatchNorm1d(2), nn.BatchNorm1d(2)
    nn.init.constant_(second.weight, 3.0)
    second.num_batches_tracked += 7
    soup = soup_of([first.state_dict(), second.state_dict()])
    assert soup["weight"].tolist() == [2.0, 2.0]
    assert soup["num_batches_tracked"] == 0
    assert soup["weight"].dtype == torch.float32


def test_architectures_are_told_apart() -> None:
    assert same_architecture([nn.Linear(2, 3).state_dict()] * 2)
    assert not same_architecture([nn.Linear(2, 3).state_dict(), nn.Linear(2, 4).state_dict()])
    assert not same_architecture([nn.Linear(2, 3).state_dict(), nn.Linear(2, 3, bias=False).state_dict()])


def test_the_greedy_soup_leaves_out_what_hurts() -> None:
    states = [{"w": torch.tensor([value])} for value in (4.0, 1.0, -0.8)]
    tried = []

    def loss_of(soup: dict[str, Any]) -> float:
        tried.append(round(float(soup["w"]), 3))
        return abs(float(soup["w"]))

    chosen, soup = greedy_soup(states, [4.0, 1.0, 0.8], loss_of)
    assert chosen == [2, 1]
    assert soup["w"].item() == pytest.approx(0.1)
    assert tried == [0.1, 1.4]


def test_statistics_of_batch_norm_are_those_of_the_data() -> None:
    module = nn.Sequential(nn.BatchNorm1d(3), nn.Dropout())
    assert has_batch_statistics(module)
    assert not has_batch_statistics(nn.BatchNorm1d(3, track_running_stats=False))
    module.eval()
    batches = list(torch.randn(4, 32, 3) * 5 + 7)
    estimate_batch_statistics(module, [(batch, torch.zeros(32)) for batch in batches])
    norm: Any = module[0]
    torch.testing.assert_close(norm.running_mean, torch.stack(batches).mean((0, 1)))
    assert not norm.training
    assert norm.momentum == 0.1


def test_dicts_are_batches_too() -> None:
    module = nn.Sequential(nn.BatchNorm1d(3))
    before = copy.deepcopy(module.state_dict())
    estimate_batch_statistics(module, [{"x": torch.ones(4, 3), "y": torch.zeros(4)}])
    assert not torch.equal(module.state_dict()["0.running_mean"], before["0.running_mean"])
