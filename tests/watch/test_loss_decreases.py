"""loss-decreases: the judgement on curves, the bounded history, then planted bugs and healthy twins in real fits."""

from __future__ import annotations

import copy
import math
import pickle
from pathlib import Path
from typing import Any

import lightning.pytorch as L
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from lightning.pytorch.loggers import CSVLogger
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from lightning_rules import LossDecreases, Severity
from lightning_rules.view import View
from lightning_rules.watch.loss_decreases import judge_ranks, together, values_of
from lightning_rules.watch.loss_history import BLOCKS, FIRST, RECENT, LossHistory, mean_over_ranks
from lightning_rules.watch.loss_judgements import LossesSeen, judge
from lightning_rules.watch.prior_loss import PriorLoss, prior_loss

pytestmark = pytest.mark.filterwarnings("ignore")
PRIOR = PriorLoss(2.3, 0.003)
N = 400


def history_of(losses: Any) -> LossHistory:
    history = LossHistory()
    history.add([None if loss is None else float(loss) for loss in losses])
    return history


def noisy(curve: Any, noise: float = 0.08, seed: int = 0) -> Any:
    return np.asarray(curve) + noise * np.random.default_rng(seed).normal(size=len(curve))


def falling(start: float = 2.35, end: float = 0.3, n: int = N, rate: float = 6.0) -> Any:
    return end + (start - end) * np.exp(-rate * np.arange(n) / n)


def bump(height: float, at: int, n: int = N) -> Any:
    return height * np.exp(-0.5 * ((np.arange(n) - at) / 6) ** 2)


def alternating(n: int = N) -> Any:
    t = np.arange(n)
    return 1.0 + 0.9 * (t / n) ** 3 * np.where(t % 2, 1.0, -1.0)


FINE = {
    "falls": noisy(falling()),
    "falls slowly": noisy(falling(2.31, 2.2, rate=1.0), 0.05),
    "plateaus early": noisy(falling(1.1, 0.6, rate=60.0), 0.15),
    "converged near zero": np.abs(noisy(falling(2.3, 1e-4, rate=40.0), 1e-4)),
    "starts low, as after pretraining": noisy(np.full(N, 0.2), 0.05),
    "a bump at the start": noisy(falling() + bump(8, 20)),
    "warm restarts": noisy(0.3 + 0.6 * np.abs(np.sin(np.arange(N) / 40)) + falling(1.5, 0.0)),
    "single spikes": noisy(falling()) + 5.0 * (np.arange(N) % 90 == 89),
    "two tasks in turn": noisy(falling()) + 2.0 * (np.arange(N) % 2),
}


@pytest.mark.parametrize("curve", FINE)
@pytest.mark.parametrize("prior", [PRIOR, None])
def test_healthy_curves_raise_no_alarm(curve: str, prior: Any) -> None:
    for end in range(16, N + 1, 32):
        found = judge(LossesSeen(history_of(FINE[curve][:end]), prior, planned=N, ended=end > N - 32))
        assert [finding.message for finding in found if finding.severity >= Severity.WARNING] == []


@pytest.mark.parametrize("values", ["negative", "signed", "rises to a bound", "adversarial"])
def test_losses_that_no_constant_is_compared_with_may_do_as_they_like(values: str) -> None:
    curve = {
        "negative": noisy(falling(50.0, -900.0), 5.0),
        "signed": noisy(np.zeros(N), 1.0),
        "rises to a bound": noisy(3.0 - falling(2.0, 0.0)),
        "adversarial": noisy(0.7 + 4.0 * np.arange(N) / N, 0.3),
    }[values]
    for automatic in (True, False):
        found = judge(LossesSeen(history_of(curve), None, planned=N, automatic=automatic, ended=True))
        assert all(finding.severity <= Severity.INFO for finding in found)


