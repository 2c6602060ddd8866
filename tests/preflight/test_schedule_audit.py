"""schedule-audit: the judgement on curves, then schedules as a run has them, planted and healthy."""

from __future__ import annotations

from typing import Any

import lightning.pytorch as L
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim import lr_scheduler as schedulers
from torch.utils.data import DataLoader, TensorDataset

from lightning_rules import ScheduleAudit, Severity
from lightning_rules.preflight.planned_rates import Plan, Rates
from lightning_rules.preflight.plateau import Plateau, judge_plateau
from lightning_rules.preflight.rate_shape import dead, shape_of
from lightning_rules.preflight.schedule_audit import Schedule, judge

TIME = np.linspace(0, 1, 1000)


def shape(curve: Any, beyond: Any = (0.0,), **more: Any) -> Any:
    return shape_of(Rates(list(curve), list(beyond), more.pop("moves", 999), **more), len(TIME))


@pytest.mark.parametrize(
    ("curve", "expected"),
    [
        (0.5 * (1 + np.cos(np.pi * TIME)), False),
        (1 - TIME, False),
        ((1 - TIME) ** 2, False),
        (0.1 ** (3 * TIME), False),  # an exponential to a thousandth
        (0.1 ** np.floor(TIME * 10 / 3), False),  # a tenth at 30, 60 and 90%
        (0.1 ** np.floor(TIME * 25 / 7), False),  # a tenth each 7 of 25 epochs
        (0.1 ** np.floor(TIME * 10), True),
        (0.1 ** np.floor(TIME * 5), True),
        (0.5 ** np.floor(TIME * 30), True),
    ],
)
def test_what_counts_as_next_to_nothing(curve: Any, expected: bool) -> None:
    assert dead(shape(curve)) is expected


def schedule(curve: Any, interval: str = "epoch", other: Any = None, **more: Any) -> Schedule:
    one = shape(curve, more.pop("beyond", (0.0,)))
    return Schedule("CosineAnnealingLR", interval, 1, Plan(1000, 100), one, other, **more)


COSINE = 0.5 * (1 + np.cos(np.pi * TIME))


@pytest.mark.parametrize(
    ("seen", "severity", "words"),
    [
        (schedule(COSINE), Severity.OK, "goes from"),
        (schedule(COSINE * 0), Severity.ERROR, "at 0 in the whole run"),
        (schedule(COSINE * 0, outside=True), Severity.INFO, "cannot be read beforehand"),
        (schedule(0.1 ** (TIME * 10)), Severity.WARNING, "decays to nothing early: after 20% of the run"),
        (schedule(0.1 ** (TIME * 10), "step", shape(COSINE)), Severity.WARNING, "wrong interval"),
        (schedule(0.4 * TIME, beyond=np.ones(10)), Severity.WARNING, "never leaves its warm-up"),
        (schedule(0.9 * TIME, beyond=np.ones(10)), Severity.OK, ""),
        (schedule(COSINE, beyond=COSINE[::-1]), Severity.OK, ""),
        (schedule(1 - 0.01 * TIME, "epoch", shape(COSINE)), Severity.WARNING, "decays by 1% in the whole run"),
        (schedule(1 - 0.01 * TIME, beyond=COSINE), Severity.INFO, "over before the schedule is"),
        (schedule(np.cos(np.pi * TIME) ** 2), Severity.WARNING, "rises again 1 times"),
        (schedule(np.cos(np.pi * TIME) ** 2, cyclic=True), Severity.OK, ""),
        (schedule(np.cos(9.5 * np.pi * TIME) ** 2, "step", shape(COSINE)), Severity.WARNING, "wrong interval"),
    ],
)
def test_judgement(seen: Schedule, severity: Severity, words: str) -> None:
    finding = judge(seen)
    assert finding.severity is severity, finding.message
    assert words in f"{finding.message} {finding.advice}"
    assert finding.rule == "schedule-audit"


@pytest.mark.parametrize(
    ("monitor", "mode", "severity"),
    [
        ("val/loss", "min", Severity.INFO),
        ("val_loss", "max", Severity.WARNING),
        ("val_acc", "min", Severity.WARNING),
        ("val/accuracy", "max", Severity.INFO),
        ("score", "min", Severity.INFO),
        ("accuracy_loss", "max", Severity.INFO),
    ],
)
def test_what_a_plateau_waits_for(monitor: str, mode: str, severity: Severity) -> None:
    assert judge_plateau("schedule-audit", Plateau(monitor, mode)).severity is severity


class Model(L.LightningModule):
    def __init__(self, make: Any, interval: str, frequency: int) -> None:
        super().__init__()
        self.net = nn.Linear(8, 3)
        self.make, self.how = make, {"interval": interval, "frequency": frequency}

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        return F.cross_entropy(self.net(batch[0]), batch[1])

    def configure_optimizers(self) -> Any:
        optimizer = torch.optim.SGD(self.parameters(), 0.1, momentum=0.9)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": self.make(optimizer, self), **self.how}}


class Stop(L.Callback):
    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        raise StopIteration


def finding(make: Any, epochs: int = 30, interval: str = "epoch", frequency: int = 1, **options: Any) -> Any:
    """What is found at the start of a run of 10 batches an epoch."""
    rule = ScheduleAudit()
    quiet = dict.fromkeys(("logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary"), False)
    trainer = L.Trainer(accelerator="cpu", max_epochs=epochs, callbacks=[rule, Stop()], **quiet, **options)
    module = Model(make, interval, frequency)
    with pytest.raises(StopIteration):
        trainer.fit(module, DataLoader(TensorDataset(torch.randn(80, 8), torch.randint(3, (80,))), 8))
    (scheduler,) = trainer.lr_scheduler_configs
    assert scheduler.scheduler.last_epoch == 0, "the run's own scheduler stands where it stood"
    (found,) = rule.findings
    return found


