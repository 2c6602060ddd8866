"""check() and recommended(): the start of a run, without the run."""

from __future__ import annotations

import os
import random
from pathlib import Path
from typing import Any

import lightning.pytorch as L
import numpy as np
import pytest
import pytorch_lightning
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from lightning_rules import (
    Finding,
    GradientClipping,
    LastLayerBiasInit,
    Report,
    SeedEverything,
    Severity,
    check,
    recommended,
)
from lightning_rules.check import CHECKED
from lightning_rules.monitor import Monitor

BEFORE_THE_RUN = [rule for rule in recommended() if not isinstance(rule, Monitor)]

pytestmark = pytest.mark.filterwarnings("ignore")


def make(namespace: Any = L, sign: float = 1.0) -> Any:
    class Model(namespace.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.net = nn.Sequential(nn.Linear(5, 8), nn.BatchNorm1d(8), nn.Linear(8, 3))
            self.configured = 0

        def training_step(self, batch: Any, batch_idx: int) -> Any:
            loss = sign * F.cross_entropy(self.net(batch[0]), batch[1])
            self.log("loss", loss)
            return loss

        def configure_optimizers(self) -> Any:
            self.configured += 1
            return torch.optim.Adam(self.parameters())

    return Model()


def loader() -> Any:
    return DataLoader(
        TensorDataset(torch.randn(90, 5) + torch.arange(90)[:, None] % 3, torch.arange(90) % 3), 30, shuffle=True
    )


def finding_of(report: Report, rule: str) -> Finding:
    (finding,) = [finding for finding in report.findings if finding.rule == rule]
    return finding


@pytest.mark.parametrize("namespace", [L, pytorch_lightning], ids=lambda namespace: namespace.__name__)
def test_healthy(namespace: Any) -> None:
    report = check(make(namespace), loader())
    assert report.ok
    names = {name for rule in CHECKED for name in (rule.name, *rule.aspects)}
    assert {finding.rule for finding in report.findings} <= names
    assert all(any(f.rule in (rule.name, *rule.aspects) for f in report.findings) for rule in CHECKED), "each speaks"
    assert all(finding.severity < Severity.WARNING for finding in report.findings)
    assert finding_of(report, "loss-at-init").severity is Severity.OK
    assert "cross_entropy starts at" in str(report)


def test_a_planted_bug_is_an_error(capsys: pytest.CaptureFixture[str]) -> None:
    report = check(make(sign=-1.0), loader())
    assert not report.ok
    assert "the negative of cross_entropy" in str(report)
    assert capsys.readouterr().out == "", "the caller prints"


def test_leaves_no_trace(tmp_path: Path) -> None:
    module, data = make(), loader()
    module.net[1].eval()
    module.net(data.dataset.tensors[0]).sum().backward()
    state = {name: value.clone() for name, value in module.state_dict().items()}
    gradients = [parameter.grad for parameter in module.parameters()]
    modes = [part.training for part in module.modules()]
    random_numbers = random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()
    before, environment = sorted(os.listdir()), dict(os.environ)
    check(module, data)
    assert all(torch.equal(value, state[name]) for name, value in module.state_dict().items())
    assert all(p.grad is g for p, g in zip(module.parameters(), gradients, strict=True))
    assert [part.training for part in module.modules()] == modes
    assert (random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()) == random_numbers
    assert module.configured == 0
    assert module._trainer is None
    assert sorted(os.listdir()) == before, "nothing is written"
    assert dict(os.environ) == environment


def test_training_after_a_check_is_the_same_to_the_bit() -> None:
    ends = []
    for look in (False, True):
        L.seed_everything(5, verbose=False)
        module, data = make(), loader()
        if look:
            check(module, data)
        quiet = dict.fromkeys(("logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary"), False)
        L.Trainer(accelerator="cpu", max_epochs=2, **quiet).fit(module, data)
        ends.append(module.state_dict())
    torch.testing.assert_close(ends[0], ends[1], rtol=0, atol=0)


def test_datamodule() -> None:
    class Data(L.LightningDataModule):
        def train_dataloader(self) -> Any:
            return loader()

    assert check(make(), datamodule=Data()).ok


def test_not_a_module() -> None:
    with pytest.raises(TypeError, match="Expected a LightningModule with a training_step, but got Linear"):
        check(nn.Linear(2, 2))


def test_recommended_rules_in_order() -> None:
    kinds = [rule.kind for rule in recommended()]
    assert [type(rule) for rule in recommended()][:3] == [SeedEverything, LastLayerBiasInit, GradientClipping]
    assert kinds == sorted(kinds, key=("enforce", "check", "report").index), "what acts comes before what looks"
    assert recommended()[0] is not recommended()[0]


def test_a_rule_is_ignored_with_a_reason() -> None:
    report = check(make(sign=-1.0), loader(), ignore={"loss-at-init": "the sign is meant."})
    assert {f.rule for f in report.findings if f.severity is Severity.ERROR} == {"overfit-one-batch"}, "the rest looks"
    assert finding_of(report, "loss-at-init").message == "Ignored: the sign is meant."
    assert finding_of(report, "loss-at-init").severity is Severity.INFO


@pytest.mark.parametrize("rule", BEFORE_THE_RUN, ids=lambda rule: rule.name)
def test_each_rule_can_be_ignored(rule: Any) -> None:
    report = check(make(), loader(), ignore={rule.name: "it is not wanted"})
    assert finding_of(report, rule.name).message == "Ignored: it is not wanted."
    assert not {finding.rule for finding in report.findings} & set(rule.aspects)
    assert report.ok


@pytest.mark.parametrize(
    ("ignore", "message"),
    [
        (
            {"loss-at-start": "because"},
            "Cannot ignore the rule 'loss-at-start': the rules here are seed-everything, ",
        ),
        ({"loss-at-init": " "}, "Expected a reason for ignoring 'loss-at-init', one sentence, but got ' '"),
    ],
)
def test_ignoring_wrongly(ignore: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        recommended(ignore)


def test_a_rule_that_watches_is_no_check() -> None:
    with pytest.raises(ValueError, match="'gradient-health' watches a run while it trains, and `check` takes no step"):
        check(make(), loader(), only=["gradient-health"])
    assert check(make(), loader(), ignore={"monitor-mode": "it is a distance"}).ok  # what a fit ignores is no mistake