NAN = math.nan
SICK = {
    "nan from the first batch": ([NAN] * 20, "non-finite-loss", Severity.ERROR, "the very first batch", "logarithm"),
    "a bad batch": ([2.3, 2.2, 2.4] + [NAN] * 20, "non-finite-loss", Severity.ERROR, "batch 3 on", "root"),
    "diverged to nan": (
        [*np.geomspace(2.3, 1e30, 40), *[NAN] * 9], "non-finite-loss", Severity.ERROR, "losses rose", "learning rate",
    ),
    "often nan": (
        [NAN if i % 10 == 5 else 1.0 + 1 / (i + 1) for i in range(100)],
        "non-finite-loss", Severity.WARNING, "10 of 100 losses", "in common",
    ),
    "constant": ([1.0] * 100, "no-progress", Severity.ERROR, "exactly 1 at each of 100", "clamp"),
    "blind": (noisy(np.full(N, 2.305), 0.02, seed=1), "no-progress", Severity.WARNING, "from the inputs", "overfit"),
    "stands where it was": (noisy(np.full(N, 2.5), 0.02), "no-progress", Severity.WARNING, "not moved", "Raise"),
    "too fast": (
        noisy(2.35 + bump(9, 30)), "no-progress", Severity.WARNING, "jumped up", "Lower",
    ),
    "rises": (noisy(2.3 + 9 * np.arange(N) / N), "diverging-loss", Severity.ERROR, "has risen", "Lower"),
    "rises and stays": (noisy(6.0 - falling(3.7, 0.0)), "diverging-loss", Severity.WARNING, "has risen", "Lower"),
    "relapses": (
        [*noisy(falling(n=250)), *noisy(np.full(150, 2.1))], "diverging-loss", Severity.WARNING, "fallen to", "decay",
    ),
    "flipped sign": (-(2.3 * 1.03 ** np.arange(N)), "diverging-loss", Severity.ERROR, "without bound", "sign"),
    "alternates": (noisy(alternating(), 0.02), "oscillating-loss", Severity.WARNING, "up and down", "Lower"),
}  # fmt: skip


@pytest.mark.parametrize("curve", SICK)
def test_sick_curves_are_told_apart(curve: str) -> None:
    losses, aspect, severity, words, advice = SICK[curve]
    prior = None if curve in ("flipped sign", "alternates") else PRIOR
    found = judge(LossesSeen(history_of(losses), prior, planned=len(losses), ended=True))
    (alarm,) = [finding for finding in found if finding.severity >= Severity.WARNING]
    assert (alarm.rule, alarm.severity) == (aspect, severity), alarm.message
    assert words in alarm.message
    assert advice in alarm.advice


@pytest.mark.parametrize(
    ("best", "epoch", "said"),
    [(0.8, 28, "jumped at once when epoch 1 began"), (0.8, 40, ""), (0.8, math.inf, ""), (1.9, 28, None)],
)
def test_what_was_learned_is_lost_at_once(best: float, epoch: float, said: str | None) -> None:
    """Labels are left behind by a shuffle between epochs: 100 losses are enough where not even the prior is left."""
    losses = [*noisy(falling(2.3, best, 28)), *noisy(falling(2.5, 2.32, 72), seed=1)]
    found = judge(LossesSeen(history_of(losses), PRIOR, planned=len(losses), epoch_batches=epoch, ended=True))
    alarms = [finding for finding in found if finding.severity >= Severity.WARNING]
    assert [finding.rule for finding in alarms] == ([] if said is None else ["diverging-loss"])
    assert all(said in one.message and ("labels" in one.advice) is bool(said) for one in alarms if said is not None)


def test_one_bad_loss_waits_for_the_next_look() -> None:
    losses = [2.0] * 20 + [NAN]
    assert judge(LossesSeen(history_of(losses))) == []
    (recovered,) = judge(LossesSeen(history_of([*losses, 2.0])))
    assert recovered.severity is Severity.INFO
    (lost,) = judge(LossesSeen(history_of(losses), ended=True))
    assert lost.severity is Severity.ERROR


def test_a_scaler_may_skip_its_first_steps() -> None:
    losses = [math.inf] * 12 + list(noisy(falling()))
    assert judge(LossesSeen(history_of(losses[:12]), scaled=True)) == []
    found = judge(LossesSeen(history_of(losses), PRIOR, planned=N, scaled=True, ended=True))
    assert all(finding.severity <= Severity.INFO for finding in found)
    assert judge(LossesSeen(history_of([math.inf] * 20), scaled=True))[0].severity is Severity.ERROR


