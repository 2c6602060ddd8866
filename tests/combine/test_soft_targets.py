"""The cache of a teacher's answers: whole, resumable after a kill, and of nothing else than it says."""

from __future__ import annotations

import multiprocessing
import os
import re
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.utils.data import DataLoader, TensorDataset

from lightning_rules.combine.reading import Answer
from lightning_rules.combine.soft_loss import distillation_loss, soft_answer
from lightning_rules.combine.soft_targets import SoftTargets, create, data_key, fill

KEY: dict[str, Any] = {"teacher": "abc", "data": "d", "task": "multiclass", "rows": 50, "row": [3]}


class OneProcess:
    """What the cache asks of a Trainer."""

    world_size, global_rank, is_global_zero, progress_bar_callback = 1, 0, True, None


def data() -> TensorDataset:
    return TensorDataset(torch.arange(50.0)[:, None], torch.arange(50) % 3)


def said(batch: Any) -> Tensor:
    """Row i of the cache: the log probabilities of logits i, 2 i, 3 i, all over 10."""
    return (batch[0] * torch.tensor([0.1, 0.2, 0.3])).log_softmax(1)


def filled(folder: Path, answer: Any = said, **loader: Any) -> SoftTargets:
    run = DataLoader(data(), 8, **loader)
    return fill(OneProcess(), folder, KEY, answer, (data(), run.collate_fn), run)


@pytest.mark.parametrize("workers", [0, 2])
def test_each_row_is_its_examples(tmp_path: Path, workers: int) -> None:
    targets = filled(tmp_path / "cache", shuffle=True, num_workers=workers)
    indices = torch.randperm(50)
    torch.testing.assert_close(targets[indices], said(data()[indices]), atol=1e-2, rtol=1e-3)
    assert not targets.missing()
    asked: list[int] = []
    filled(tmp_path / "cache", lambda batch: asked.append(1) or said(batch))
    assert asked == [], "what is there is not computed again"


def fill_until_killed(folder: Path) -> None:
    blocks = iter(range(9))

    def answer(batch: Any) -> Tensor:
        if next(blocks) == 3:
            os.kill(os.getpid(), signal.SIGKILL)
        return said(batch)

    filled(folder, answer)


def test_goes_on_after_a_kill(tmp_path: Path) -> None:
    process = multiprocessing.get_context("fork").Process(target=fill_until_killed, args=(tmp_path / "cache",))
    process.start()
    process.join()
    assert process.exitcode == -signal.SIGKILL
    assert [len(rows) for rows in SoftTargets(tmp_path / "cache").missing()] == [8, 8, 8, 2]
    asked: list[int] = []
    targets = filled(tmp_path / "cache", lambda batch: asked.append(len(batch[0])) or said(batch))
    assert asked == [8, 8, 8, 2]
    torch.testing.assert_close(targets[torch.arange(50)], said(data()[:]), atol=1e-2, rtol=1e-3)


def test_what_is_missing(tmp_path: Path) -> None:
    create(tmp_path, KEY, 8)
    targets = SoftTargets(tmp_path)
    assert [row for rows in targets.missing() for row in rows] == list(range(50))
    targets.write(range(8, 16), torch.zeros(8, 3))
    assert [row for rows in targets.missing() for row in rows] == [*range(8), *range(16, 50)]


@pytest.mark.parametrize(
    ("changed", "what"),
    [
        ({"teacher": "other"}, "another teacher"),
        ({"data": "e"}, "other data"),
        ({"rows": 49}, "another version"),
        ({"row": [4]}, "another number of classes"),
        ({"task": "multilabel"}, "another task"),
    ],
)
def test_something_else_is_refused(tmp_path: Path, changed: dict[str, Any], what: str) -> None:
    create(tmp_path, KEY, 8)
    create(tmp_path, KEY, 16)  # the same, with other blocks
    with pytest.raises(ValueError, match=re.escape(f"in {tmp_path} were computed for {what}: remove that folder")):
        create(tmp_path, {**KEY, **changed}, 8)


def test_half_precision_keeps_small_probabilities() -> None:
    """At temperature 4, answers kept as log probabilities give the loss; kept as probabilities they would not."""
    logits = torch.tensor([[0.0, -5.0, -12.0, -20.0, -28.0]])
    student = torch.randn(1, 5)
    exact = distillation_loss(student, soft_answer(Answer(logits), "multiclass"), "multiclass", 4.0)
    kept = soft_answer(Answer(logits), "multiclass").to(torch.float16).float()
    ours = distillation_loss(student, kept, "multiclass", 4.0)
    assert float(ours) == pytest.approx(float(exact), rel=1e-3)
    lost = logits.softmax(1).to(torch.float16).float().clamp(min=6e-8).log()
    theirs = distillation_loss(student, lost, "multiclass", 4.0)
    assert abs(float(theirs) - float(exact)) > 10 * abs(float(ours) - float(exact))
    assert kept.isfinite().all()


def test_data_are_known_by_labels_and_examples() -> None:
    known, repeatable = data_key(data())
    assert repeatable
    assert known == data_key(data())[0]
    other_labels = TensorDataset(data().tensors[0], data().tensors[1].flip(0))
    other_inputs = TensorDataset(data().tensors[0] + 1, data().tensors[1])
    shorter = TensorDataset(*data()[:49])
    assert len({known, *(data_key(one)[0] for one in (other_labels, other_inputs, shorter))}) == 4


def test_random_data_leave_the_generators_alone() -> None:
    class Noisy(TensorDataset):
        def __getitem__(self, index: int) -> Any:
            return torch.rand(2) + np.random.rand(), 1

    states = torch.get_rng_state(), np.random.get_state(legacy=False)["state"]["key"].tolist()
    key, repeatable = data_key(Noisy(torch.zeros(9)))
    assert not repeatable
    assert key == data_key(Noisy(torch.zeros(9)))[0], "random examples say nothing about the data"
    assert torch.equal(torch.get_rng_state(), states[0])
    assert np.random.get_state(legacy=False)["state"]["key"].tolist() == states[1]