def warm(steps: int) -> Any:
    return lambda o, m: schedulers.LambdaLR(o, lambda step: min(1.0, (step + 1) / steps))


def warm_then_cosine(o: Any, m: Any) -> Any:
    parts = [schedulers.LinearLR(o, 0.01, total_iters=3), schedulers.CosineAnnealingLR(o, 27)]
    return schedulers.SequentialLR(o, parts, [3])


HEALTHY = {
    "cosine": (lambda o, m: schedulers.CosineAnnealingLR(o, 30), {}),
    "cosine-in-steps": (lambda o, m: schedulers.CosineAnnealingLR(o, 300), {"interval": "step"}),
    "one-cycle": (
        lambda o, m: schedulers.OneCycleLR(o, 0.1, total_steps=m.trainer.estimated_stepping_batches),
        {"interval": "step", "accumulate_grad_batches": 4},
    ),
    "steps": (lambda o, m: schedulers.MultiStepLR(o, [30, 60, 90]), {"epochs": 100}),
    "exponential": (lambda o, m: schedulers.ExponentialLR(o, 0.95), {"epochs": 120}),
    "warm-up": (warm(30), {"interval": "step"}),
    "warm-then-cosine": (warm_then_cosine, {}),
    "restarts": (lambda o, m: schedulers.CosineAnnealingWarmRestarts(o, 5), {}),
    "cyclic": (lambda o, m: schedulers.CyclicLR(o, 0.001, 0.1, 50), {"interval": "step"}),
    "made-for-a-longer-run": (lambda o, m: schedulers.CosineAnnealingLR(o, 100), {}),
    "reads-the-epoch": (lambda o, m: schedulers.LambdaLR(o, lambda _: min(1.0, (m.current_epoch + 1) / 5)), {}),
    "no-end": (lambda o, m: schedulers.CosineAnnealingLR(o, 30), {"epochs": -1}),
    "too-short": (warm(1000), {"epochs": 1}),
}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", HEALTHY)
def test_silent_on_healthy_schedules(name: str) -> None:
    make, options = HEALTHY[name]
    found = finding(make, **options)
    assert found.severity <= Severity.INFO, found.message
    assert "failed" not in found.message


PLANTED = {
    "tenth-an-epoch": (lambda o, m: schedulers.ExponentialLR(o, 0.1), {}, "decays to nothing early"),
    "exponential-each-step": (
        lambda o, m: schedulers.ExponentialLR(o, 0.95),
        {"interval": "step"},
        'return {"interval": "epoch"}',
    ),
    "cosine-of-epochs-each-step": (
        lambda o, m: schedulers.CosineAnnealingLR(o, 30),
        {"interval": "step"},
        'return {"interval": "epoch"}',
    ),
    "cosine-of-steps-each-epoch": (
        lambda o, m: schedulers.CosineAnnealingLR(o, 300),
        {},
        'return {"interval": "step"}',
    ),
    "one-cycle-each-epoch": (
        lambda o, m: schedulers.OneCycleLR(o, 0.1, total_steps=300),
        {},
        'return {"interval": "step"}',
    ),
    "one-cycle-too-short": (
        lambda o, m: schedulers.OneCycleLR(o, 0.1, total_steps=100),
        {"interval": "step"},
        "stops the run at step 101 of 300",
    ),
    "long-warm-up": (warm(4000), {"interval": "step"}, "never leaves its warm-up"),
    "cosine-of-half": (lambda o, m: schedulers.CosineAnnealingLR(o, 15), {}, "Set T_max to the length of the run"),
    "rare": (warm(100), {"interval": "step", "frequency": 100}, "is never stepped"),
    "growing": (lambda o, m: schedulers.ExponentialLR(o, 1.1), {}, "rises to the end of the run"),
    "zero": (lambda o, m: schedulers.LambdaLR(o, lambda _: 0.0), {}, "at 0 in the whole run"),
}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", PLANTED)
def test_fires_on_planted_schedules(name: str) -> None:
    make, options, words = PLANTED[name]
    found = finding(make, **options)
    assert found.severity >= Severity.WARNING, found.message
    assert words in f"{found.message} {found.advice}"


@pytest.mark.filterwarnings("ignore")
def test_the_curve_is_the_one_that_lightning_sets() -> None:
    """Read beforehand, and then trained: the rates agree step by step, frequency and accumulation included."""
    from lightning_rules.deadline import Deadline
    from lightning_rules.preflight.planned_rates import plan_of, rates_of, stepped_of

    class Read(L.Callback):
        def on_train_start(self, trainer: Any, pl_module: Any) -> None:
            (optimizer,) = trainer.optimizers
            stepped = stepped_of(trainer, optimizer)
            self.read = rates_of(trainer, pl_module, optimizer, stepped, plan_of(trainer), Deadline()).planned
            self.set: list[float] = []

        def on_before_optimizer_step(self, trainer: Any, pl_module: Any, optimizer: Any) -> None:
            self.set.append(optimizer.param_groups[0]["lr"])

    quiet = dict.fromkeys(("logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary"), False)
    for interval, frequency in (("step", 1), ("step", 2), ("epoch", 1), ("epoch", 2)):
        seen = Read()
        trainer = L.Trainer(accelerator="cpu", max_epochs=4, accumulate_grad_batches=2, callbacks=[seen], **quiet)
        data = DataLoader(TensorDataset(torch.randn(35, 8), torch.randint(3, (35,))), 5)
        trainer.fit(Model(lambda o, m: schedulers.ExponentialLR(o, 0.9), interval, frequency), data)
        assert seen.read == pytest.approx(seen.set)
        assert len(set(seen.set)) > 1
