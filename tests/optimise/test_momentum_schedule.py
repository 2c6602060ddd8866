"""momentum-schedule: the values, the length of the step, resuming, and what it refuses."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import lightning.pytorch
import pytest
import pytorch_lightning
import torch
from torch import Tensor, nn
from torch.optim.lr_scheduler import CyclicLR, LinearLR, OneCycleLR, SequentialLR
from torch.utils.data import DataLoader, TensorDataset

from lightning_rules import MomentumSchedule, Severity
from lightning_rules.optimise.momentum_schedule import momentum_at, set_momentum


def fit(
    optimize: Any, rule: MomentumSchedule, L: Any = lightning.pytorch, ckpt_path: Any = None, **options: Any
) -> Any:
    class Model(L.LightningModule):  # type: ignore[name-defined, misc]
        def __init__(self) -> None:
            super().__init__()
            self.net, self.groups = nn.Linear(4, 1), []

        def training_step(self, batch: Any, batch_idx: int) -> Tensor:
            self.groups.append({k: v for k, v in self.optimizers().param_groups[0].items() if k != "params"})
            return self.net(batch[0]).square().mean()

        def configure_optimizers(self) -> Any:
            return optimize(self.parameters())

    quiet = dict.fromkeys(("logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary"), False)
    trainer = L.Trainer(accelerator="cpu", **{**quiet, "callbacks": [rule], "max_epochs": 4, **options})
    model = Model()
    trainer.fit(model, DataLoader(TensorDataset(torch.ones(20, 4)), 2), ckpt_path=ckpt_path)
    return model, trainer


def sgd(parameters: Any) -> Any:
    return torch.optim.SGD(parameters, 0.01, momentum=0.9)


@pytest.mark.parametrize(
    ("done", "momentum"), [(0, 0.5), (0.25, 0.77639), (0.5, 0.9), (0.75, 0.96838), (1, 0.99), (1.2, 0.99)]
)
def test_values_over_the_run(done: float, momentum: float) -> None:
    assert momentum_at(done, (0.5, 0.9, 0.99)) == pytest.approx(momentum, abs=1e-5)


@pytest.mark.parametrize("nesterov", [False, True])
@pytest.mark.parametrize("momentum", [0.3, 0.9, 0.97])
def test_a_gradient_moves_the_weights_as_far_as_before(nesterov: bool, momentum: float) -> None:
    """One gradient, then zeros until it has died away."""

    def moved(schedule: bool) -> float:
        weight = nn.Parameter(torch.zeros((), dtype=torch.float64))
        optimizer = torch.optim.SGD([weight], 0.1, momentum=0.8, nesterov=nesterov)
        for step in range(1200):
            if schedule:
                set_momentum(optimizer.param_groups[0], momentum)
            weight.grad = torch.tensor(float(step == 1), dtype=torch.float64)  # step 0 makes the buffer
            optimizer.step()
        return float(weight.detach())

    assert moved(True) == pytest.approx(moved(False), rel=1e-6)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("L", [lightning.pytorch, pytorch_lightning], ids=lambda L: L.__name__)
@pytest.mark.parametrize("options", [{"max_epochs": 4}, {"max_epochs": 100, "max_steps": 40}], ids=["epochs", "steps"])
def test_on_a_fit(L: Any, options: Any) -> None:
    rule = MomentumSchedule()
    model, _ = fit(sgd, rule, L, **options)
    seen = [group["momentum"] for group in model.groups]
    assert seen == pytest.approx([momentum_at(step / 40, (0.5, 0.9, 0.99)) for step in range(40)])
    assert model.groups[20]["momentum"] == pytest.approx(0.9)
    assert model.groups[20]["dampening"] == pytest.approx(0.0)
    (finding,) = rule.findings
    assert finding.severity is Severity.INFO
    assert finding.message == "The momentum of SGD goes over 0.5, 0.9, 0.99 in the course of the run."


@pytest.mark.filterwarnings("ignore")
def test_adam_keeps_its_second_beta() -> None:
    model, _ = fit(torch.optim.AdamW, MomentumSchedule(values=[0.8, 0.95]))
    assert model.groups[0]["betas"] == pytest.approx((0.8, 0.999))
    assert model.groups[-1]["betas"] == pytest.approx((momentum_at(39 / 40, [0.8, 0.95]), 0.999))


@pytest.mark.filterwarnings("ignore")
def test_resumed_in_the_middle_of_an_epoch(tmp_path: Path) -> None:
    class Stop(lightning.pytorch.Callback):
        def on_train_batch_end(self, trainer: Any, *args: Any) -> None:
            if trainer.global_step == 13:
                trainer.save_checkpoint(tmp_path / "a.ckpt")

    rule = MomentumSchedule()
    whole, _ = fit(sgd, rule, callbacks=[Stop(), rule])
    rest, _ = fit(sgd, MomentumSchedule(), ckpt_path=tmp_path / "a.ckpt")
    assert len(rest.groups) == 27
    assert rest.groups == whole.groups[13:]


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    ("optimize", "options", "reason"),
    [
        (lambda parameters: torch.optim.SGD(parameters, 0.1), {}, "no optimiser has momentum that can be scheduled"),
        (lambda parameters: torch.optim.RMSprop(parameters, momentum=0.9), {}, "(SGD with momentum, Adam): RMSprop."),
        (sgd, {"max_epochs": -1, "max_time": "00:00:00:01"}, "the length of the run is unknown"),
    ],
)
def test_does_not_apply(optimize: Any, options: Any, reason: str) -> None:
    rule = MomentumSchedule()
    model, _ = fit(optimize, rule, **options)
    assert reason in rule.findings[0].message
    assert all(group == model.groups[0] for group in model.groups)


def one_cycle(parameters: Any) -> Any:
    optimizer = sgd(parameters)
    return [optimizer], [OneCycleLR(optimizer, 0.1, total_steps=50)]


def nested_cycle(parameters: Any) -> Any:
    optimizer = sgd(parameters)
    parts: list[Any] = [LinearLR(optimizer), CyclicLR(optimizer, 0.01, 0.1)]
    return [optimizer], [SequentialLR(optimizer, parts, milestones=[2])]


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(("optimize", "name"), [(one_cycle, "OneCycleLR"), (nested_cycle, "CyclicLR")])
def test_refuses_a_second_schedule(optimize: Any, name: str) -> None:
    sentence = f"MomentumSchedule and {name} would both set the momentum: make the scheduler with cycle_momentum=False"
    with pytest.raises(ValueError, match=sentence):
        fit(optimize, MomentumSchedule())


@pytest.mark.parametrize("values", [[0.9], [0.5, 1.0], [-0.1, 0.9]])
def test_wrong_values(values: list[float]) -> None:
    sentence = re.escape(f"Expected `values` to be two or more numbers from 0 to below 1, but got {values}")
    with pytest.raises(ValueError, match=sentence):
        MomentumSchedule(values)
