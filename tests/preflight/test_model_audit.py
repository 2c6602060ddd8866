"""model-audit: planted bugs and their healthy twins in real fits, and what a fit keeps of it: nothing."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import lightning.pytorch as L
import pytest
import torch
import torch.nn.functional as F
from sklearn.datasets import load_diabetes, load_digits
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from lightning_rules import ModelAudit, Severity

QUIET = dict.fromkeys(("logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary"), False)


def standardised(values: Any) -> Tensor:
    values = torch.as_tensor(values, dtype=torch.float32)
    return (values - values.mean(0)) / (values.std(0) + 1e-3)


DIGITS = standardised(load_digits().data), torch.tensor(load_digits().target)
IMAGES = DIGITS[0].view(-1, 1, 8, 8), DIGITS[1]
DIABETES = standardised(load_diabetes().data), standardised(load_diabetes().target)


class Model(L.LightningModule):
    def __init__(self, net: nn.Module, loss: Callable[[Any, Tensor, Tensor], Tensor], optimiser: Any = None) -> None:
        super().__init__()
        self.net, self.loss = net, loss
        self.optimiser = optimiser or torch.optim.Adam

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x)

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        return self.loss(self, *batch)

    def configure_optimizers(self) -> Any:
        return self.optimiser([p for p in self.parameters() if p.requires_grad], lr=1e-3)


class After(nn.Module):
    """A network and what is done to its output."""

    def __init__(self, net: nn.Module, after: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.net, self.after = net, after

    def forward(self, x: Tensor) -> Tensor:
        return self.after(self.net(x))


def mlp(
    inputs: int = 64, outputs: int = 10, *, norm: bool = False, drop: float = 0.0, layers: int = 1
) -> nn.Sequential:
    parts: list[nn.Module] = []
    for place in range(layers):
        parts += [nn.Linear(64 if place else inputs, 64), *([nn.BatchNorm1d(64)] if norm else []), nn.ReLU()]
        parts += [nn.Dropout(drop)] if drop else []
    return nn.Sequential(*parts, nn.Linear(64, outputs))


def cnn() -> nn.Sequential:
    return nn.Sequential(
        *(nn.Conv2d(1, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU()),
        *(nn.Conv2d(16, 16, 3, padding=1, groups=16), nn.Conv2d(16, 32, 1), nn.ReLU()),  # separable: healthy
        *(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(32, 10)),
    )


def filled(net: nn.Module, value: float) -> nn.Module:
    for parameter in net.parameters():
        nn.init.constant_(parameter, value)
    return net


def with_bias(net: nn.Sequential, value: float) -> nn.Sequential:
    nn.init.constant_(net[0].bias, value)
    return net


class Residual(nn.Module):
    """Branches closed at the start by a last layer of zeros."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.head = nn.Linear(64, 64), nn.Linear(64, 10)
        self.branches = nn.ModuleList(mlp(64, 64) for _ in range(3))
        for branch in self.branches:
            filled(branch[-1], 0.0)

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        for branch in self.branches:
            x = x + branch(x)
        return self.head(x)


class LowRank(nn.Module):
    """A frozen layer with a low-rank update whose second factor is zero."""

    def __init__(self) -> None:
        super().__init__()
        self.base = nn.Linear(64, 64).requires_grad_(False)
        self.down, self.up, self.head = nn.Linear(64, 4), nn.Linear(4, 64), nn.Linear(64, 10)
        filled(self.up, 0.0)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.relu(self.base(x) + self.up(self.down(x))))


