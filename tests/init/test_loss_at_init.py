"""loss-at-init: the judgement on numbers, then planted bugs and their healthy twins in real fits."""

from __future__ import annotations

from typing import Any

import lightning.pytorch as L
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from sklearn.datasets import load_breast_cancer, load_diabetes, load_digits
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from lightning_rules import LastLayerBiasInit, LossAtInit, Severity
from lightning_rules.init.loss_at_init import LossSeen, judge, judge_ranks


def seen(
    loss: float, prior: float, zero: float | None = None, spread: float = 0.1, n: int = 128, **more: Any
) -> LossSeen:
    zero = prior if zero is None else zero
    squared = n * ((loss - prior) ** 2 + spread**2)
    rms = more.pop("input_rms", 1.0)
    return LossSeen(n, n * loss, n * prior, n * zero, squared, input_square=n * rms**2, **more)


@pytest.mark.parametrize(
    ("kind", "numbers", "severity", "words"),
    [
        ("softmax", seen(2.31, 2.30), Severity.OK, "starts at 2.31; the prior of the labels alone reaches 2.3."),
        ("softmax", seen(2.9, 2.30), Severity.OK, "starts at 2.9"),
        ("softmax", seen(6.0, 2.30), Severity.INFO, "the outputs start large"),
        ("softmax", seen(6.0, 2.30, input_rms=95.0), Severity.WARNING, "root mean square of 95 where about 1 is usual"),
        ("softmax", seen(2.4, 2.30, input_rms=95.0), Severity.OK, "a batch norm stands behind unnormalised inputs"),
        ("softmax", seen(40.0, 2.30), Severity.WARNING, "an output of zeros 2.3"),
        ("softmax", seen(40.0, 2.30, spread=400.0), Severity.WARNING, "gross is gross whatever the noise"),
        ("softmax", seen(4.0, 2.30, spread=20.0, input_rms=95.0), Severity.OK, "the noise of the batches allows it"),
        ("softmax", seen(1.2, 2.30), Severity.INFO, "the network knows something already"),
        ("sigmoid", seen(0.69, 0.24, zero=0.69), Severity.INFO, "has not been told the prior"),
        ("sigmoid", seen(0.25, 0.24, zero=0.69), Severity.OK, "reaches 0.24"),
        ("softmax", seen(float("nan"), 2.30), Severity.ERROR, "a finite number was expected"),
        ("softmax", seen(float("inf"), 2.30), Severity.ERROR, "a finite number was expected"),
        ("mean", seen(1.2, 1.0), Severity.OK, "starts at 1.2"),
        ("mean", seen(140.0, 1.0), Severity.INFO, "the outputs start large"),
        ("mean", seen(900.0, 1.0), Severity.WARNING, "Scale the initial weights down"),
        ("mean", seen(29_000.0, 5_900.0, zero=29_000.0), Severity.INFO, "LastLayerBiasInit sets the bias"),
        ("mean", seen(0.3, 0.0, zero=1.0), Severity.INFO, "the targets do not vary"),
    ],
)
def test_judgement_of_the_start(kind: Any, numbers: LossSeen, severity: Severity, words: str) -> None:
    (finding,) = judge("cross_entropy", kind, numbers)
    assert finding.severity is severity, finding.message
    if severity is not Severity.OK and "gross" not in words:
        assert words in f"{finding.message} {finding.advice}"
    assert finding.rule == "loss-at-init"
    assert bool(finding.advice) == (severity >= Severity.WARNING) or severity is Severity.INFO


@pytest.mark.parametrize(
    ("returned", "flat", "severity", "words"),
    [
        (1.0, 0.0, Severity.OK, ""),
        (1.7, 0.0, Severity.OK, ""),  # a regulariser is added
        (0.25, 0.0, Severity.OK, ""),  # divided by the number of accumulated batches
        (-1.0, 0.0, Severity.ERROR, "the negative of cross_entropy"),
        (-0.4, 0.0, Severity.OK, ""),  # other terms are negative
        (1e-6, 0.0, Severity.WARNING, "1.0e-06 times cross_entropy"),
        (0.43, 1.0, Severity.ERROR, "without gradient"),
    ],
)
def test_judgement_of_what_is_returned(returned: float, flat: float, severity: Severity, words: str) -> None:
    numbers = seen(2.31, 2.30, batches=4.0, returned=4 * returned, flat=4 * flat)
    (finding,) = judge("cross_entropy", "softmax", numbers)
    assert finding.severity is severity
    assert words in finding.message


def test_what_ranks_saw_adds_up() -> None:
    key = (0, "cross_entropy", "softmax")
    halves = [{key: seen(2.0, 2.3)}, {key: seen(2.6, 2.3)}]
    (finding,) = judge_ranks(halves)
    assert finding.evidence["loss"] == pytest.approx(2.3)
    assert finding.evidence["examples"] == 256
    assert judge_ranks(halves) == judge_ranks(halves[::-1])


class Model(L.LightningModule):
    def __init__(self, net: nn.Module, loss: Any) -> None:
        super().__init__()
        self.net, self.loss = net, loss

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        return self.loss(self.net(batch[0]), batch[1])

    def configure_optimizers(self) -> Any:
        return torch.optim.Adam(self.parameters(), 1e-3)


def findings(net: nn.Module, loss: Any, data: Any, rules: Any = None) -> list[Any]:
    rules = rules or [LossAtInit()]
    quiet = dict.fromkeys(("logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary"), False)
    trainer = L.Trainer(accelerator="cpu", max_steps=1, callbacks=rules, **quiet)
    trainer.fit(Model(net, loss), DataLoader(TensorDataset(*data), 32, shuffle=True))
    return list(rules[-1].findings)


