"""overfit-one-batch: the judgement on numbers, then planted bugs and their healthy twins at the start of real fits."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import lightning as L
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lightning_rules import OverfitOneBatch, Severity
from lightning_rules.preflight.fitting import is_plateau
from lightning_rules.preflight.one_batch import Seen
from lightning_rules.preflight.overfit_one_batch import judge_dropout, judge_fit, judge_own
from lightning_rules.preflight.own_optimiser import OwnSteps, peak_of
from lightning_rules.preflight.yardsticks import Yardsticks

KNOWN = Yardsticks("cross_entropy", 2.3, 0.0, supervised=True, dense=False, values=16, shapes="", squashed="")
FITTED = Seen(
    yardsticks=KNOWN,
    start=2.3,
    reached=0.1,
    steps=20,
    rate=0.01,
    plateau=False,
    fell=True,
    examples=16,
    unreached=(0, 6),
    frozen=0.0,
    capable=True,
    zeroed=None,
    rows="3: 3 (0.9)",
    dropout=None,
)
STALLED = replace(FITTED, reached=1.46, plateau=True)
STUCK = replace(FITTED, reached=2.3, plateau=True, fell=False)
UNKNOWN = replace(STUCK, yardsticks=None)


@pytest.mark.parametrize(
    ("seen", "severity", "words"),
    [
        (FITTED, Severity.OK, "went from 2.3 to 0.1 in 20 steps"),
        (STALLED, Severity.WARNING, "stalls far above"),
        (replace(STALLED, yardsticks=replace(KNOWN, squashed="a softmax")), Severity.WARNING, "applies softmax itself"),
        (replace(STALLED, unreached=(4, 6)), Severity.WARNING, "4 of 6 parameters get no gradient"),
        (replace(STALLED, dropout=("net", 0.9)), Severity.WARNING, "training=self.training in net"),
        (replace(STALLED, plateau=False), Severity.INFO, "may have its reasons"),
        (replace(STALLED, plateau=False, unreached=(4, 6)), Severity.WARNING, "Look for a detach"),
        (replace(STALLED, frozen=0.8), Severity.INFO, "may have its reasons"),
        (replace(STALLED, capable=False), Severity.INFO, "may have its reasons"),
        (replace(STALLED, narrow=True), Severity.INFO, "if the few values of an input tell the labels apart"),
        (replace(STALLED, yardsticks=replace(KNOWN, dense=True)), Severity.INFO, "may have its reasons"),
        (replace(STALLED, yardsticks=replace(KNOWN, supervised=False)), Severity.INFO, "may have its reasons"),
        (replace(STALLED, yardsticks=replace(KNOWN, floor=1.4)), Severity.OK, "1.4 is possible"),
        (replace(UNKNOWN, start=-2.3, reached=-500.0, entropy=2.25), Severity.ERROR, "the sign is flipped"),
        (replace(UNKNOWN, start=-2.3, reached=-500.0), Severity.INFO, "how low this loss can go is unknown"),
        (replace(UNKNOWN, start=-2.3, reached=-9.0, entropy=2.25), Severity.INFO, "is unknown"),
        (replace(UNKNOWN, start=-1.0, reached=-500.0, entropy=2.25), Severity.INFO, "is unknown"),
        (replace(STUCK, narrow=True), Severity.ERROR, "learns no more than a constant"),
        (STUCK, Severity.ERROR, "learns no more than a constant; label: prediction: 3: 3 (0.9)"),
        (replace(STUCK, yardsticks=replace(KNOWN, shapes="[16, 1] and [16]")), Severity.ERROR, "the same shape"),
        (replace(STUCK, frozen=0.8), Severity.WARNING, "no more than a constant"),
        (replace(STUCK, plateau=False), Severity.INFO, "may have its reasons"),
        (replace(STUCK, alike=True), Severity.ERROR, "all examples have the same input"),
        (replace(STUCK, yardsticks=replace(KNOWN, floor=2.3)), Severity.INFO, "nothing to learn"),
        (replace(STUCK, reached=9.0, fell=True), Severity.ERROR, "rises while what training_step returns falls"),
        (replace(STUCK, reached=math.inf), Severity.WARNING, "no later loss was finite"),
        (replace(STUCK, reached=math.inf, start=math.nan), Severity.INFO, "it is not finite"),
        (replace(UNKNOWN, reached=0.2), Severity.OK, "can be learned by heart"),
        (replace(UNKNOWN, reached=1.9), Severity.INFO, "how low this loss can go is unknown"),
        (replace(UNKNOWN, start=-3.0, reached=-9.0), Severity.INFO, "unknown"),
        (UNKNOWN, Severity.WARNING, "does not go down at all"),
        (replace(UNKNOWN, reached=1.0, zeroed=1.01), Severity.ERROR, "with inputs zeroed it reaches 1.01 as well"),
        (replace(UNKNOWN, reached=1.0, zeroed=1.3), Severity.INFO, "unknown"),
    ],
)
def test_judgement(seen: Seen, severity: Severity, words: str) -> None:
    finding = judge_fit(seen)
    assert finding.severity is severity, finding.message
    assert words in f"{finding.message} {finding.advice}"
    assert bool(finding.advice) == (severity >= Severity.WARNING)


OWN = OwnSteps("SGD", 0.1, start=2.3, last=1.0, highest=2.4, moved=0.6, steps=20)


@pytest.mark.parametrize(
    ("own", "words"),
    [
        (OWN, None),
        (replace(OWN, last=2.29, moved=0.01), None),  # slow
        (replace(OWN, last=1.0, highest=30.0), None),  # a spike from which it came back
        (replace(OWN, last=2.25, highest=30.0), "by way of 30"),
        (replace(OWN, last=2.6), "to 2.6"),
        (replace(OWN, last=math.nan), "not finite"),
        (replace(OWN, last=2.3, moved=1e-8), "nowhere"),
        (replace(OWN, start=0.0, last=0.0, moved=0.0), None),
        (replace(OWN, start=-2.0, last=-1.9), None),
        (replace(OWN, start=math.nan), None),
    ],
)
def test_judgement_of_the_runs_own_optimiser(own: OwnSteps, words: str | None) -> None:
    finding = judge_own(own, KNOWN)
    assert (finding is None) == (words is None), finding
    if finding is not None and words is not None:
        assert finding.severity is Severity.WARNING
        assert words in finding.message


def test_judgement_of_dropout_names_place_and_rate() -> None:
    finding = judge_dropout("net.0", 0.5)
    assert finding.severity is Severity.WARNING
    assert "Dropout of 0.5 is applied in net.0" in finding.message


def test_plateau() -> None:
    assert not is_plateau([2.0] * 20)
    assert is_plateau([2.0] * 40)
    assert is_plateau([math.nan] * 40)
    assert not is_plateau([2.0 * 0.99**step for step in range(80)])


def test_peak_rate_of_a_schedule() -> None:
    assert peak_of({"lr": 1e-5, "initial_lr": 1e-3}) == 1e-3
    assert peak_of({"lr": 4e-3, "initial_lr": 4e-3, "max_lr": 0.1}) == 0.1


class Rows(nn.Module):
    def __init__(self, function: Any) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Any:
        return self.function(x)


class Dropped(nn.Module):
    def __init__(self, always: bool) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.body, self.head, self.always = nn.Linear(64, 64), nn.Linear(64, 10), always

    def forward(self, x: Tensor) -> Any:
        return self.head(F.dropout(self.body(x).relu(), 0.5, training=self.always or self.training))


def filled(net: nn.Module, value: float) -> nn.Module:
    for parameter in net.parameters():
        nn.init.constant_(parameter, value)
    return net


def column(o: Tensor) -> Tensor:
    return o[:, 0]


CE = F.cross_entropy


def fresh(mlp: Any) -> nn.Module:
    return mlp()  # type: ignore[no-any-return]


def one_output(mlp: Any) -> nn.Module:
    return mlp(10, 1)  # type: ignore[no-any-return]


def detached(mlp: Any) -> nn.Module:
    return nn.Sequential(mlp(), Rows(torch.detach), nn.Linear(10, 10))


# The network, the loss, the data, and what is found and advised.
BUGS: dict[str, Any] = {
    "softmax": (lambda mlp: nn.Sequential(mlp(), nn.Softmax(1)), CE, "digits", "WARNING", "softmax itself"),
    "softmax-over-batch": (fresh, lambda o, t: F.nll_loss(o.log_softmax(0), t), "digits", "WARNING", "rows of"),
    "zeros": (lambda mlp: filled(mlp(), 0.0), CE, "digits", "ERROR", "start all alike or at zero"),
    "constant": (lambda mlp: filled(mlp(), 0.1), CE, "digits", "WARNING", "start all alike"),
    "clamped": (fresh, lambda o, t: CE(o, t).clamp(max=1.0), "digits", "ERROR", "clamped"),
    "flipped": (fresh, lambda o, t: -CE(o, t), "digits", "ERROR", "with its sign"),
    "detached": (detached, CE, "digits", "WARNING", "Look for a detach"),
    "broadcast": (one_output, F.mse_loss, "diabetes", "ERROR", "the same shape: [16, 1] and [16]"),
    "broadcast-by-hand": (one_output, lambda o, t: ((o - t) ** 2).mean(), "diabetes", "ERROR", "of different shapes"),
    "dropout": (lambda mlp: Dropped(True), CE, "digits", "WARNING", "training=self.training"),
}
TWINS: dict[str, Any] = {
    "mlp": (fresh, CE, "digits"),
    "smoothing": (fresh, lambda o, t: CE(o, t, label_smoothing=0.2), "digits"),
    "sum": (fresh, lambda o, t: CE(o, t, reduction="sum"), "digits"),
    "weights": (fresh, lambda o, t: CE(o, t, weight=torch.linspace(0.1, 3, 10)), "digits"),
    "small": (fresh, lambda o, t: 1e-6 * CE(o, t), "digits"),
    "dropout": (lambda mlp: Dropped(False), CE, "digits"),
    "regression": (one_output, lambda o, t: F.mse_loss(column(o), t), "diabetes"),
    "by-hand": (one_output, lambda o, t: ((column(o) - t) ** 2).mean(), "diabetes"),
    "normed": (lambda mlp: nn.Sequential(nn.BatchNorm1d(64), mlp(), nn.Dropout(0.3)), CE, "digits"),
}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("bug", BUGS)
def test_fires_on_a_planted_bug(bug: str, found: Any, plain: Any, mlp: Any, request: pytest.FixtureRequest) -> None:
    net, loss, data, severity, words = BUGS[bug]
    findings = found(OverfitOneBatch(), plain(net(mlp), loss), request.getfixturevalue(data))
    worst = max(findings, key=lambda finding: finding.severity)
    assert str(worst.severity).upper() == severity, worst.message
    assert words in f"{worst.message} {worst.advice}"


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("twin", TWINS)
def test_silent_on_healthy_twins(twin: str, found: Any, plain: Any, mlp: Any, request: pytest.FixtureRequest) -> None:
    net, loss, data = TWINS[twin]
    for seed in range(2):
        (finding,) = found(OverfitOneBatch(), plain(net(mlp), loss), request.getfixturevalue(data), seed=seed)
        assert finding.severity is Severity.OK, finding.message


def test_floor_of_smoothed_labels_and_of_twins(found: Any, plain: Any, mlp: Any, digits: Any) -> None:
    (smoothed,) = found(OverfitOneBatch(), plain(mlp(), lambda o, t: CE(o, t, label_smoothing=0.2)), digits)
    kept, other = 0.8 + 0.2 / 10, 0.2 / 10
    assert smoothed.evidence["loss_floor"] == pytest.approx(-kept * math.log(kept) - 9 * other * math.log(other))
    twins = torch.cat([digits[0][:8], digits[0][:8]]), torch.arange(16) % 10
    (finding,) = found(OverfitOneBatch(), plain(mlp()), twins, batch=16)
    assert finding.evidence["loss_floor"] == pytest.approx(math.log(2))
    assert finding.severity is Severity.OK, finding.message


@pytest.mark.filterwarnings("ignore")
def test_a_frozen_body_is_no_fault(found: Any, plain: Any, mlp: Any, digits: Any) -> None:
    net = mlp()
    net[:4].requires_grad_(False)
    (finding,) = found(OverfitOneBatch(), plain(net), digits)
    assert finding.severity <= Severity.INFO, finding.message


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    ("optimizer", "words"),
    [
        (lambda p: torch.optim.Adam(p, 1e-3, maximize=True), "maximize"),
        (lambda p: torch.optim.SGD(p, 10.0, momentum=0.9), "Lower the learning rate"),
        (lambda p: torch.optim.SGD(p, 1e-12), "Raise the learning rate"),
    ],
)
def test_fires_on_an_optimiser_that_cannot_work(
    optimizer: Any, words: str, found: Any, plain: Any, mlp: Any, digits: Any
) -> None:
    fitted, own = found(OverfitOneBatch(), plain(mlp(), optimizer=optimizer), digits)
    assert fitted.severity is Severity.OK
    assert own.severity is Severity.WARNING
    assert words in own.advice


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(("bound", "alarms"), [(None, 1), (0.01, 0)])
def test_sees_the_clipping_of_a_step_under_manual_optimisation(
    bound: float | None, alarms: int, found: Any, mlp: Any, digits: Any
) -> None:
    class Manual(L.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.net, self.automatic_optimization = mlp(), False

        def training_step(self, batch: Any, batch_idx: int) -> None:
            optimizer = self.optimizers()
            optimizer.zero_grad()
            self.manual_backward(F.cross_entropy(self.net(batch[0]), batch[1]))
            if bound is not None:
                self.clip_gradients(optimizer, gradient_clip_val=bound, gradient_clip_algorithm="norm")
            optimizer.step()

        def configure_optimizers(self) -> Any:
            return torch.optim.SGD(self.parameters(), 10.0, momentum=0.9)

    module = Manual()
    findings = found(OverfitOneBatch(), module, digits)
    assert sum(finding.severity is Severity.WARNING for finding in findings) == alarms, findings
    assert "clip_gradients" not in vars(module)


def test_no_time_is_no_fault(found: Any, plain: Any, mlp: Any, digits: Any) -> None:
    (finding,) = found(OverfitOneBatch(budget=0.011), plain(mlp()), digits)
    assert finding.severity is Severity.INFO
    assert "Skipped" in finding.message
