"""Multiplying the rates of a run multiplies its whole schedule, whoever schedules it."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from timm.scheduler import (
    CosineLRScheduler,
    MultiStepLRScheduler,
    PlateauLRScheduler,
    PolyLRScheduler,
    StepLRScheduler,
    TanhLRScheduler,
)
from torch import nn
from torch.optim import lr_scheduler as schedulers

from lightning_rules.rates import multiply_rates, peak_rates, refuse_unknown_schedulers, set_rates
from lightning_rules.rule import NotApplicable

STEPS = 40
RATES = (0.1, 0.02)
WARM = {"warmup_t": 5, "warmup_lr_init": 0.001}

TORCHS: dict[str, Any] = {
    "constant": lambda o: schedulers.ConstantLR(o, 0.1, 5),
    "lambda": lambda o: schedulers.LambdaLR(o, [lambda step: 0.9**step, lambda step: 1 / (1 + step)]),
    "multiplicative": lambda o: schedulers.MultiplicativeLR(o, lambda step: 0.9),
    "step": lambda o: schedulers.StepLR(o, 7),
    "multi-step": lambda o: schedulers.MultiStepLR(o, [5, 20]),
    "linear": lambda o: schedulers.LinearLR(o, 0.01, total_iters=10),
    "exponential": lambda o: schedulers.ExponentialLR(o, 0.9),
    "polynomial": lambda o: schedulers.PolynomialLR(o, 30, 2),
    "cosine": lambda o: schedulers.CosineAnnealingLR(o, 30, eta_min=0.001),
    "cosine with restarts": lambda o: schedulers.CosineAnnealingWarmRestarts(o, 9, eta_min=0.001),
    "one cycle": lambda o: schedulers.OneCycleLR(o, list(RATES), STEPS + 1, cycle_momentum=False),
    "cyclic": lambda o: schedulers.CyclicLR(o, [0.001, 0.002], list(RATES), 5, cycle_momentum=False),
    "plateau": lambda o: schedulers.ReduceLROnPlateau(o, factor=0.3, patience=2, min_lr=0.002),
    "sequential": lambda o: schedulers.SequentialLR(
        o, [schedulers.LinearLR(o, 0.01, total_iters=5), schedulers.CosineAnnealingLR(o, 30, 0.001)], [5]
    ),
    "chained": lambda o: schedulers.ChainedScheduler(
        [schedulers.ExponentialLR(o, 0.95), schedulers.LinearLR(o, 0.01, total_iters=5)]
    ),
}
TIMMS: dict[str, Any] = {
    "timm cosine": lambda o: CosineLRScheduler(o, 30, lr_min=0.001, cycle_limit=2, cycle_decay=0.5, **WARM),
    "timm tanh": lambda o: TanhLRScheduler(o, 30, lr_min=0.001, **WARM),
    "timm polynomial": lambda o: PolyLRScheduler(o, 30, lr_min=0.001, **WARM),
    "timm step": lambda o: StepLRScheduler(o, 9, 0.3, **WARM),
    "timm multi-step": lambda o: MultiStepLRScheduler(o, [9, 20], 0.3, **WARM),
    "timm plateau": lambda o: PlateauLRScheduler(o, 0.3, 2, lr_min=0.001, **WARM),
}


def optimizer(rates: tuple[Any, ...] = RATES, **extra: Any) -> torch.optim.Optimizer:
    groups = [{"params": [nn.Parameter(torch.zeros(1))], "lr": rate, **extra} for rate in rates]
    return torch.optim.SGD(groups, lr=1.0)


def schedule(name: str, factor: float) -> list[list[float]]:
    """The rates of both groups at each step."""
    steps = optimizer()
    scheduler = {**TORCHS, **TIMMS}[name](steps)
    refuse_unknown_schedulers([scheduler])
    multiply_rates(steps, [scheduler], factor)
    rates = []
    for step in range(1, STEPS):
        rates.append([group["lr"] for group in steps.param_groups])
        steps.step()
        if name in TIMMS:
            scheduler.step(step, 1.0)  # a metric that never gets better
        elif name == "plateau":
            scheduler.step(1.0)
        else:
            scheduler.step()
    return rates


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", [*TORCHS, *TIMMS])
def test_the_whole_schedule_is_multiplied(name: str) -> None:
    plain, tripled = schedule(name, 1.0), schedule(name, 3.0)
    assert len({first for first, _ in plain}) > 1
    for before, after in zip(plain, tripled, strict=True):
        assert after == pytest.approx([3 * rate for rate in before], rel=1e-6)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", [*TORCHS, *TIMMS])
def test_peaks_are_known_before_a_warm_up_has_climbed(name: str) -> None:
    steps = optimizer()
    scheduler = {**TORCHS, **TIMMS}[name](steps)
    assert peak_rates(steps, [scheduler]) == pytest.approx(RATES)


def test_layer_wise_decay_of_timm_is_a_ratio() -> None:
    steps = optimizer((0.1, 0.1))
    steps.param_groups[1]["lr_scale"] = 0.5
    scheduler = CosineLRScheduler(steps, 30)
    assert peak_rates(steps, [scheduler]) == pytest.approx([0.1, 0.05])


def test_rates_held_in_tensors() -> None:
    """Set for a trial in a new tensor, multiplied for good in the old one, which a compiled step holds."""
    held = torch.tensor(0.1)
    steps = torch.optim.Adam([nn.Parameter(torch.zeros(1))], lr=held)
    group = dict(steps.param_groups[0])
    set_rates(steps, [0.7])
    assert float(steps.param_groups[0]["lr"]) == pytest.approx(0.7)
    assert float(held) == pytest.approx(0.1)
    steps.param_groups[0].update(group)
    multiply_rates(steps, [], 3.0)
    assert steps.param_groups[0]["lr"] is held
    assert float(held) == pytest.approx(0.3)


def test_refuses_zero_rates_and_unknown_schedulers() -> None:
    with pytest.raises(NotApplicable, match="all learning rates are 0"):
        peak_rates(optimizer((0.0, 0.0)), [])
    with pytest.raises(NotApplicable, match="object holds its rates in no place"):
        refuse_unknown_schedulers([object()])