def standardised(values: Any) -> Tensor:
    values = np.asarray(values, dtype=np.float32)
    return torch.tensor((values - values.mean(0)) / (values.std(0) + 1e-3))


def digits() -> tuple[Tensor, Tensor]:
    bunch = load_digits()
    return standardised(bunch.data), torch.tensor(bunch.target)


def mlp(inputs: int = 64, outputs: int = 10, scale: float = 1.0) -> nn.Module:
    net = nn.Sequential(nn.Linear(inputs, 64), nn.ReLU(), nn.Linear(64, outputs))
    net[2].weight.data.mul_(scale)
    return net


def raw_pixels() -> tuple[Tensor, Tensor]:
    bunch = load_digits()
    return torch.tensor(bunch.data * 255 / 16, dtype=torch.float32), torch.tensor(bunch.target)


def row(o: Tensor) -> Tensor:
    return o[:, 0]


CE = F.cross_entropy
PLANTED = {
    "pixels-x255": (mlp, CE, raw_pixels, Severity.WARNING, "Normalise the inputs"),
    "head-x1000": (lambda: mlp(scale=1000.0), CE, digits, Severity.WARNING, "Scale the initial weights down"),
    "flipped-sign": (mlp, lambda o, t: -CE(o, t), digits, Severity.ERROR, "with its sign"),
    "scaled-away": (mlp, lambda o, t: 1e-6 * CE(o, t), digits, Severity.WARNING, "unscaled"),
    "clamped": (mlp, lambda o, t: CE(o, t).clamp(max=1.0), digits, Severity.ERROR, "clamp"),
    "log-of-zero": (mlp, lambda o, t: F.nll_loss((o.softmax(1) * 0).log(), t), digits, Severity.ERROR, "logarithm"),
}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("bug", PLANTED)
@pytest.mark.parametrize("seed", range(2))
def test_fires_on_a_planted_bug(bug: str, seed: int) -> None:
    torch.manual_seed(seed)
    net, loss, data, severity, advice = PLANTED[bug]
    (finding,) = findings(net(), loss, data())
    assert finding.severity is severity, finding.message
    assert advice in finding.advice


def cancer() -> tuple[Tensor, Tensor]:
    bunch = load_breast_cancer()
    return standardised(bunch.data), torch.tensor(bunch.target, dtype=torch.float32)


def diabetes() -> tuple[Tensor, Tensor]:
    bunch = load_diabetes()
    return standardised(bunch.data), standardised(bunch.target)


def imbalanced() -> tuple[Tensor, Tensor]:
    inputs, labels = digits()
    return inputs, (labels == 0).long()


def raw() -> tuple[Tensor, Tensor]:
    return torch.tensor(load_digits().data, dtype=torch.float32), digits()[1]


BALANCED = torch.tensor([0.55, 5.0])
HEALTHY = {
    "mlp": (mlp, CE, digits),
    "smoothing": (mlp, lambda o, t: CE(o, t, label_smoothing=0.1), digits),
    "sum": (mlp, lambda o, t: CE(o, t, reduction="sum"), digits),
    "regularised": (mlp, lambda o, t: CE(o, t) + 0.01 * o.square().mean(), digits),
    "logistic-regression": (lambda: nn.Linear(64, 10), CE, digits),
    "raw-behind-batch-norm": (lambda: nn.Sequential(nn.BatchNorm1d(64), mlp()), CE, raw),
    "imbalance": (lambda: mlp(outputs=2), CE, imbalanced),
    "class-weights": (lambda: mlp(outputs=2), lambda o, t: CE(o, t, weight=BALANCED), imbalanced),
    "breast-cancer": (
        lambda: mlp(30, 1),
        lambda o, t: F.binary_cross_entropy_with_logits(row(o), t),
        cancer,
    ),
    "diabetes": (lambda: mlp(10, 1), lambda o, t: F.mse_loss(row(o), t), diabetes),
    "absolute": (lambda: mlp(10, 1), lambda o, t: F.l1_loss(row(o), t), diabetes),
    "zero-head": (lambda: mlp(scale=0.0), CE, digits),
}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("twin", HEALTHY)
@pytest.mark.parametrize("rules", [[LossAtInit], [LastLayerBiasInit, LossAtInit]], ids=["alone", "with-bias-init"])
def test_silent_on_healthy_twins(twin: str, rules: Any) -> None:
    for seed in range(3):
        torch.manual_seed(seed)
        net, loss, data = HEALTHY[twin]
        (finding,) = findings(net(), loss, data(), [rule() for rule in rules])
        assert finding.severity <= Severity.INFO, finding.message
        if len(rules) == 2:
            assert finding.severity is Severity.OK, finding.message


def test_the_prior_is_the_effective_one() -> None:
    """With balancing class weights the expected loss is ln 2, not the entropy of a 9:1 prior."""
    torch.manual_seed(0)
    inputs, labels = imbalanced()
    weight = (1 / torch.bincount(labels)).float()
    (finding,) = findings(mlp(outputs=2), lambda o, t: CE(o, t, weight=weight), (inputs, labels))
    ratio = finding.evidence["prior_loss"] / finding.evidence["zero_output_loss"]
    assert ratio == pytest.approx(1.0, abs=0.01)


def test_error_can_stop_the_run() -> None:
    with pytest.raises(RuntimeError, match="loss-at-init: training_step returns the negative of cross_entropy"):
        findings(mlp(), lambda o, t: -CE(o, t), digits(), [LossAtInit(on_error="raise")])
