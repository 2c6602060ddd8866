"""Whether the checkpoints of a run fit on the disk is asked before it starts, and before each save."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from typing import Any, NamedTuple

import pytest
import torch
from torch import nn

from lightning_rules.reproduce.free_space import (
    check_free_space,
    estimated_size,
    files_to_come,
    number_of_saves,
)
from lightning_rules.testing.demo import DemoClassifier


class Usage(NamedTuple):
    """What ``shutil.disk_usage`` returns."""

    total: int
    used: int
    free: int


class Run:
    """What the estimate asks a Trainer."""

    ckpt_path: str | None = None
    max_epochs: int | None = 10
    current_epoch = 0

    def __init__(self, *optimizers: Any) -> None:
        self.optimizers = optimizers


def test_the_sentence_holds_the_numbers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _: Usage(0, 0, 3_000_000_000))
    check_free_space("new/folder", 1_000_000_000, 2, 0.5)
    with pytest.raises(OSError, match=r"need 3\.300 GB \(3 files of 1\.000 GB, and 10% .*but 3\.000 GB are free"):
        check_free_space("new/folder", 1_000_000_000, 3, 0.1)
    with pytest.raises(OSError, match="the next file"):
        check_free_space("new/folder", 4_000_000_000, 1, 0.0)
    check_free_space("s3://bucket/folder", 10**15, 3, 0.1)


@pytest.mark.parametrize(
    ("optimizer", "options", "copies"),
    [(torch.optim.SGD, {}, 1), (torch.optim.SGD, {"momentum": 0.9}, 2), (torch.optim.AdamW, {}, 3),
     (torch.optim.AdamW, {"amsgrad": True}, 4)],
)  # fmt: skip
def test_the_estimate_is_right_before_and_after_the_first_step(optimizer: Any, options: Any, copies: int) -> None:
    module = nn.Sequential(nn.Linear(500, 500), nn.BatchNorm1d(500))
    run = Run(optimizer(module.parameters(), 0.1, **options))
    before = estimated_size(run, module, weights_only=False)
    module(torch.randn(4, 500)).sum().backward()
    run.optimizers[0].step()
    torch.save([module.state_dict(), run.optimizers[0].state_dict()], "state.pt")
    written = os.path.getsize("state.pt")
    assert before == pytest.approx(written, rel=0.01)
    assert estimated_size(run, module, weights_only=False) == pytest.approx(written, rel=0.01)
    assert estimated_size(run, module, weights_only=True) == pytest.approx(written / copies, rel=0.02)


def test_shared_weights_count_once_and_a_resumed_run_knows_the_size() -> None:
    shared = nn.Linear(500, 500, bias=False)
    module, run = nn.Sequential(shared, shared, nn.Linear(500, 1)), Run()
    module[2].weight = nn.Parameter(shared.weight[:1])
    assert estimated_size(run, module, weights_only=False) == 4 * (500 * 500 + 1)
    run.ckpt_path = "resumed.ckpt"
    assert estimated_size(run, module, weights_only=False) == 4 * (500 * 500 + 1)  # it is not there
    with open("resumed.ckpt", "wb") as file:
        file.write(b"x" * 777)
    assert estimated_size(run, module, weights_only=False) == 777


@pytest.mark.parametrize(
    ("top_k", "last", "kept", "saves", "files"),
    [(1, False, 0, None, 2), (3, True, 0, 10, 5), (3, True, 4, 10, 1), (0, False, 0, None, 1), (-1, True, 0, 10, 12),
     (-1, False, 0, None, 2), (1, True, 9, None, 1)],
)  # fmt: skip
def test_files_to_come(top_k: int, last: bool, kept: int, saves: int | None, files: int) -> None:
    assert files_to_come(top_k, last, kept, saves) == files


def test_number_of_saves() -> None:
    run = Run()
    assert (number_of_saves(run, 3), number_of_saves(run, 0)) == (4, None)
    run.current_epoch = 7
    assert number_of_saves(run, 1) == 3
    run.max_epochs = -1
    assert number_of_saves(run, 1) is None


def test_a_run_without_room_ends_before_its_first_step(train: Callable[..., Any], keep: Any, monkeypatch: Any) -> None:
    steps = []

    class Counts(DemoClassifier):
        def training_step(self, batch: Any, batch_idx: int) -> Any:
            steps.append(batch_idx)
            return super().training_step(batch, batch_idx)

    monkeypatch.setattr(shutil, "disk_usage", lambda _: Usage(0, 0, 500))
    with pytest.raises(OSError, match=r"need 0\.000 GB \(3 files"):
        train(keep(), module=Counts())
    assert steps == []


def test_a_save_without_room_raises_and_keeps_the_old(train: Callable[..., Any], keep: Any, monkeypatch: Any) -> None:
    usage = shutil.disk_usage

    def full_after_the_first(folder: Any) -> Any:
        return Usage(0, 0, 10) if os.path.exists("kept/last.ckpt") else usage(folder)

    monkeypatch.setattr(shutil, "disk_usage", full_after_the_first)
    with pytest.raises(OSError, match="the next file"):
        train(keep(monitor=None))
    assert sorted(os.listdir("kept")) == ["last.ckpt", "last.ckpt.json", "step=2.ckpt", "step=2.ckpt.json"]
