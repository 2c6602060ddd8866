"""bias-variance: the verdicts on numbers, names of metrics, then networks that fit badly, fit too well, or fit."""

from __future__ import annotations

import copy
import pickle
from pathlib import Path
from typing import Any

import lightning.pytorch as L
import pytest
import torch
import torch.nn.functional as F
from lightning.pytorch.callbacks import EarlyStopping
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from lightning_rules import BiasVariance, Severity
from lightning_rules.watch.bias_judgements import Errors, Measured, Validations, judge_errors, judge_overfitting
from lightning_rules.watch.bias_variance import RankSeen, judge_ranks
from lightning_rules.watch.error_of_split import SplitError, sums
from lightning_rules.watch.metric_names import lower_is_better, pairs

pytestmark = pytest.mark.filterwarnings("ignore")


def rate(error: float, answers: int = 500) -> Measured:
    return Measured(error, (error * (1 - error) / answers) ** 0.5, answers)


@pytest.mark.parametrize(
    ("errors", "human", "aspect", "words", "advice"),
    [
        (Errors("error rate", rate(0.12), rate(0.13)), None, "high-bias", "12.0 points above 0", "larger network"),
        (Errors("error rate", rate(0.12), rate(0.13)), 0.11, "bias-variance", "neither", ""),
        (Errors("error rate", rate(0.01), rate(0.12)), None, "high-variance", "11.0 points is variance", "more data"),
        (Errors("error rate", rate(0.00), rate(0.00)), None, "bias-variance", "neither", ""),
        (
            Errors("error rate", rate(0.01), rate(0.12), rate(0.02)),
            *(None, "data-mismatch", "10.0 points between validation and train-dev", "more like validation"),
        ),
        (Errors("error rate", rate(0.02), rate(0.10, 20)), 0.0, "high-bias", "2.0 points", "larger network"),  # noise
        (Errors("squared error", Measured(0.1, 0.01), Measured(0.9, 0.05), guess=1.0), 0.1, "high-variance", "0.8", ""),
        (Errors("squared error", Measured(0.101), Measured(0.1), guess=1.0), 0.09, "bias-variance", "neither", ""),
    ],
)
def test_the_largest_gap_that_stands_out_is_named(
    errors: Errors, human: float | None, aspect: str, words: str, advice: str
) -> None:
    finding = judge_errors(errors, human)
    assert (finding.rule, finding.severity) == (aspect, Severity.INFO), finding.message
    assert words in finding.message
    assert advice in finding.advice


RISING = [1.0, 0.8, 0.7, *(0.7 + 0.05 * step for step in range(1, 12))]
WORSE = [0.7, 0.8, 0.85, *(0.85 - 0.02 * step for step in range(1, 12))]


@pytest.mark.parametrize(
    ("seen", "severity", "words"),
    [
        (Validations({"val_loss": RISING, "val_acc": WORSE}, "", 500), Severity.WARNING, "val_acc has fallen"),
        (Validations({"val_loss": RISING}, is_error=True), Severity.WARNING, "best after validation 3 of 14"),
        (Validations({"val_loss": RISING, "val_acc": WORSE}, "EarlyStopping", 500), Severity.INFO, "EarlyStopping"),
        (Validations({"val_loss": RISING, "val_acc": [0.8] * 14}, "", 500), Severity.INFO, "overconfident"),
        (Validations({"val_loss": RISING}), Severity.INFO, "no accuracy was logged"),
        (Validations({"val_loss": RISING[:6]}, is_error=True), None, ""),  # too few
        (Validations({"val_loss": RISING[::-1]}, is_error=True), None, ""),
        (Validations({"val_loss": [1.0, 0.5, *[0.5 + 0.3 * (i % 3) for i in range(12)]]}, is_error=True), None, ""),
        (Validations({"val_acc": WORSE}), None, ""),
    ],
)
def test_overfitting_is_an_alarm_only_where_it_costs(seen: Validations, severity: Any, words: str) -> None:
    finding = judge_overfitting(seen)
    assert (finding and finding.severity) == severity
    assert finding is None or words in finding.message


