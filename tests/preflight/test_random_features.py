"""random-features: the judgement on numbers, then networks that keep their inputs and networks that lose them."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import lightning.pytorch as L
import pytest
import torch
import torch.nn.functional as F
from sklearn.datasets import load_diabetes, load_digits
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from lightning_rules import Finding, RandomFeatures, Severity
from lightning_rules.preflight.linear_probe import constant, probe
from lightning_rules.preflight.random_features import ProbeSeen, judge_probes


class Mixed(nn.Module):
    """A reshape that mixes the examples of the batch."""

    def forward(self, x: Tensor) -> Tensor:
        return x.T.reshape(x.shape)


def network(kind: str) -> nn.Module:
    broken = {"mixed": Mixed(), "lost": nn.Threshold(1e9, 0.0)}.get(kind, nn.Identity())
    if kind == "convolutional":
        layers = [nn.Conv2d(1, 16, 3), nn.BatchNorm2d(16), nn.ReLU(), nn.AdaptiveAvgPool2d(3), nn.Flatten()]
        return nn.Sequential(nn.Unflatten(1, (1, 8, 8)), *layers, nn.Linear(144, 10))
    return nn.Sequential(nn.Linear(64, 48), broken, nn.ReLU(), nn.Linear(48, 10))


class Model(L.LightningModule):
    def __init__(self, net: nn.Module, loss: Any = F.cross_entropy) -> None:
        super().__init__()
        self.net, self.loss = net, loss

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        loss: Tensor = self.loss(self.net(batch[0]), batch[1])
        return loss

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        pass

    def configure_optimizers(self) -> Any:
        return torch.optim.Adam(self.parameters(), 1e-3)


def digits(part: slice) -> DataLoader[Any]:
    bunch = load_digits()
    inputs = torch.tensor(bunch.data[part], dtype=torch.float32) / 8 - 1
    return DataLoader(TensorDataset(inputs, torch.tensor(bunch.target[part])), 64, shuffle=part.start is None)


def fit(model: Any, train: Any, validate: Any = None, rule: RandomFeatures | None = None) -> tuple[Any, list[Finding]]:
    trainer = L.Trainer(
        accelerator="cpu",
        max_epochs=2 if rule is None or validate is not None else 1,
        callbacks=[] if rule is None else [rule],
        enable_model_summary=False,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
    )
    L.seed_everything(1, verbose=False)
    trainer.fit(model, train, validate)
    return trainer, [] if rule is None else rule.findings


def found(model: Any, *data: Any) -> Finding:
    (finding,) = fit(model, *data, rule=RandomFeatures(budget=None))[1]
    return finding


@pytest.mark.parametrize("kind", ["convolutional", "plain"])
def test_random_features_are_told(kind: str) -> None:
    finding = found(Model(network(kind)), digits(slice(None, 640)), digits(slice(640, 960)))
    assert finding.severity is Severity.INFO
    assert "on 320 other examples" in finding.message
    assert finding.evidence["constant"] > 0.8  # errors
    assert finding.evidence["random"] < 0.3
    assert finding.evidence["raw"] < 0.2


@pytest.mark.parametrize("kind", ["mixed", "lost"])
def test_a_network_that_loses_its_inputs(kind: str) -> None:
    finding = found(Model(network(kind)), digits(slice(None, 640)), digits(slice(640, 960)))
    assert finding.severity is Severity.WARNING
    assert finding.evidence["random"] > 0.8 > 0.2 > finding.evidence["raw"]
    assert "time step or dimension" in finding.advice


def test_weights_are_drawn_anew_and_trained_ones_do_not_count() -> None:
    model = Model(network("plain"))
    nn.init.zeros_(model.net[0].weight)
    assert found(model, digits(slice(None, 640)), digits(slice(640, 960))).severity is Severity.INFO
    assert not model.net[0].weight.eq(0).all()  # trained since, from zero


def test_what_cannot_be_drawn_anew_is_named() -> None:
    class Scaled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.scale = nn.Parameter(torch.ones(48))

        def forward(self, x: Tensor) -> Tensor:
            return x * self.scale

    model = Model(nn.Sequential(nn.Linear(64, 48), Scaled(), nn.ReLU(), nn.Linear(48, 10)))
    assert "; 1 module keeps its weights, `net.1` the first." in found(model, digits(slice(None, 320))).message


def test_regression_without_validation() -> None:
    data = load_diabetes()
    inputs, targets = torch.tensor(data.data).float() * 20, torch.tensor(data.target).float()[:, None]
    net = nn.Sequential(nn.Linear(10, 32), nn.ReLU(), nn.Linear(32, 1))
    finding = found(Model(net, F.mse_loss), DataLoader(TensorDataset(inputs, (targets - 152) / 77), 32))
    assert finding.severity is Severity.INFO
    assert "on 110 other examples" in finding.message
    assert finding.evidence["raw"] < 0.8 * finding.evidence["constant"]


def test_a_last_layer_that_is_none() -> None:
    step = lambda output, target: F.cross_entropy(output.exp(), target)  # noqa: E731
    finding = found(Model(network("plain"), step), digits(slice(None, 128)))
    assert "Does not apply: no linear last layer feeds one of torch's loss functions" in finding.message


def test_no_trace() -> None:
    ends = []
    for rule in (None, RandomFeatures(budget=None)):
        L.seed_everything(2, verbose=False)
        model = Model(network("convolutional"))
        trainer, _ = fit(model, digits(slice(None, 192)), digits(slice(640, 704)), rule)
        ends.append((model.state_dict(), trainer.optimizers[0].state_dict(), torch.rand(3)))
    torch.testing.assert_close(ends[0], ends[1], rtol=0, atol=0)


SEEN = ProbeSeen("fc", "softmax", 64, 1000, 400, 360.0, 80.0, (280.0, 280.0), 40.0, (320.0, 320.0), ())


@pytest.mark.parametrize(
    ("seen", "severity", "words"),
    [
        (SEEN, Severity.INFO, "reach accuracy 80.0% on 400 other examples; a constant 10.0%"),
        (replace(SEEN, random=358.0, random_gain=(2.0, 40.0)), Severity.WARNING, "accuracy 10.5%"),
        (replace(SEEN, random=358.0, random_gain=(2.0, 40.0), raw=None), Severity.INFO, "raw inputs were not probed"),
        (
            replace(SEEN, random=358.0, random_gain=(2.0, 40.0), raw=350.0, raw_gain=(10.0, 60.0)),
            Severity.INFO,
            "12.5%",
        ),
        (replace(SEEN, kind="mean", kept=("a", "b")), Severity.INFO, "squared error 0.2 on 400"),
    ],
)
def test_judgement(seen: ProbeSeen, severity: Severity, words: str) -> None:
    finding = judge_probes([seen])
    assert finding.severity is severity
    assert words in finding.message
    together = judge_probes([seen, seen])
    assert together.evidence["examples"] == 800
    assert together.evidence["random"] == finding.evidence["random"]


def test_probe_finds_a_linear_rule_and_refuses_noise() -> None:
    generator = torch.Generator().manual_seed(0)
    features = torch.randn(600, 200, generator=generator)
    labels = (features[:, 3] > 0).long()
    train, evaluate = slice(None, 300), slice(300, None)
    rule = probe("softmax", 2, (features[train], labels[train]), (features[evaluate], labels[evaluate]))
    assert rule.mean() < 0.25
    noise = torch.randn(600, 1, generator=generator)
    fitted = probe("mean", 1, (features[train], noise[train]), (features[evaluate], noise[evaluate]))
    nothing = constant("mean", 1, noise[train], noise[evaluate])
    assert fitted.mean() < 1.1 * nothing.mean()
    assert nothing.mean() == pytest.approx(float(((noise[evaluate] - noise[train].mean()) ** 2).mean()), rel=1e-3)
