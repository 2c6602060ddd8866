"""The course of answers to a fixed batch: planted courses, a real fit, a loader that shuffles, a resumed run."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import Any

import lightning.pytorch as L
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from lightning_rules import PredictionDynamics, Severity
from lightning_rules.watch.prediction_dynamics import TIMES, course_of, draw_course, judge_course


def history(right: list[list[int]], targets: list[float] | None = None) -> list[tuple[int, Tensor]]:
    """A row for each time; a column for each example: 1 is right."""
    shown = torch.tensor(targets or [0.0] * len(right[0]))
    rows = [torch.tensor(row, dtype=torch.float32) for row in right]
    return [(step, torch.stack([0.2 + 0.6 * row, row, shown])) for step, row in enumerate(rows)]


def test_counts_of_a_planted_course() -> None:
    seen = history([[0, 1, 0, 1], [0, 1, 1, 1], [0, 1, 1, 1], [0, 1, 1, 0], [0, 1, 0, 1], [0, 1, 1, 0]])
    (finding,) = judge_course(course_of(seen, regression=False))
    assert finding.severity is Severity.INFO
    assert finding.evidence == {"times": 6, "examples": 4, "never_right": 1, "late_flips": 2, "forgotten": 1}
    assert draw_course(course_of(seen, regression=False)).axes  # type: ignore[arg-type]


def test_too_few_times_say_nothing_and_unknown_targets_are_left_out() -> None:
    assert judge_course(course_of(history([[1], [0]]), regression=False)) == []
    assert judge_course(course_of([], regression=False)) == []
    seen = history([[1, 1]] * 3)
    for _, values in seen:
        values[0, 1] = torch.nan
    course = course_of(seen, regression=False)
    assert course is not None
    assert course.values.shape == (3, 1)


def test_residuals() -> None:
    seen = [(step, torch.tensor([[1.0 - step / 4, 0.5 + step], [1, 1], [3, 4]])) for step in range(3)]
    (finding,) = judge_course(course_of(seen, regression=True))
    assert finding.evidence["first"] == pytest.approx(0.75)
    assert finding.evidence["last"] == pytest.approx(1.5)
    assert finding.evidence["worse"] == 1


def test_another_batch_each_time_is_no_course() -> None:
    seen = [*history([[1, 0]] * 2, targets=[0.0, 1.0]), *history([[1, 0]], targets=[1.0, 0.0])]
    (finding,) = judge_course(course_of(seen, regression=False))
    assert finding.message.startswith("Does not apply: the first validation batch holds other examples each time")


def test_what_is_remembered_is_bounded() -> None:
    rule = PredictionDynamics()
    for step in range(3 * TIMES):
        rule.begin_validation()
        if (rule._validations - 1) % rule._every == 0:
            rule.take([[step, torch.zeros(3, 2)]])
    steps = [step for step, _ in rule._history]
    assert len(steps) <= TIMES
    assert {later - earlier for earlier, later in pairwise(steps)} == {rule._every}


class Classifier(L.LightningModule):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.net = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
        self.said: list[Tensor] = []

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        return F.cross_entropy(self.net(batch[0]), batch[1])

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        logits = self.net(batch[0])
        if batch_idx == 0 and not self.trainer.sanity_checking:
            self.said.append(logits.softmax(1).gather(1, batch[1][:, None])[:, 0].clone())
        self.log("loss", F.cross_entropy(logits, batch[1]))

    def configure_optimizers(self) -> Any:
        return torch.optim.Adam(self.parameters(), 0.05)


def fit(
    rule: PredictionDynamics, folder: Path, epochs: int, shuffle: bool = False, resume: Any = None
) -> tuple[L.Trainer, Classifier]:
    x = torch.randn(128, 4, generator=torch.Generator().manual_seed(0))
    data = TensorDataset(x, (x[:, 0] > 0).long())
    trainer = L.Trainer(
        accelerator="cpu",
        max_epochs=epochs,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=folder,
        callbacks=[rule],
    )
    module = Classifier()
    trainer.fit(module, DataLoader(data, 32), DataLoader(data, 64, shuffle=shuffle), ckpt_path=resume)
    return trainer, module


def test_follows_the_answers_of_the_run(tmp_path: Path) -> None:
    rule = PredictionDynamics()
    trainer, module = fit(rule, tmp_path, 4)
    assert rule.course is not None
    assert rule.course.steps == [4, 8, 12, 16]
    torch.testing.assert_close(rule.course.values, torch.stack(module.said))
    assert [finding.evidence["times"] for finding in rule.findings] == [4]
    assert (tmp_path / "rules" / "prediction_dynamics.png").read_bytes().startswith(b"\x89PNG")
    trainer.save_checkpoint(tmp_path / "last.ckpt")
    again = PredictionDynamics()
    fit(again, tmp_path, 6, resume=tmp_path / "last.ckpt")
    assert again.course is not None
    assert again.course.steps == [4, 8, 12, 16, 20, 24]
    torch.testing.assert_close(again.course.values[:4], rule.course.values)


def test_a_loader_that_shuffles_is_told(tmp_path: Path) -> None:
    rule = PredictionDynamics()
    fit(rule, tmp_path, 3, shuffle=True)
    assert ["holds other examples each time" in finding.message for finding in rule.findings] == [True]
    assert not (tmp_path / "rules" / "prediction_dynamics.png").exists()
