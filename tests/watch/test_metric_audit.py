"""metric-audit: the judgements on numbers, then metrics that lie and their honest twins in real fits."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import lightning.pytorch as L
import pytest
import torch
import torch.nn.functional as F
from lightning.pytorch.callbacks import ModelCheckpoint
from sklearn.datasets import load_diabetes, load_digits
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset
from torchmetrics.classification import MulticlassAccuracy, MulticlassF1Score

from lightning_rules import Finding, MetricAudit, Severity
from lightning_rules.answers import Answers
from lightning_rules.watch.metric_direction import Watcher, direction, judge_modes
from lightning_rules.watch.metric_findings import MetricsSeen, judge
from lightning_rules.watch.metric_numbers import Collected, Sums, Validation, summary


@pytest.mark.parametrize(
    ("name", "mode"),
    [
        *(
            (name, "max")
            for name in ("val_acc", "val/accuracy", "valAcc", "acc@1", "f1", "val_f1_macro", "mAP50", "R2")
        ),
        *((name, "max") for name in ("val_auroc", "mIoU", "precision/val", "test.Dice", "acc5", "psnr")),
        *((name, "min") for name in ("val_loss", "valLoss", "loss", "error_rate", "val/rmse", "dice_loss", "wer")),
        *((name, "min") for name in ("val_nll_epoch", "mse2", "perplexity", "iou_loss")),
        *((name, None) for name in ("neg_loss", "1-accuracy", "one_minus_f1", "score", "epoch", "elbo", "reward")),
        *((name, None) for name in ("step", "v", "mapping", "lossless", "accumulated", "accuracy_gap")),
    ],
)
def test_what_a_name_tells(name: str, mode: str | None) -> None:
    known = direction(name)
    assert (known[0] if known else None) == mode


def test_what_waits_for_the_wrong_end() -> None:
    seen = [Watcher("EarlyStopping", "val_acc", "min"), Watcher("ModelCheckpoint", "val_loss", "min")]
    (finding,) = judge_modes(seen)
    assert (finding.rule, finding.severity) == ("monitor-mode", Severity.WARNING)
    assert "EarlyStopping(monitor='val_acc', mode='min') takes the smallest value for the best" in finding.message
    assert finding.advice.startswith("Give EarlyStopping mode='max'")
    (finding,) = judge_modes(seen[1:])
    assert finding.severity is Severity.OK
    assert judge_modes([Watcher("EarlyStopping", "score", "min")]) == []


def run(
    reported: float, name: str = "val_acc", right: float = 240, last: float = 9, mean: float = 0.81, **more: Any
) -> Validation:
    """300 rows in 10 batches, the last of 12; 240 right, 9 of the last."""
    loss = Sums(300 * 0.7, 12 * 0.9, 0.72)
    values: dict[str, Any] = {
        "number": 1, "kind": "softmax", "batches": 10, "rows": 300.0, "last_rows": 12.0,
        "sums": {"accuracy": Sums(right, last, mean), "cross-entropy": loss},
        "macro": 0.78, "reported": {name: reported},
    }  # fmt: skip
    return Validation(**{**values, **more})


def told(*runs: Validation, **more: Any) -> list[tuple[str, Severity]]:
    return [(one.rule, one.severity) for one in judge([MetricsSeen(runs, **more)])]


LAST = [("metric-of-the-last-batch", Severity.ERROR)]
WHOLE = [("metric-of-the-last-batch", Severity.OK)]


@pytest.mark.parametrize(
    ("runs", "expected"),
    [
        ([run(0.75), run(0.75)], LAST),
        ([run(0.8), run(0.8)], WHOLE),
        ([run(0.2), run(0.2)], WHOLE),  # the error rate
        ([run(80.0), run(80.0)], WHOLE),
        ([run(75.0), run(75.0)], []),  # per cent, of a name that does not say so: see below
        ([run(0.25, "val_err"), run(0.25, "val_err")], LAST),
        ([run(0.75)], []),  # once may be chance
        ([run(0.75), run(0.8)], []),
        ([run(1.0, last=12), run(1.0, last=12)], []),  # all right, as many other metrics are
        ([run(0.75), run(1.0, last=12)], LAST),
        ([run(0.75, "val_f1"), run(1.0, "val_f1", last=12)], []),  # another metric has to agree twice
        ([run(0.75, "val_f1"), run(0.75, "val_f1")], LAST),
        ([run(0.9, "v"), run(0.9, "v")], LAST),  # the loss
        ([run(0.7, "v"), run(0.7, "v")], WHOLE),
        ([run(math.exp(0.9), "ppl"), run(math.exp(0.9), "ppl")], LAST),
        ([run(0.9, "v", batches=1), run(0.9, "v", batches=1)], []),
        ([run(0.81), run(0.81)], [("metric-of-batches", Severity.INFO)]),
        ([run(0.78), run(0.78)], []),  # the mean over classes
        ([run(0.1), run(0.1)], [("wrong-metric", Severity.WARNING)]),
        ([run(0.1)], []),
        ([run(0.83), run(0.83)], []),  # not far
        ([run(0.1, "val_top5_acc"), run(0.1, "val_top5_acc")], []),
        ([run(0.1, plain=False), run(0.1, plain=False)], []),
        ([run(math.nan), run(math.nan)], []),
    ],
)
def test_judgement(runs: list[Validation], expected: list[Any]) -> None:
    if runs[0].reported == {"val_acc": 75.0}:
        expected = LAST
    assert told(*runs) == expected


def test_the_numbers_are_told() -> None:
    (finding,) = judge([MetricsSeen((run(0.75), run(0.75)))])
    assert "`val_acc` is the accuracy of the last batch of a validation only: 0.75 of 12 rows" in finding.message
    assert "all 10 batches (300 rows) give 0.8" in finding.message
    assert "on_epoch=True" in finding.advice


def test_ranks() -> None:
    """A metric may be pooled, averaged, or a rank's own; a monitored one is the same everywhere."""
    other = run(0.7, right=210, last=6)
    for reported in (0.8, 0.75):  # this rank's, and the mean of both
        runs = (run(reported, last=8), run(reported, last=8))
        assert [one.severity for one in judge([MetricsSeen(runs), MetricsSeen((other, other))])] == [Severity.OK]
    runs = (run(0.625), run(0.625))  # 15 of 24
    assert [one.rule for one in judge([MetricsSeen(runs), MetricsSeen((other, other))])] == [LAST[0][0]]
    seen = MetricsSeen(monitored=("val_loss",), values={"val_loss": 0.5})
    (finding,) = judge([seen, replace(seen, values={"val_loss": 0.6})])
    assert (finding.rule, finding.severity) == ("unsynchronised-metric", Severity.WARNING)
    assert "0.5 to 0.6" in finding.message
    assert judge([seen, seen]) == []
    (finding,) = judge([MetricsSeen(padding=(3, 97)), MetricsSeen(padding=(3, 97))])
    assert (finding.rule, finding.severity) == ("padded-metric", Severity.INFO)
    assert judge([MetricsSeen(padding=(0, 97))]) == []


