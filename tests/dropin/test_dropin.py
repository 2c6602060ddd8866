"""`Trainer(callbacks=[*recommended()])` on code that never heard of us: no crash, no alarm, no trace."""

from __future__ import annotations

import functools
import random
import sys
from pathlib import Path
from typing import Any

import lightning.pytorch
import numpy as np
import pytest
import pytorch_lightning
import torch

from lightning_rules import (
    Finding,
    GradientClipping,
    LastLayerBiasInit,
    ReportCard,
    Rule,
    Severity,
    check,
    recommended,
)

sys.path.insert(0, str(Path(__file__).parent))
from programs import PROGRAMS

NAMESPACES = [lightning.pytorch, pytorch_lightning]
CLIPPED = "recurrent"  # the one program whose gradients the rules change


def fit(L: Any, program: Any, callbacks: list[Any]) -> tuple[Any, Any]:
    L.seed_everything(7, verbose=False)
    module, data, options = program(L)
    options = {"max_epochs": 2, "logger": False, **options}
    trainer = L.Trainer(
        accelerator="cpu",
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=callbacks,
        **options,
    )
    trainer.fit(module, data)
    return module, trainer


@functools.cache  # several tests ask what was found in the same fit
def recommended_run(L: Any, program: Any) -> tuple[dict[str, list[Finding]], int]:
    """A fit with the recommended rules: what each of them found, and the number of steps."""
    rules = recommended()
    _, trainer = fit(L, program, list(rules))
    assert trainer.state.finished
    assert (Path(trainer.log_dir) / "rules" / "findings.jsonl").is_file()
    return what_was_found(rules), trainer.global_step


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("program", PROGRAMS, ids=lambda program: program.__name__)
@pytest.mark.parametrize("L", NAMESPACES, ids=lambda L: L.__name__)
def test_recommended_rules_run_and_stay_quiet(L: Any, program: Any) -> None:
    found, steps = recommended_run(L, program)
    assert steps > 0 or program.__name__ == "sometimes_none"
    assert all(found.values()), "each rule says something, be it that it does not apply"
    assert [
        finding for findings in found.values() for finding in findings if finding.severity >= Severity.WARNING
    ] == []


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("program", PROGRAMS, ids=lambda program: program.__name__)
def test_only_the_bias_and_exploding_gradients_are_changed(program: Any) -> None:
    ends = []
    others = [rule for rule in recommended() if not isinstance(rule, (LastLayerBiasInit, ReportCard))]
    for callbacks in ([], [*others, ReportCard("json")]):
        module, trainer = fit(lightning.pytorch, program, callbacks)
        draws = (torch.rand(()).item(), np.random.rand(), random.random())
        ends.append((module.state_dict(), trainer.optimizers[0].state_dict(), draws, trainer.callback_metrics))
    (weights, optimizer, draws, metrics), (weights_, optimizer_, draws_, metrics_) = ends
    assert draws == draws_
    if program.__name__ == CLIPPED:
        assert not all(torch.equal(value, weights_[name]) for name, value in weights.items())
        return
    torch.testing.assert_close(weights, weights_, rtol=0, atol=0)
    torch.testing.assert_close(optimizer, optimizer_, rtol=0, atol=0)
    torch.testing.assert_close(metrics, {name: metrics_[name] for name in metrics}, rtol=0, atol=0)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("program", PROGRAMS, ids=lambda program: program.__name__)
def test_check_passes_through_without_an_alarm(program: Any) -> None:
    """With what a fit leaves out; in either namespace, by turns."""
    L = NAMESPACES[PROGRAMS.index(program) % 2]
    L.seed_everything(7, verbose=False)
    module, data, _ = program(L)
    before = {name: value.clone() for name, value in module.state_dict().items()}
    given = {"datamodule": data} if hasattr(data, "train_dataloader") else {"train_dataloaders": data}
    report = check(module, **given, only=["gradient-check"], max_epochs=2)
    assert report.ok
    assert {finding.rule for finding in report.findings} == {"gradient-check"}
    assert [finding for finding in report.findings if finding.severity >= Severity.WARNING] == []
    assert all(torch.equal(value, before[name]) for name, value in module.state_dict().items())


def what_was_found(rules: list[Rule]) -> dict[str, list[Finding]]:
    return {rule.name: rule.findings for rule in rules}


def what_was_said(name: str) -> dict[str, list[str]]:
    found, _ = recommended_run(lightning.pytorch, next(one for one in PROGRAMS if one.__name__ == name))
    return {rule: [finding.message for finding in findings] for rule, findings in found.items()}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    ("name", "bias", "loss"),
    [
        ("plain", "Set the bias of `net.4` to the log prior of 10 classes", "cross_entropy starts at"),
        ("transformer", "Set the bias of `model.decoder` to the log prior of 50 classes", "nll_loss starts at"),
        ("two_optimizers", "it feeds several losses", "binary_cross_entropy_with_logits starts at"),
        ("direct_backward", "Set the bias of `net.4`", "cross_entropy starts at"),
        ("autoencoder", "Set the bias of `net.2` to the mean of the targets", "mse_loss starts at"),
        ("iterable", "from the first 320 training targets", "cross_entropy starts at"),
        ("one_shot", "OneShot) can be read only once", "OneShot) can be read only once"),
        ("several_loaders", "the first batch, since training_step makes its targets itself", "starts at"),
        ("views_without_labels", "no single layer makes what cross_entropy is given", "starts at"),
        ("state_from_hooks", "margin", "margin"),
        ("loader_iterator", "draws its batches", "draws its batches"),
        ("own_loss", "calls none of torch's loss functions", "calls none of torch's loss functions"),
        ("float64", "from all 320 training labels", "starts at"),
    ],
)
def test_what_is_said(name: str, bias: str, loss: str) -> None:
    said = what_was_said(name)
    assert bias in said["last-layer-bias-init"][0]
    assert loss in said["loss-at-init"][0]
    assert all(len(messages) == len(set(messages)) for messages in said.values()), "said once"


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("plain", ["Does not apply: the module has no recurrent layers"]),
        ("accumulation_and_overfit", ["Does not apply: the module has no recurrent layers"]),
        ("recurrent", ["Clips the gradient norm at 1 (recurrent layers: `net.rnn`)", "Clipped "]),
        ("recurrent_clipped_by_the_trainer", ["Does not apply: Trainer(gradient_clip_val=0.1) clips already"]),
        ("recurrent_by_hand", ["Clips the gradient norm at 1", "Clipped 0.0% and skipped 0.0% of 10 steps"]),
    ],
)
def test_what_is_said_of_clipping(name: str, said: list[str]) -> None:
    messages = what_was_said(name)[GradientClipping.name]
    assert [message[: len(start)] for message, start in zip(messages, said, strict=True)] == said


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_a_compiled_module_trains_with_the_rules() -> None:
    """Compiled for real by torch's default backend."""
    module, data, _ = PROGRAMS[0](lightning.pytorch)
    module.net = torch.nn.Linear(64, 10)  # little to compile
    rules = recommended()
    quiet = dict.fromkeys(("logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary"), False)
    trainer = lightning.pytorch.Trainer(accelerator="cpu", max_steps=3, callbacks=rules, **quiet)
    trainer.fit(torch.compile(module), data)
    assert trainer.global_step == 3
    found = what_was_found(rules)
    assert "Set the bias of `net` to the log prior" in found["last-layer-bias-init"][0].message
    assert found["loss-at-init"][0].severity is Severity.OK