class Attention(nn.Module):
    """Projections that feed three layers, without positions, norm or residual."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.query, self.key, self.value, self.out = (nn.Linear(n, 32) for n in (8, 32, 32, 32, 32))
        self.head = nn.Linear(32, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.embed(x.view(-1, 8, 8))
        weights = torch.softmax(self.query(x) @ self.key(x).transpose(1, 2) / 32**0.5, -1)
        return self.head(self.out(weights @ self.value(x))[:, 0])


class Variational(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.encoder, self.decoder = mlp(64, 16), mlp(8, 64)

    def forward(self, x: Tensor) -> Tensor:
        mean, log_variance = self.encoder(x).chunk(2, 1)
        return self.decoder(mean + torch.randn_like(mean) * torch.exp(log_variance / 2))


class Reader(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.rnn, self.head = nn.LSTM(8, 32, batch_first=True), nn.Linear(32, 10)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.rnn(x.view(-1, 8, 8))[0][:, -1])


def always_dropping(output: Tensor) -> Tensor:
    return F.dropout(output, 0.3)


def root_of_zero(output: Tensor) -> Tensor:
    return output + torch.sqrt((output - output.detach()) ** 2)


def entropy(self: Any, x: Tensor, y: Tensor) -> Tensor:
    return F.cross_entropy(self(x), y)


def weightless(self: Any, x: Tensor, y: Tensor) -> Tensor:
    return F.cross_entropy(self(x), y, weight=torch.tensor([0.0] + [1.0] * 9))


def with_hinge(self: Any, x: Tensor, y: Tensor) -> Tensor:
    """A margin that all examples meet: off, but no unit."""
    output = self(x)
    return F.cross_entropy(output, y) + F.relu(output.repeat(1, 8) - 100).mean()


def squared(self: Any, x: Tensor, y: Tensor) -> Tensor:
    return F.mse_loss(self(x), y)


def squared_column(self: Any, x: Tensor, y: Tensor) -> Tensor:
    return F.mse_loss(self(x), y[:, None])


def by_hand(self: Any, x: Tensor, y: Tensor) -> Tensor:
    return ((y - self(x)) ** 2).mean()


def one_hot(self: Any, x: Tensor, y: Tensor) -> Tensor:
    return F.mse_loss(self(x), F.one_hot(y, 10).float())


def summed(self: Any, x: Tensor, y: Tensor) -> Tensor:
    return F.cross_entropy(self(x), y, reduction="none").sum()


def halved_sum(self: Any, x: Tensor, y: Tensor) -> Tensor:
    return F.cross_entropy(self(x), y, reduction="sum") / len(y)


def likelihood(self: Any, x: Tensor, y: Tensor) -> Tensor:
    return F.nll_loss(self(x), y)


def reconstruction(self: Any, x: Tensor, y: Tensor) -> Tensor:
    return F.mse_loss(self(x), x, reduction="sum")


def fast(parameters: Any, lr: float) -> Any:
    return torch.optim.SGD(parameters, lr=0.1, momentum=0.9)


def audit(net: nn.Module, loss: Any, data: Any = DIGITS, optimiser: Any = None, batch: int = 32) -> list[Any]:
    rule = ModelAudit(budget=None)
    trainer = L.Trainer(accelerator="cpu", max_steps=1, callbacks=[rule], **QUIET)
    trainer.fit(Model(net, loss, optimiser), DataLoader(TensorDataset(*data), batch, shuffle=True))
    return rule.findings


def alarms(findings: list[Any]) -> list[Any]:
    return [finding for finding in findings if finding.severity >= Severity.WARNING]


PLANTED: dict[str, tuple[Callable[[], list[Any]], str, str]] = {
    "softmax": (lambda: audit(After(mlp(), lambda o: o.softmax(1)), entropy), "right-loss", "of a softmax"),
    "own softmax": (
        lambda: audit(After(mlp(), lambda o: o.exp() / o.exp().sum(1, keepdim=True)), entropy),
        *("right-loss", "sum 1"),
    ),
    "softmax over batch": (
        lambda: audit(After(mlp(), lambda o: o.softmax(0)), entropy),
        "right-loss",
        "over the batch",
    ),
    "log over batch": (
        lambda: audit(After(mlp(), lambda o: torch.log(o.softmax(0))), likelihood),
        *("right-loss", "over the batch"),
    ),
    "weightless class": (lambda: audit(mlp(), weightless), "right-loss", "weigh nothing"),
    "no log-softmax": (lambda: audit(mlp(), likelihood), "right-loss", "the log-softmax is missing"),
    "one-hot": (lambda: audit(After(mlp(), lambda o: o.softmax(1)), one_hot), "right-loss", "one-hot labels of 10"),
    "relu head": (
        lambda: audit(After(mlp(10, 1), torch.relu), squared_column, DIABETES),
        *("right-loss", "where a relu output cannot get"),
    ),
    "broadcast": (
        lambda: audit(mlp(10, 1), squared, DIABETES),
        "silent-broadcast",
        "(32, 1) with targets of shape (32,)",
    ),
    "own broadcast": (lambda: audit(mlp(10, 1), by_hand, DIABETES), "silent-broadcast", "pairs every example"),
    "sum": (lambda: audit(mlp(), summed, optimiser=fast), "summed-loss", "steps as at 3.2 with a mean"),
    "batch of 2": (lambda: audit(cnn(), entropy, IMAGES, batch=2), "tiny-batch-norm", "over 2 examples a device"),
    "no activation": (
        lambda: audit(nn.Sequential(nn.Linear(64, 64), nn.Dropout(0.1), nn.Linear(64, 10)), entropy),
        *("missing-nonlinearity", "`net.0` (64 to 64) and `net.2` (64 to 10)"),
    ),
    "deep": (
        lambda: audit(nn.Sequential(*[p for _ in range(18) for p in (nn.Linear(64, 64), nn.Sigmoid())]), entropy),
        *("depth", "The gradient vanishes"),
    ),
    "zeros": (lambda: audit(filled(mlp(layers=2), 0.0), entropy), "symmetric-init", "only biases can move"),
    "constant": (lambda: audit(filled(mlp(layers=2, drop=0.5), 0.1), entropy), "symmetric-init", "1 distinct rows"),
    "dead": (
        lambda: audit(with_bias(mlp(), -10.0), entropy),
        "dead-units",
        "100% of the 64 units of the ReLU in `net.1`",
    ),
    "root": (lambda: audit(After(mlp(), root_of_zero), entropy), "non-finite-start", "gradients of 4 of 4 parameters"),
    "always on": (lambda: audit(After(mlp(), always_dropping), entropy), "stochastic-evaluation", "dropout (30%)"),
    "dropout": (lambda: audit(mlp(drop=0.9), entropy), "dropout", "drops 90% of its values"),
}
HEALTHY: dict[str, Callable[[], list[Any]]] = {
    "logits": lambda: audit(mlp(norm=True, drop=0.3), entropy),
    "log-softmax": lambda: audit(After(mlp(), lambda o: F.log_softmax(o, 1)), likelihood),
    "one-hot logits": lambda: audit(mlp(), one_hot),
    "regression": lambda: audit(mlp(10, 1), squared_column, DIABETES),
    "regression by hand": lambda: audit(After(mlp(10, 1), lambda o: o.squeeze(1)), by_hand, DIABETES),
    "heads": lambda: audit(mlp(10, 5), squared_column, DIABETES),
    "sum over the batch's size": lambda: audit(mlp(), halved_sum, optimiser=fast),
    "sum, Adam": lambda: audit(mlp(), summed),
    "separable": lambda: audit(cnn(), entropy, IMAGES),
    "bottleneck": lambda: audit(nn.Sequential(nn.Linear(64, 8), nn.Linear(8, 64)), reconstruction),
    "zero branches": lambda: audit(Residual(), entropy),
    "low rank": lambda: audit(LowRank(), entropy),
    "attention": lambda: audit(Attention(), entropy),
    "variational": lambda: audit(Variational(), reconstruction),
    "zero head": lambda: audit(nn.Sequential(*mlp()[:-1], filled(nn.Linear(64, 10), 0.0)), entropy),
    "recurrent": lambda: audit(Reader(), entropy),
    "hinge": lambda: audit(mlp(), with_hinge),
}


@pytest.mark.filterwarnings("ignore:Using a target size")
@pytest.mark.parametrize("case", PLANTED)
def test_planted(case: str) -> None:
    findings, aspect, words = PLANTED[case]
    found = {finding.rule: finding for finding in alarms(findings())}
    assert aspect in found, case
    assert words in found[aspect].message
    assert found[aspect].advice


@pytest.mark.filterwarnings("ignore:Using a target size")
@pytest.mark.parametrize("case", HEALTHY)
def test_healthy(case: str) -> None:
    findings = HEALTHY[case]()
    assert not alarms(findings)
    assert not [finding for finding in findings if "failed" in finding.message]
    assert findings


def test_a_last_batch_of_one_is_told_before_torch_raises() -> None:
    rule = ModelAudit(budget=None)
    trainer = L.Trainer(accelerator="cpu", max_steps=1, callbacks=[rule], **QUIET)
    data = TensorDataset(*(part[:97] for part in DIGITS))
    trainer.fit(Model(mlp(norm=True), entropy), DataLoader(data, 32))
    assert [finding.rule for finding in alarms(rule.findings)] == ["tiny-batch-norm"]
    trainer = L.Trainer(accelerator="cpu", max_steps=1, callbacks=[rule], **QUIET)
    trainer.fit(Model(mlp(norm=True), entropy), DataLoader(data, 32, drop_last=True))
    assert not alarms(rule.findings)


def test_an_aspect_can_be_ignored() -> None:
    rule = ModelAudit(budget=None)
    rule.ignored["dropout"] = "this is what I study"
    trainer = L.Trainer(accelerator="cpu", max_steps=1, callbacks=[rule], **QUIET)
    trainer.fit(Model(mlp(drop=0.9), entropy), DataLoader(TensorDataset(*DIGITS), 32))
    assert not alarms(rule.findings)
    assert any(finding.message.startswith("Ignored, this is what I study: `net.2`") for finding in rule.findings)


def test_no_trace() -> None:
    """Two epochs end with the same bits, with and without the audit."""

    def left(callbacks: list[Any]) -> Any:
        L.seed_everything(7, verbose=False)
        model = Model(nn.Sequential(*mlp(norm=True, drop=0.3), nn.Identity()), entropy)
        trainer = L.Trainer(accelerator="cpu", max_epochs=2, limit_train_batches=8, callbacks=callbacks, **QUIET)
        trainer.fit(model, DataLoader(TensorDataset(*DIGITS), 32, shuffle=True))
        hooks = [len(part._forward_hooks) + len(part._forward_pre_hooks) for part in model.modules()]
        return model.state_dict(), trainer.optimizers[0].state_dict(), torch.get_rng_state(), hooks

    rule = ModelAudit(budget=None)
    with_audit, without = left([rule]), left([])
    assert rule.findings
    torch.testing.assert_close(with_audit, without, rtol=0, atol=0)


def test_out_of_time() -> None:
    rule = ModelAudit(budget=1e-6)
    trainer = L.Trainer(accelerator="cpu", max_steps=1, callbacks=[rule], **QUIET)
    trainer.fit(Model(mlp(), entropy), DataLoader(TensorDataset(*DIGITS), 32))
    (finding,) = rule.findings
    assert finding.severity is Severity.INFO
    assert finding.message.startswith("Skipped: ")