def test_a_validation_adds_up() -> None:
    collected = Collected(1, "softmax", True)
    outputs, targets = torch.eye(3)[[0, 1, 2, 0]], torch.tensor([0, 1, 1, -1])
    collected.add(Answers("softmax", outputs, targets))
    collected.add(Answers("softmax", outputs[:1], targets[:1]))
    seen = summary(collected.reading({"val_acc": torch.tensor(0.75)}) or {})
    assert (seen.batches, seen.rows, seen.last_rows) == (2, 4.0, 1.0)
    assert (seen.sums["accuracy"].total, seen.sums["accuracy"].last) == (3.0, 1.0)
    assert seen.sums["cross-entropy"].last == pytest.approx(float(F.cross_entropy(outputs[:1], targets[:1])))
    assert seen.macro == pytest.approx((1 + 1 / 2) / 2)
    collected.add(None)
    assert collected.reading({}) is None, "a batch without answers spoils the whole"


class Model(L.LightningModule):
    """Accuracy and loss as self.log weights them."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 10))

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        return F.cross_entropy(self.net(batch[0]), batch[1])

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        logits = self.net(batch[0])
        self.log("val_loss", F.cross_entropy(logits, batch[1]), on_step=True, on_epoch=True)
        self.log("val_acc", (logits.argmax(1) == batch[1]).float().mean())

    def configure_optimizers(self) -> Any:
        return torch.optim.Adam(self.parameters(), 1e-3)


class LastKept(Model):
    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self.acc = (self.net(batch[0]).argmax(1) == batch[1]).float().mean()

    def on_validation_epoch_end(self) -> None:
        self.log("val_acc", self.acc)


class ResetEachBatch(Model):
    """A torchmetrics object that begins anew in each batch."""

    def __init__(self) -> None:
        super().__init__()
        self.acc = MulticlassAccuracy(10, average="micro")

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self.acc.reset()
        self.acc.update(self.net(batch[0]), batch[1])

    def on_validation_epoch_end(self) -> None:
        self.log("val/accuracy", self.acc.compute())


class LastLoss(Model):
    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self.loss = F.cross_entropy(self.net(batch[0]), batch[1])

    def on_validation_epoch_end(self) -> None:
        self.log("metric", self.loss)


class WrongDimension(Model):
    def validation_step(self, batch: Any, batch_idx: int) -> None:
        labels = self.net(batch[0]).argmax(0)
        self.log("val_acc", (labels[: len(batch[1])] == batch[1][: len(labels)]).float().mean())


class Torchmetrics(Model):
    """The mean over classes, which is torchmetrics' default, and F1."""

    def __init__(self) -> None:
        super().__init__()
        self.acc, self.f1 = MulticlassAccuracy(10), MulticlassF1Score(10)

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        logits = self.net(batch[0])
        self.acc(logits, batch[1])
        self.f1(logits, batch[1])
        self.log_dict({"val_acc": self.acc, "val_f1": self.f1})


