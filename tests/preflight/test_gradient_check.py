"""gradient-check: the judgement on numbers, then wrong gradients and their healthy twins in real fits."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import lightning.pytorch as L
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from lightning_rules import Finding, GradientCheck, Severity
from lightning_rules.preflight.central_differences import Slope, slope
from lightning_rules.preflight.finite_gradients import StepSeen
from lightning_rules.preflight.gradient_check import GradientSeen
from lightning_rules.preflight.graph_cuts import CutsSeen
from lightning_rules.preflight.loss_slopes import ParameterSeen, RoundSeen
from lightning_rules.preflight.own_functions import Component, FunctionSeen

WRONG = Slope(analytic=-1.0, numeric=1.0, uncertainty=1e-9, left=1.0, right=1.0)
FLAT = Slope(analytic=1.0, numeric=0.0, uncertainty=1e-9, left=0.0, right=0.0)


class Tanh(torch.autograd.Function):
    """The right derivative."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return x.tanh()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:  # type: ignore[override]
        (x,) = ctx.saved_tensors
        return gradient * (1 - x.tanh() ** 2)


class WrongSign(Tanh):
    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:  # type: ignore[override]
        return -Tanh.backward(ctx, gradient)


class NoSquare(Tanh):
    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:  # type: ignore[override]
        (x,) = ctx.saved_tensors
        return gradient * (1 - x.tanh())


