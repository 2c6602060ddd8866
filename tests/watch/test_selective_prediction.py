"""The threshold for a wanted accuracy, on answers whose confidence says what it should, and on a real fit."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import lightning.pytorch as L
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from lightning_rules import SelectivePrediction, Severity
from lightning_rules.answers import Answers
from lightning_rules.watch.selective_prediction import HANDED_OVER, KEPT, judge_answers, thinned


def calibrated(count: int = 2000) -> tuple[Tensor, Tensor]:
    """Confidences from 0.5 to 1 that are true."""
    generator = torch.Generator().manual_seed(0)
    confidence = 0.5 + torch.rand(count, generator=generator) / 2
    return confidence, torch.rand(count, generator=generator) < confidence


def test_the_threshold_gives_what_is_wanted() -> None:
    confidence, right = calibrated()
    (finding,) = judge_answers(confidence, right, 2000, 0.9)
    evidence: dict[str, Any] = dict(finding.evidence)
    answered = confidence >= evidence["threshold"]
    assert float(answered.double().mean()) == pytest.approx(evidence["coverage"])
    assert float(right[answered].double().mean()) == pytest.approx(1 - evidence["risk"])
    assert 1 - evidence["risk"] >= 0.9
    assert evidence["threshold"] == pytest.approx(0.8, abs=0.06)  # above it the mean confidence is 0.9
    assert evidence["guaranteed_threshold"] > evidence["threshold"]
    assert finding.severity is Severity.INFO
    assert "to be 95% sure of 90.0% on new ones" in finding.message


def test_without_a_wish_the_errors_are_halved() -> None:
    confidence, right = calibrated()
    (finding,) = judge_answers(confidence, right, 2000, None)
    assert finding.evidence["risk"] == pytest.approx((1 - float(right.double().mean())) / 2, abs=0.01)


def test_what_needs_no_threshold_and_what_no_threshold_helps() -> None:
    confidence = torch.rand(100)
    (finding,) = judge_answers(confidence, torch.ones(100, dtype=torch.bool), 100, 0.9)
    assert finding.message.startswith("All 100 validation examples can be answered: 100.0% of the answers are right")
    wrong_way = confidence < confidence.median()
    (finding,) = judge_answers(confidence, wrong_way, 100, 0.9)
    assert finding.message.startswith("No threshold that leaves 20 answers or more")
    assert judge_answers(confidence[:19], wrong_way[:19], 19, 0.9) == []


def test_the_few_that_are_sure_by_chance_are_no_threshold() -> None:
    right = torch.zeros(100, dtype=torch.bool)
    right[:5] = True
    (finding,) = judge_answers(torch.linspace(1, 0, 100), right, 100, 0.9)
    assert "threshold" not in finding.evidence


def test_many_answers_are_thinned_evenly() -> None:
    confidence, right = calibrated(50_000)
    confidence[::10] = -1
    few, correct, count = thinned(confidence, right)
    assert (len(few), count) == (HANDED_OVER, 45_000)
    known = confidence >= 0
    assert float(few.mean()) == pytest.approx(float(confidence[known].mean()), abs=1e-3)
    assert float(correct.double().mean()) == pytest.approx(float(right[known].double().mean()), abs=0.02)


def test_what_is_held_is_bounded() -> None:
    rule = SelectivePrediction()
    answers = Answers("softmax", torch.randn(100_000, 2), torch.zeros(100_000).long())
    for place in range(8):
        rule.see(None, answers, None, place)
    assert KEPT / 4 < sum(part.shape[1] for part in rule._kept) <= KEPT
    with pytest.raises(ValueError, match="Expected `accuracy` to be above 0 and below 1, but got 99"):
        SelectivePrediction(accuracy=99)


class Classifier(L.LightningModule):
    """Sure where the first input is far from 0, and wrong only near it."""

    def __init__(self, regression: bool = False) -> None:
        super().__init__()
        self.head, self.regression = nn.Linear(1, 1 if regression else 2, bias=False), regression
        with torch.no_grad():
            self.head.weight.copy_(torch.tensor([[0.0]] if regression else [[-3.0], [3.0]]))

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        if self.regression:
            return F.mse_loss(self.head(batch[0]), batch[0])
        return F.cross_entropy(self.head(batch[0]), batch[1])

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self.training_step(batch, batch_idx)

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), 0.0)


def fit(rule: SelectivePrediction, folder: Path, regression: bool = False) -> None:
    x = torch.linspace(-1, 1, 200)[torch.randperm(200, generator=torch.Generator().manual_seed(0))]
    y = ((x > 0) ^ (x.abs() < 0.1)).long()  # those near 0 are labelled the other way round
    loader = DataLoader(TensorDataset(x[:, None], y), 50)
    trainer = L.Trainer(
        accelerator="cpu",
        max_epochs=1,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=folder,
        callbacks=[rule],
    )
    trainer.fit(Classifier(regression), loader, loader)


def test_in_a_fit(tmp_path: Path) -> None:
    rule = SelectivePrediction(accuracy=0.995)
    fit(rule, tmp_path)
    (finding,) = rule.findings
    assert finding.evidence["accuracy"] == pytest.approx(0.9, abs=0.01)
    assert finding.evidence["coverage"] == pytest.approx(0.9, abs=0.02)
    assert finding.evidence["threshold"] == pytest.approx(torch.tensor(0.6).sigmoid().item(), abs=0.02)
    assert rule.curve is not None
    assert float(rule.curve.risk[-1]) == pytest.approx(0.1, abs=0.01)
    assert (tmp_path / "rules" / "selective_prediction.png").read_bytes().startswith(b"\x89PNG")


def test_a_regression_has_no_confidence(tmp_path: Path) -> None:
    rule = SelectivePrediction()
    fit(rule, tmp_path, regression=True)
    assert [finding.message for finding in rule.findings] == [
        "Does not apply: a regression has no confidence in its answers."
    ]