def test_names_of_metrics() -> None:
    logged = ["train_loss", "train_loss_step", "train_loss_epoch", "val_loss", "Val/AccTop1", "training/acc_top1", "lr"]
    assert pairs(logged) == {"val_loss": "train_loss_epoch", "Val/AccTop1": "training/acc_top1"}
    assert [lower_is_better(name) for name in ("val/loss", "val_acc", "valid_MSE", "val_f1", "val_x")] == [
        *(True, False, True, False, None)
    ]


@pytest.mark.parametrize(
    ("answers", "right", "kind", "expected"),
    [
        ([0, 1, 2, 2], [0, 1, 1, 1], "softmax", SplitError(4, 2, 2, 1)),
        ([1.0, 2.0, 5.0], [1.0, 2.0, 3.0], "mean", SplitError(3, 4, 16, 2)),
        ([1.0, 2.0, 5.0], [1.0, 2.0, 3.0], "median", SplitError(3, 2, 4, 2)),
    ],
)
def test_errors_are_added_up(answers: Any, right: Any, kind: Any, expected: SplitError) -> None:
    assert sums(torch.tensor(answers), torch.tensor(right), kind) == expected


def test_ranks_add_up() -> None:
    parts = [
        {"train": SplitError(100, 2, 2, 50), "validation": SplitError(100, wrong, wrong, 50)} for wrong in (10, 30)
    ]
    ranks = [RankSeen("error rate", part, ended=True) for part in parts]
    (finding,) = judge_ranks(ranks, None, None)
    assert finding.evidence["validation_error"] == 0.2
    assert "200 answers" in finding.message
    assert judge_ranks([RankSeen()], None, None) == []


def test_logged_metrics_stand_in() -> None:
    logged = {"val_loss": (0.5, 0.9), "val_acc": (0.99, 0.80)}
    (finding,) = judge_ranks([RankSeen(why_not="Does not apply.", logged=logged, ended=True)], None, None)
    assert finding.rule == "high-variance"
    assert "as logged" in finding.message
    (finding,) = judge_ranks([RankSeen(logged=logged, ended=True)], None, "val_loss")
    assert finding.evidence["validation_error"] == 0.9


@pytest.mark.parametrize("wrong", [{"human_error": -0.1}, {"train_dev": -1}])
def test_arguments_out_of_range(wrong: Any) -> None:
    with pytest.raises(ValueError, match="at least 0 or None"):
        BiasVariance(**wrong)


class Model(L.LightningModule):
    def __init__(self, width: int, own_loss: bool = False, rate: float = 1e-2) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Linear(20, width), nn.ReLU(), nn.Dropout(0.1), nn.Linear(width, 2))
        self.own_loss, self.rate = own_loss, rate

    def step(self, batch: Any, name: str) -> Tensor:
        outputs = self.net(batch[0])
        loss = F.cross_entropy(outputs, batch[1])
        if self.own_loss:
            loss = -outputs.log_softmax(1).gather(1, batch[1][:, None]).mean()
        self.log(f"{name}_loss", loss, on_epoch=True, on_step=False, add_dataloader_idx=False)
        accuracy = (outputs.argmax(1) == batch[1]).float().mean()
        self.log(f"{name}_acc", accuracy, on_epoch=True, on_step=False, add_dataloader_idx=False)
        return loss

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        return self.step(batch, "train")

    def validation_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> None:
        self.step(batch, "val" if dataloader_idx == 0 else "dev")

    def configure_optimizers(self) -> Any:
        return torch.optim.Adam(self.parameters(), self.rate)