def test_the_history_is_bounded_and_true() -> None:
    losses = np.random.default_rng(1).normal(size=10_000) + 5
    history = history_of(losses)
    assert len(history.means) < BLOCKS
    assert (len(history.first), len(history.recent)) == (FIRST, RECENT)
    whole = history.block * len(history.means)
    assert np.mean(history.means) == pytest.approx(losses[:whole].mean())
    assert history.means[3] == pytest.approx(losses[3 * history.block : 4 * history.block].mean())
    assert history.recent == list(losses[-RECENT:])


def test_a_stored_history_goes_on_as_if_it_had_never_stopped() -> None:
    losses = [*noisy(falling()), NAN, *noisy(np.full(50, 0.3)), 40.0]
    stored = LossHistory.of(history_of(losses[:333]).state())
    stored.add(losses[333:])
    assert stored.state() == history_of(losses).state()


def test_ranks_are_averaged_and_a_broken_one_counts() -> None:
    first, second = noisy(falling(), seed=1), noisy(falling(), seed=2)
    mean = mean_over_ranks([history_of(first), history_of(second)])
    np.testing.assert_allclose(mean.means, history_of((first + second) / 2).means)
    broken = [*second[:100], *[NAN] * (N - 100)]
    (alarm,) = judge_ranks([LossesSeen(history_of(first)), LossesSeen(history_of(broken))])[:1]
    assert "batch 100 on" in alarm.message


@pytest.mark.parametrize(
    "kept",
    [
        [torch.tensor(1.5), torch.tensor(2.5)],
        [torch.tensor([1.5]), torch.tensor(2.5)],
        [torch.tensor(1.5, dtype=torch.bfloat16), torch.tensor(2.5, dtype=torch.float64)],
        [torch.tensor(1.5, requires_grad=True), torch.tensor(2.5, requires_grad=True)],
    ],
)
def test_losses_of_any_kind_come_back(kept: list[Tensor]) -> None:
    assert values_of(together([(loss, 4) for loss in kept], automatic=True)) == [6.0, 10.0]
    assert values_of(together([(kept[0], 4), (None, 4)], automatic=False)) == [1.5, None]
    assert values_of(together([], automatic=True)) == []


# Real fits.


def digits() -> tuple[Tensor, Tensor]:
    bunch = load_digits()
    return torch.tensor(bunch.data, dtype=torch.float32) / 16, torch.tensor(bunch.target)


class Model(L.LightningModule):
    def __init__(self, loss: Any = F.cross_entropy, lr: float = 1e-2) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Linear(64, 32), nn.ReLU(), nn.Dropout(0.2), nn.Linear(32, 10))
        self.loss, self.lr = loss, lr

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        return self.loss(self.net(batch[0]), batch[1])

    def configure_optimizers(self) -> Any:
        return torch.optim.Adam(self.parameters(), self.lr)


class Blind(Model):
    def training_step(self, batch: Any, batch_idx: int) -> Any:
        return super().training_step([0 * batch[0], batch[1]], batch_idx)


class Manual(Model):
    def __init__(self, returns: bool) -> None:
        super().__init__()
        self.automatic_optimization, self.returns = False, returns

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        loss = super().training_step(batch, batch_idx)
        self.optimizers().zero_grad()
        self.manual_backward(loss)
        self.optimizers().step()
        return {"loss": loss} if self.returns else None


def fit(module: Any, rules: Any, epochs: int = 2, ckpt: Any = None, **options: Any) -> L.Trainer:
    quiet = dict.fromkeys(("logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary"), False)
    trainer = L.Trainer(**{**quiet, "accelerator": "cpu", "max_epochs": epochs, "callbacks": rules, **options})
    trainer.fit(module, DataLoader(TensorDataset(*digits()), 32, shuffle=True), ckpt_path=ckpt)
    return trainer


def alarms(rule: LossDecreases) -> list[tuple[str, Severity]]:
    return [(one.rule, one.severity) for one in rule.findings if one.severity >= Severity.WARNING]