class StraightThrough(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x.sign()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:  # type: ignore[override]
        return gradient


class Reversal(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:  # type: ignore[override]
        return -gradient


class Affine(torch.autograd.Function):
    """Averages the gradient of its bias where it should sum."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        ctx.save_for_backward(x, weight)
        return x @ weight.T + bias

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Any:  # type: ignore[override]
        x, weight = ctx.saved_tensors
        return gradient @ weight, gradient.T @ x, gradient.mean(0)


class Model(L.LightningModule):
    """Two layers with an activation, and a step of the test's own."""

    def __init__(self, activation: Callable[[Tensor], Tensor] = torch.tanh, step: Any = None) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(6, 8), nn.Linear(8, 3)
        self.activation, self.step, self.dropout = activation, step, nn.Dropout(0.5)

    def forward(self, x: Tensor) -> Tensor:
        output: Tensor = self.second(self.dropout(self.activation(self.first(x))))
        return output

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        return F.cross_entropy(self(batch[0]), batch[1]) if self.step is None else self.step(self, *batch)

    def configure_optimizers(self) -> Any:
        return torch.optim.Adam(self.parameters(), 1e-2)


def loader() -> DataLoader[Any]:
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(32, 6, generator=generator)
    return DataLoader(TensorDataset(inputs, inputs[:, :3].argmax(1)), 16, shuffle=True)


def fit(model: Any, rule: GradientCheck | None, epochs: int = 1) -> tuple[Any, list[Finding]]:
    switched_off = dict.fromkeys(("logger", "enable_checkpointing", "enable_progress_bar"), False)
    trainer = L.Trainer(
        accelerator="cpu",
        max_epochs=epochs,
        callbacks=[] if rule is None else [rule],
        enable_model_summary=False,
        **switched_off,  # type: ignore[arg-type]
    )
    L.seed_everything(1, verbose=False)
    trainer.fit(model, loader())
    return trainer, [] if rule is None else rule.findings


def found(model: Any) -> list[Finding]:
    return fit(model, GradientCheck(budget=None))[1]


def worst(findings: list[Finding]) -> Finding:
    return max(findings, key=lambda finding: finding.severity)


def penalty(model: Any) -> Tensor:
    return 0.01 * sum((value.square().sum() for value in model.parameters()), torch.zeros(()))


def hidden_change(model: Any, x: Tensor, y: Tensor) -> Tensor:
    hidden = model.first(x).relu()
    hidden.data.mul_(2)
    return F.cross_entropy(model.second(hidden), y)


def standardised(model: Any, x: Tensor, y: Tensor) -> Tensor:
    return F.cross_entropy(model((x - x.mean(1, keepdim=True)) / x.std(1, keepdim=True)), y)


def root_of_zero(model: Any, x: Tensor, y: Tensor) -> Tensor:
    output = model(x)
    return F.cross_entropy(output, y) + (output - output).square().sum().sqrt()


def focal(model: Any, x: Tensor, y: Tensor) -> Tensor:
    loss = F.cross_entropy(model(x), y, reduction="none")
    return ((1 - torch.exp(-loss.detach())) ** 2 * loss).mean()


@pytest.mark.parametrize(
    ("function", "words"),
    [(WrongSign, "the sign is wrong"), (NoSquare, "is missing")],
)
def test_a_wrong_backward_is_named(function: Any, words: str) -> None:
    findings = found(Model(function.apply))
    assert worst(findings).severity is Severity.ERROR
    assert f"{function.__name__} is wrong" in worst(findings).message
    assert words in worst(findings).message
    assert any("`first.weight`, `first.bias`" in finding.message for finding in findings)
    assert worst(findings).evidence["relative_error"] > 1e-3


def test_the_argument_and_the_factor_are_named() -> None:
    def step(model: Any, x: Tensor, y: Tensor) -> Tensor:
        return F.cross_entropy(Affine.apply(model.first(x), model.second.weight, model.second.bias), y)

    message = worst(found(Model(step=step))).message
    assert "argument 2" in message
    assert "a factor of 16 is missing" in message  # the size of the batch


@pytest.mark.parametrize("function", [StraightThrough, Reversal])
def test_gradients_that_differ_on_purpose_are_no_alarm(function: Any) -> None:
    findings = found(Model(function.apply))
    assert worst(findings).severity is Severity.INFO
    assert any("as a straight-through estimator does" in finding.message for finding in findings)


@pytest.mark.parametrize(
    "step",
    [
        None,
        lambda model, x, y: F.cross_entropy(model(x), y) + penalty(model),
        lambda model, x, y: F.cross_entropy(model(x).float(), y) + 3.0,
        lambda model, x, y: F.l1_loss(model(x), x[:, :3]),
    ],
    ids=["plain", "penalty", "asks for float32", "kinks"],
)
def test_sound_gradients_agree(step: Any) -> None:
    (finding,) = found(Model(Tanh.apply, step))
    assert finding.severity is Severity.OK
    assert "Gradients of 4 at the start and of 4 after 8 steps, of 4 parameters, agree" in finding.message
    assert finding.evidence["largest_error"] < 1e-4


def test_a_relu_at_exact_zeros_is_no_alarm() -> None:
    model = Model(torch.relu)
    nn.init.zeros_(model.first.weight)
    nn.init.zeros_(model.first.bias)
    assert [finding.severity for finding in found(model)] == [Severity.OK]


def test_a_penalty_without_gradient() -> None:
    findings = found(Model(step=lambda model, x, y: F.cross_entropy(model(x), y) + penalty(model).detach()))
    assert worst(findings).severity is Severity.WARNING
    assert "gives them no gradient" in worst(findings).message
    assert any("detach at test_gradient_check.py:" in finding.message for finding in findings)


@pytest.mark.parametrize(
    "step",
    [focal, lambda model, x, y: F.cross_entropy(model.second(model.first(x).detach()), y)],
    ids=["detached weights", "detached features"],
)
def test_gradients_held_back_are_told(step: Any) -> None:
    findings = found(Model(step=step))
    assert worst(findings).severity is Severity.INFO
    assert any("held back" in finding.message and "detach at" in finding.message for finding in findings)


def test_a_change_behind_autograd() -> None:
    finding = worst(found(Model(step=hidden_change)))
    assert finding.severity is Severity.WARNING
    assert "mul_ at test_gradient_check.py:" in finding.message
    assert finding.evidence["relative_error"] == pytest.approx(0.5, abs=1e-3)


def test_a_root_of_zero() -> None:
    (finding,) = found(Model(step=root_of_zero))
    assert finding.severity is Severity.ERROR
    assert "is not finite; it comes from the backward of Sqrt" in finding.message


def test_constant_inputs() -> None:
    findings = found(Model(step=standardised))
    assert [finding.severity for finding in findings] == [Severity.INFO, Severity.INFO, Severity.OK]
    assert "On inputs that are all zero the loss is nan" in findings[0].message


def test_a_loss_that_changes_by_itself() -> None:
    own = torch.Generator().manual_seed(0)
    step = lambda model, x, y: F.cross_entropy(model(x) + torch.randn(3, generator=own), y)  # noqa: E731
    (finding,) = found(Model(step=step))
    assert finding.severity is Severity.INFO
    assert "changes from call to call" in finding.message


def test_no_trace() -> None:
    ends = []
    for rule in (None, GradientCheck(budget=None)):
        L.seed_everything(2, verbose=False)
        model = Model(torch.relu)
        trainer, _ = fit(model, rule, epochs=2)
        ends.append((model.state_dict(), trainer.optimizers[0].state_dict(), torch.rand(3)))
    torch.testing.assert_close(ends[0], ends[1], rtol=0, atol=0)


def test_out_of_time() -> None:
    class Slow(GradientCheck):
        def _time_left(self, *arguments: Any) -> float:
            return 0.02

    (finding,) = fit(Model(), Slow())[1]
    assert finding.severity is Severity.INFO
    assert finding.message.startswith("Skipped: a comparison of gradients takes about")


def seen(**changed: Any) -> GradientSeen:
    parts = {"wrong": (), "functions": (), "cuts": CutsSeen(), "added": None}
    parts |= {name: changed.pop(name) for name in list(changed) if name in parts}
    one = RoundSeen(4, 4, 1e-8, 0, 0, **parts)
    return GradientSeen(changed.pop("step", StepSeen(2.3)), {"at the start": one}, **changed)


PARAMETER = ParameterSeen("first.weight", WRONG, False)
FUNCTION = FunctionSeen("user.F", 4, (Component("user.F", 0, 3, WRONG, False),))


@pytest.mark.parametrize(
    ("rank", "severity"),
    [
        (seen(), Severity.OK),
        (seen(step=StepSeen(float("nan"))), Severity.ERROR),
        (seen(step=StepSeen(1.0, ("a.weight",), 1, "Sqrt")), Severity.ERROR),
        (seen(functions=(FUNCTION,), wrong=(PARAMETER,)), Severity.ERROR),
        (seen(functions=(FunctionSeen("user.F", 4, (Component("user.F", 0, 3, FLAT, False),)),)), Severity.INFO),
        (seen(functions=(FunctionSeen("user.F", refused="TypeError: no"),)), Severity.INFO),
        (seen(added=WRONG), Severity.WARNING),
        (seen(wrong=(PARAMETER,)), Severity.INFO),
        (seen(wrong=(PARAMETER,), cuts=CutsSeen(hidden=["mul_ at a.py:1"])), Severity.WARNING),
        (seen(wrong=(ParameterSeen("a", FLAT, False),), cuts=CutsSeen(hidden=["mul_ at a.py:1"])), Severity.INFO),
        (seen(constant={"zero": StepSeen(float("nan"))}), Severity.INFO),
        (seen(not_later="the run has 2 optimisers."), Severity.OK),
    ],
)
def test_judgement(rank: GradientSeen, severity: Severity) -> None:
    rule = GradientCheck()
    assert worst(rule.judge([rank])).severity is severity
    assert worst(rule.judge([seen(), rank])).severity is severity, "whichever rank saw it"


@pytest.mark.parametrize(
    ("function", "analytic", "wrong", "kink"),
    [
        (lambda t: 3 * t + t**3, 3.0, False, False),
        (lambda t: 3 * t, 3.01, True, False),
        (lambda t: 1e6 + 1e-9 * t, 2e-9, False, False),  # below the rounding of the value
        (lambda t: max(0.0, t), 0.0, True, True),
        (lambda t: float("nan"), 1.0, False, False),
    ],
)
def test_slopes(function: Any, analytic: float, wrong: bool, kink: bool) -> None:
    measured = slope(function, analytic, function(0.0), 1e-5)
    assert (measured.wrong, measured.kink) == (wrong, kink)


def test_options() -> None:
    with pytest.raises(ValueError, match=r"Expected `components` to be at least 1, but got 0\."):
        GradientCheck(components=0)