def loader(kind: str, seed: int, count: int = 256, shuffle: bool = False) -> DataLoader:
    generator = torch.Generator().manual_seed(seed)
    inputs = torch.randn(count, 20, generator=generator)
    labels = {
        "easy": inputs[:, 0] > 0,
        "hard": torch.rand(count, generator=generator) > 0.5,
        "other": inputs[:, 1] > 0,
    }[kind].long()
    return DataLoader(TensorDataset(inputs, labels), 32, shuffle=shuffle)


def fit(rules: Any, train: Any, validation: Any, epochs: int = 12, ckpt: Any = None, **options: Any) -> Any:
    L.seed_everything(0, verbose=False)
    quiet = dict.fromkeys(("logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary"), False)
    trainer = L.Trainer(accelerator="cpu", max_epochs=epochs, callbacks=rules, num_sanity_val_steps=1, **quiet)
    module = Model(**{"width": 128, **options})
    trainer.fit(module, train, validation, ckpt_path=ckpt)
    return module, trainer


@pytest.mark.parametrize(
    ("kind", "options", "expected"),
    [
        ("easy", {"width": 1, "rate": 1e-6, "epochs": 1}, "high-bias"),
        ("hard", {}, "high-variance"),
    ],
)
def test_the_verdict_of_a_fit(kind: str, options: Any, expected: str) -> None:
    rule = BiasVariance(human_error=0.05)
    fit([rule], loader(kind, 1, shuffle=True), loader(kind, 2), **options)
    finding = rule.findings[-1]
    assert finding.rule == expected, finding.message
    assert "(256 answers)" in finding.message
    assert finding.severity is Severity.INFO


def test_mismatch_is_told_by_a_train_dev_split() -> None:
    rule = BiasVariance(train_dev=1)
    fit([rule], loader("easy", 1, shuffle=True), [loader("other", 2), loader("easy", 3)])
    assert rule.findings[-1].rule == "data-mismatch", rule.findings[-1].message


def test_a_loss_of_ones_own_leaves_the_logged_metrics() -> None:
    rule = BiasVariance()
    fit([rule], loader("hard", 1, shuffle=True), loader("hard", 2), own_loss=True)
    finding = rule.findings[-1]
    assert finding.rule == "high-variance"
    assert "as logged" in finding.message


def test_no_trace_and_no_validation() -> None:
    ends = []
    for rules in ([], [BiasVariance()]):
        module, trainer = fit(rules, loader("easy", 1, shuffle=True), loader("easy", 2), epochs=2)
        ends.append((module.state_dict(), torch.get_rng_state(), dict(trainer.callback_metrics), module.training))
    (weights, rng, metrics, mode), (watched, watched_rng, watched_metrics, watched_mode) = ends
    assert all(torch.equal(weights[name], watched[name]) for name in weights)
    assert torch.equal(rng, watched_rng)
    assert (metrics, mode) == (watched_metrics, watched_mode)
    rule = BiasVariance()
    fit([rule], loader("easy", 1), None, epochs=1)
    assert [one.message for one in rule.findings] == ["Does not apply: the run has no validation loader."]


def test_overfitting_in_a_resumed_fit(tmp_path: Path) -> None:
    """Labels at random are learned by heart: the validation loss rises from the first epoch on."""
    data = loader("hard", 1, shuffle=True), loader("hard", 2)
    first, rule, kept = BiasVariance(), BiasVariance(), BiasVariance()
    _, trainer = fit([first], *data, epochs=6)
    trainer.save_checkpoint(tmp_path / "half.ckpt")
    fit([rule], *data, epochs=12, ckpt=tmp_path / "half.ckpt")
    assert len(rule._series["val_loss"]) == 12
    (finding,) = [one for one in rule.findings if one.rule == "overfitting"]
    assert finding.severity is Severity.INFO  # accuracy stays where guessing is
    pickle.loads(pickle.dumps(copy.deepcopy(rule)))
    fit([kept, EarlyStopping("val_loss", patience=100)], *data)
    assert kept.findings[-1].rule == "high-variance"