class Regression(Model):
    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Linear(10, 32), nn.ReLU(), nn.Linear(32, 1))

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        return F.mse_loss(self.net(batch[0]).squeeze(1), batch[1])

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self.log("val_mse", F.mse_loss(self.net(batch[0]).squeeze(1), batch[1]))


class LastRoot(Regression):
    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self.root = F.mse_loss(self.net(batch[0]).squeeze(1), batch[1]).sqrt()

    def on_validation_epoch_end(self) -> None:
        self.log("val_rmse", self.root)


def loaders(module: L.LightningModule) -> tuple[DataLoader, DataLoader]:
    if isinstance(module, Regression):
        bunch = load_diabetes()
        inputs = torch.tensor(bunch.data, dtype=torch.float32) * 20
        targets = torch.tensor((bunch.target - 150) / 77, dtype=torch.float32)
    else:
        bunch = load_digits()
        inputs, targets = torch.tensor(bunch.data, dtype=torch.float32) / 8 - 1, torch.tensor(bunch.target)
    train, held_out = TensorDataset(inputs[:300], targets[:300]), TensorDataset(inputs[300:440], targets[300:440])
    return DataLoader(train, 16, shuffle=True), DataLoader(held_out, 32)  # the last batch has 12


def fit(module: L.LightningModule, callbacks: list[Any], epochs: int = 4, **options: Any) -> L.Trainer:
    quiet = dict.fromkeys(("logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary"), False)
    trainer = L.Trainer(accelerator="cpu", max_epochs=epochs, callbacks=callbacks, **{**quiet, **options})
    trainer.fit(module, *loaders(module))
    return trainer


def findings(make: Any, *others: Any, **options: Any) -> list[Finding]:
    torch.manual_seed(0)
    module, rule = make(), MetricAudit()
    fit(module, [rule, *others], **options)
    assert not any(part._forward_pre_hooks or part._forward_hooks for part in module.modules())
    return rule.findings


def alarms(found: list[Finding]) -> list[str]:
    return [finding.rule for finding in found if finding.severity >= Severity.WARNING]


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("make", [LastKept, ResetEachBatch, LastLoss, LastRoot], ids=str)
def test_fires_on_the_last_batch(make: Any) -> None:
    assert alarms(findings(make)) == ["metric-of-the-last-batch"]


@pytest.mark.filterwarnings("ignore")
def test_fires_on_what_is_no_accuracy() -> None:
    (finding,) = [one for one in findings(WrongDimension) if one.severity >= Severity.WARNING]
    assert finding.rule == "wrong-metric"
    assert "argmax" in finding.advice


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("make", [Model, Torchmetrics, Regression], ids=str)
def test_silent_on_honest_twins(make: Any) -> None:
    found = findings(make)
    assert alarms(found) == []
    assert not [finding for finding in found if "failed with" in finding.message]


@pytest.mark.filterwarnings("ignore")
def test_says_which_metrics_are_what_they_say() -> None:
    found = findings(Model)
    said = {finding.evidence["metric"]: finding.message for finding in found if finding.severity is Severity.OK}
    assert set(said) == {"val_acc", "val_loss", "val_loss_epoch"}
    assert "the accuracy of the whole validation set" in said["val_acc"]


@pytest.mark.filterwarnings("ignore")
def test_a_mode_is_judged_before_the_first_step(tmp_path: Any) -> None:
    waits = ModelCheckpoint(tmp_path, monitor="val_acc")  # whose default is the minimum
    (finding,) = [one for one in findings(Model, waits, enable_checkpointing=True, max_steps=1) if one.advice]
    assert (finding.rule, finding.step) == ("monitor-mode", 0)


@pytest.mark.filterwarnings("ignore")
def test_leaves_no_trace() -> None:
    ends = []
    for rules in ([], [MetricAudit()]):
        torch.manual_seed(0)
        module = Torchmetrics()
        trainer = fit(module, rules, 2)
        ends.append((module.state_dict(), trainer.callback_metrics, torch.get_rng_state()))
    (weights, metrics, state), (weights_, metrics_, state_) = ends
    assert all(torch.equal(value, weights_[name]) for name, value in weights.items())
    assert all(torch.equal(value, metrics_[name]) for name, value in metrics.items())
    assert torch.equal(state, state_)


@pytest.mark.filterwarnings("ignore")
def test_what_was_seen_survives_a_resume(tmp_path: Any) -> None:
    torch.manual_seed(0)
    saves = ModelCheckpoint(tmp_path, "first")
    fit(LastKept(), [MetricAudit(), saves], 1, enable_checkpointing=True)
    rule, module = MetricAudit(), LastKept()
    quiet = dict.fromkeys(("logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary"), False)
    trainer = L.Trainer(accelerator="cpu", max_epochs=2, callbacks=[rule], **quiet)
    trainer.fit(module, *loaders(module), ckpt_path=tmp_path / "first.ckpt")
    assert alarms(rule.findings) == ["metric-of-the-last-batch"], "one validation before, one after"