@pytest.mark.parametrize(
    ("module", "expected"),
    [
        (lambda: Model(), []),
        (lambda: Model(lambda o, y: F.cross_entropy(o, y, label_smoothing=0.1) + 1e-4 * o.square().mean()), []),
        (lambda: Manual(True), []),
        (lambda: Blind(), [("no-progress", Severity.WARNING)]),
        (lambda: Model(lr=1e-9), [("no-progress", Severity.WARNING)]),
        (lambda: Model(lambda o, y: F.cross_entropy(o, y).clamp(max=0.5)), [("no-progress", Severity.ERROR)]),
        (lambda: Model(lambda o, y: (F.cross_entropy(o, y) - 2).sqrt()), [("non-finite-loss", Severity.ERROR)]),
    ],
    ids=["healthy", "smoothed", "manual", "blind", "too slow", "clamped", "square root"],
)
def test_in_a_fit(module: Any, expected: Any) -> None:
    L.seed_everything(0, verbose=False)
    rule = LossDecreases()
    fit(module(), [rule])
    assert alarms(rule) == expected, [one.message for one in rule.findings]
    assert rule.findings


def test_accumulated_losses_are_whole() -> None:
    L.seed_everything(0, verbose=False)
    rule = LossDecreases()
    fit(Model(), [rule], accumulate_grad_batches=4)
    assert rule._history.first[0] == pytest.approx(2.3, abs=0.2)


def test_no_loss_is_said() -> None:
    rule = LossDecreases()
    fit(Manual(False), [rule])
    assert [one.message for one in rule.findings] == ["Does not apply: training_step returns no loss."]


def test_no_trace() -> None:
    states = []
    for rules in ([], [LossDecreases()]):
        L.seed_everything(0, verbose=False)
        module = Model()
        trainer = fit(module, rules)
        states.append((module.state_dict(), trainer.optimizers[0].state_dict()["state"], torch.get_rng_state()))
    (weights, moments, rng), (watched, watched_moments, watched_rng) = states
    assert all(torch.equal(weights[name], watched[name]) for name in weights)
    assert all(torch.equal(moments[0][name], watched_moments[0][name]) for name in moments[0])
    assert torch.equal(rng, watched_rng)


def test_a_resumed_run_remembers(tmp_path: Path) -> None:
    L.seed_everything(0, verbose=False)
    whole, first, second = LossDecreases(), LossDecreases(), LossDecreases()
    trainer = fit(Model(), [first], 1)
    trainer.save_checkpoint(tmp_path / "half.ckpt")
    fit(Model(), [second], 2, ckpt=tmp_path / "half.ckpt")
    fit(Model(), [whole], 2)
    assert second._history.batches == whole._history.batches == 2 * first._history.batches
    assert second._history.first == first._history.first
    assert second._prior == first._prior is not None
    pickle.loads(pickle.dumps(copy.deepcopy(second)))


def test_the_curve_is_logged(tmp_path: Path) -> None:
    fit(Model(), [LossDecreases()], logger=CSVLogger(tmp_path, "", ""))
    header = next((tmp_path).rglob("metrics.csv")).read_text().splitlines()[0]
    assert "rules/training_loss/noise" in header
    assert "rules/training_loss/smoothed" in header


class Asks(L.Callback):
    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        self.prior = prior_loss(View(trainer, pl_module))


WEIGHTS = torch.arange(1.0, 11.0)


@pytest.mark.parametrize(
    ("loss", "expected"),
    [
        (F.cross_entropy, 2.30),
        (lambda o, y: 3 * F.cross_entropy(o, y) / 2, 3.45),
        (lambda o, y: F.cross_entropy(o, y, reduction="sum"), 2.30 * 32),
        (lambda o, y: F.cross_entropy(o, y) + F.multi_margin_loss(o, y), None),  # a term whose constant is unknown
        (lambda o, y: F.cross_entropy(o, y) + 1e-9 * o.square().mean(), None),  # however small it is at the start
        (lambda o, y: F.cross_entropy(o, y, reduction="none").mean(), None),  # each example might be weighed
        (lambda o, y: -F.cross_entropy(o, y), None),
        (lambda o, y: F.mse_loss(o, torch.randn_like(o)), None),
        (lambda o, y: F.cross_entropy(o, y, weight=WEIGHTS), 2.14),
    ],
)
def test_the_prior_is_known_or_not(loss: Any, expected: float | None) -> None:
    L.seed_everything(0, verbose=False)
    asks = Asks()
    fit(Model(loss), [asks], limit_train_batches=1, epochs=1)
    # four batches of 32 weigh classes by luck: a twentieth either way
    assert (asks.prior and asks.prior.mean) == (None if expected is None else pytest.approx(expected, rel=0.05))
