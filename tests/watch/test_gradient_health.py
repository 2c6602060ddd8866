"""gradient-health: the judgement on numbers, then planted bugs and their healthy twins in real fits."""

from __future__ import annotations

import math
import pickle
from dataclasses import replace
from pathlib import Path
from typing import Any

import lightning.pytorch as L
import pytest
import torch
import torch.nn.functional as F
from sklearn.datasets import load_digits
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from lightning_rules import GradientHealth, Severity
from lightning_rules.watch.gradient_health import layers_of
from lightning_rules.watch.gradient_history import BadStep, GradientHistory, GradientsSeen, ParameterSeen
from lightning_rules.watch.gradient_judgement import judge
from lightning_rules.watch.gradient_stream import GradientStream


def parameter(name: str, elements: int = 100, **numbers: Any) -> ParameterSeen:
    return ParameterSeen(name, elements, **{"present": 100, "moved": 100, **numbers})


NET = (parameter("net.0.weight"), parameter("net.2.weight"), parameter("net.4.weight"))
WELL = GradientsSeen("", 100, 100, parameters=NET, norms=(1.0, 1.0), losses=(2.3, 2.2))
BAD = replace(WELL, bad=4, bad_run=4, first_bad=BadStep(96, "net.2.weight", 2, 0.7), bad_weights=3)


def changed(place: int, **numbers: Any) -> tuple[ParameterSeen, ...]:
    return tuple(replace(one, **numbers) if index == place else one for index, one in enumerate(NET))


OFF = tuple(replace(one, recent=0.0) for one in NET)
TABLE = changed(0, moved=0, is_table=True, elements=1000)


@pytest.fixture(autouse=True)
def _each_step_is_looked_at(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """However slow the machine."""
    if request.function is not test_rows_of_all_kinds_of_gradients:
        monkeypatch.setattr("lightning_rules.watch.gradient_stream.CHEAP", 1.0)


@pytest.mark.parametrize(
    ("seen", "rule", "severity", "words"),
    [
        (WELL, "non-finite-gradients", Severity.OK, "were finite at all 100 steps; their norm went from 1 to 1."),
        (BAD, "non-finite-gradients", Severity.ERROR, "first at step 96: 2 of 3, `net.2.weight` nearest to the loss"),
        (BAD, "non-finite-gradients", Severity.ERROR, "The loss is finite and its derivative is not"),
        (
            replace(BAD, first_bad=BadStep(96, "net.2.weight", 2, 0.7, of=4)),
            "non-finite-gradients",
            Severity.ERROR,
            "step 96 (one in 4 is looked at): 2 of 3, `net.2.weight` nearest to the loss",
        ),
        (
            replace(BAD, first_bad=BadStep(96, "net.4.weight", 3, math.nan, of=4)),
            "non-finite-gradients",
            Severity.ERROR,
            "looked at): 3 of 3, with a loss",
        ),
        (replace(BAD, first_bad=BadStep(96, "a", 2, math.nan)), "non-finite-gradients", Severity.ERROR, "Look for NaN"),
        (
            replace(BAD, first_bad=BadStep(9, "a", 2, 1.0, grown=1e4)),
            "non-finite-gradients",
            Severity.ERROR,
            "10000-fold",
        ),
        (replace(BAD, bad_weights=0), "non-finite-gradients", Severity.WARNING, "at 4 of 100 steps"),
        (replace(BAD, bad_weights=0, steps=1000), "non-finite-gradients", Severity.INFO, "the weights are finite"),
        (replace(BAD, bad_weights=0, bad=1, steps=70), "non-finite-gradients", Severity.INFO, "at 1 of 70 steps"),
        (
            replace(BAD, scaled=True, bad_weights=0),
            "non-finite-gradients",
            Severity.INFO,
            "GradScaler skips such steps",
        ),
        (replace(BAD, scaled=True, bad_run=24), "non-finite-gradients", Severity.ERROR, "each of the last 24 steps"),
        (replace(BAD, scaled=True, bad=100, steps=300), "non-finite-gradients", Severity.WARNING, "at 100 of 300"),
        (replace(WELL, steps=0, batches=50), "non-finite-gradients", Severity.INFO, "was seen in 50 batches"),
        (replace(WELL, parameters=OFF), "vanishing-gradients", Severity.WARNING, "have fallen below 0.0001"),
        (replace(WELL, parameters=OFF, losses=(2.3, 0.2)), "vanishing-gradients", None, "it has converged"),
        (replace(WELL, parameters=OFF, losses=(math.nan,) * 2), "vanishing-gradients", None, "no loss is known"),
        (replace(WELL, parameters=OFF, small_data=True), "vanishing-gradients", None, "the whole data in each batch"),
        (replace(WELL, parameters=OFF, losses=(0.0, 0.0)), "vanishing-gradients", None, "nothing to learn"),
        (replace(WELL, parameters=changed(1, recent=0.0)), "vanishing-gradients", None, "one stray layer"),
        (
            replace(WELL, parameters=changed(0, early=1e-7, largest=1e-7, recent=1e-7)),
            "vanishing-gradients",
            Severity.WARNING,
            "the gradient of `net.0.weight` is 1.0e-07 of that of `net.4.weight`",
        ),
        (
            replace(WELL, parameters=changed(0, early=0.0, largest=1e-3, recent=1e-3)),
            "vanishing-gradients",
            None,
            "a branch that starts as nothing",
        ),
        (replace(WELL, norms=(0.1, 20.0), losses=(2.0, 9.0)), "exploding-gradients", Severity.WARNING, "to 200 times"),
        (replace(WELL, norms=(0.1, 20.0), losses=(2.0, 1.0)), "exploding-gradients", None, "the loss falls"),
        (replace(WELL, norms=(0.0, 20.0), losses=(2.0, 9.0)), "exploding-gradients", None, "nothing to compare with"),
        (
            replace(WELL, parameters=tuple(replace(one, present=0, moved=0) for one in NET)),
            "zero-gradients",
            Severity.ERROR,
            "No parameter had a gradient at any of 100 steps",
        ),
        (
            replace(WELL, parameters=tuple(replace(one, moved=0) for one in NET)),
            "zero-gradients",
            Severity.WARNING,
            "100% of what the optimiser holds",
        ),
        (replace(WELL, parameters=changed(1, moved=0)), "zero-gradients", Severity.INFO, "`net.2` at each of 100"),
        (replace(WELL, parameters=changed(1, moved=1)), "zero-gradients", None, "it moved once"),
        (replace(WELL, parameters=TABLE), "zero-gradients", None, "an embedding"),
        (
            replace(WELL, clip=1e-3, clipped=1.0, adaptive=False),
            "always-clipped",
            Severity.WARNING,
            "1,000.0 times shorter than the learning rate says",
        ),
        (replace(WELL, clip=1e-3, clipped=1.0), "always-clipped", Severity.INFO, "at 100% of the steps, to 0.001"),
        (
            replace(WELL, clip=1e-3, clipped=1.0, adaptive=False, losses=(2.3, 0.3)),
            "always-clipped",
            Severity.INFO,
            "at 100%",
        ),
        (replace(WELL, clip=1.0, clipped=0.7), "always-clipped", None, "now and then"),
        (replace(WELL, rounds=12, kept=12), "uncleared-gradients", Severity.ERROR, "in 12 of 12 rounds"),
        (replace(WELL, rounds=12, kept=11), "uncleared-gradients", None, "cleared once"),
        (replace(WELL, rounds=2, kept=2), "uncleared-gradients", None, "too few rounds"),
    ],
)
def test_judgement(seen: GradientsSeen, rule: str, severity: Severity | None, words: str) -> None:
    found = [finding for finding in judge([[seen], [seen]]) if finding.rule == rule]
    assert [finding.severity for finding in found] == ([] if severity is None else [severity])
    if severity is not None:
        assert words in f"{found[0].message} {found[0].advice}"
        assert bool(found[0].advice) or severity < Severity.WARNING


def test_one_rank_is_enough_for_nan_and_not_for_the_rest() -> None:
    (finding,) = judge([[WELL], [BAD]])
    assert finding.severity is Severity.ERROR
    lost = replace(WELL, parameters=OFF)
    assert [finding.severity for finding in judge([[WELL], [lost]])] == [Severity.OK]


def test_the_windows_are_bounded_and_survive_a_checkpoint() -> None:
    def history() -> GradientHistory:
        facts = {"label": "", "clip": 0.5}
        return GradientHistory(["b", "a"], [1, 1], [1, 0], [2, 2], [False, False], facts)

    torch.manual_seed(0)
    rows, losses = torch.rand(300, 2) + 1, torch.rand(300)
    rows[200, 0] = math.inf
    rows[:, 1] = torch.where(torch.arange(300) < 5, -1.0, rows[:, 1])
    whole, first, second = history(), history(), history()
    whole.add([(step, 1) for step in range(300)], rows, losses, torch.ones(2))
    first.add([(step, 1) for step in range(150)], rows[:150], losses[:150], torch.ones(2))
    second.load(first.state())
    second.add([(step, 1) for step in range(150, 300)], rows[150:], losses[150:], torch.ones(2))
    assert second.seen() == whole.seen()
    assert (len(whole.early), len(whole.recent)) == (16, 64)
    seen = whole.seen()
    assert [one.name for one in seen.parameters] == ["a", "b"]  # in the order of the module
    assert seen.parameters[0].present == 295
    assert seen.clipped == 1.0
    assert seen.first_bad is not None
    assert (seen.first_bad.step, seen.first_bad.nearest) == (200, "b")
    assert (seen.bad, seen.bad_run) == (1, 0)


def test_layers_are_few() -> None:
    assert layers_of(["net.0.weight", "net.0.bias", "scale"]) == ["net.0", "net.0", "scale"]
    many = [f"net.{stage}.{block}.weight" for stage in range(4) for block in range(20)]
    assert set(layers_of(many)) == {f"net.{stage}" for stage in range(4)}
    assert set(layers_of([f"p{place}" for place in range(50)])) == {"others"}


def test_rows_of_all_kinds_of_gradients() -> None:
    tensors = [torch.zeros(2, dtype=torch.bfloat16), torch.zeros(3, dtype=torch.float64), torch.zeros(4, 2)]
    parameters = [nn.Parameter(tensor) for tensor in tensors]
    stream = GradientStream(torch.optim.SGD(parameters, 0.1))
    parameters[0].grad = torch.full((2,), 1e10, dtype=torch.bfloat16)
    parameters[2].grad = torch.sparse_coo_tensor(torch.tensor([[1]]), torch.tensor([[3.0, 4.0]]), (4, 2))
    stream.add(7, 0)
    places, (block,), _ = stream.readings()
    assert places.tolist() == [[7, 0, 1]]
    assert block.tolist() == [[pytest.approx(1.414e10, rel=0.01), -1.0, 5.0]]
    stream._seconds = [0.01] * 5
    stream.adapt(0.1, 0.01)  # a row takes 10 ms, and 1 ms is allowed
    assert stream.every == 11
    stream._seconds = [4e-5] * 5
    stream.adapt(1e-3, 0.01)  # cheap in itself
    assert stream.every == 1


class Model(L.LightningModule):
    """A small net; ``loss`` maps outputs and labels to a loss."""

    def __init__(self, net: nn.Module | None = None, loss: Any = F.cross_entropy, optimiser: Any = None) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.net: Any = net if net is not None else mlp()
        self.loss, self.optimiser = loss, optimiser or (lambda parameters: torch.optim.Adam(parameters, 1e-3))

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        return self.loss(self.net(batch[0]), batch[1])

    def configure_optimizers(self) -> Any:
        return self.optimiser(self.parameters())


class Manual(Model):
    """Two optimisers, by hand; ``clears`` says which are cleared."""

    def __init__(self, clears: bool = True, every: int = 1, between: bool = False) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.clears, self.every, self.between = clears, every, between

    def training_step(self, batch: Any, batch_idx: int) -> None:
        loss = F.cross_entropy(self.net(batch[0]), batch[1])
        optimizers: Any = self.optimizers()
        self.manual_backward(loss)
        if (batch_idx + 1) % self.every:
            return
        for optimizer in optimizers:
            if self.between:
                optimizer.zero_grad()
            optimizer.step()
            if self.clears:
                optimizer.zero_grad()

    def configure_optimizers(self) -> Any:
        return [torch.optim.Adam(self.net[1].parameters()), torch.optim.SGD(self.net[3].parameters(), 0.01)]


class Forgetful(Model):
    def optimizer_zero_grad(self, *args: Any) -> None:
        return


class NaNAt(Model):
    """The derivative of a square root at 0 is infinite from batch 20 on."""

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        hidden = self.net[2](self.net[1](self.net[0](batch[0])))
        extra = hidden.sum() * (0.0 if self.global_step == 20 else 1.0)
        return F.cross_entropy(self.net[3](hidden), batch[1]) + 1e-6 * extra.square().sqrt()


def mlp() -> nn.Sequential:
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 10))


def deep(activation: Any) -> nn.Module:
    torch.manual_seed(0)
    hidden = [layer for _ in range(8) for layer in (nn.Linear(64, 64), activation())]
    return nn.Sequential(nn.Flatten(), *hidden, nn.Linear(64, 10))


def fit(model: L.LightningModule, rule: Any = None, ckpt_path: Any = None, **options: Any) -> Any:
    rule = rule or GradientHealth()
    bunch = load_digits()
    data = TensorDataset(torch.tensor(bunch.images, dtype=torch.float32) / 16, torch.tensor(bunch.target))
    quiet = dict.fromkeys(("logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary"), False)
    torch.manual_seed(1)
    trainer = L.Trainer(**{"accelerator": "cpu", "max_epochs": 3, "callbacks": [rule], **quiet, **options})
    trainer.fit(model, DataLoader(data, 48, shuffle=True), ckpt_path=ckpt_path, weights_only=ckpt_path is not None)
    return rule


def alarms(rule: Any) -> list[str]:
    return [finding.rule for finding in rule.findings if finding.severity >= Severity.WARNING]


@pytest.mark.parametrize(
    ("model", "options", "expected"),
    [
        (lambda: NaNAt(), {}, ["non-finite-gradients"]),
        (lambda: Model(deep(nn.Sigmoid), optimiser=lambda p: torch.optim.SGD(p, 0.01)), {}, ["vanishing-gradients"]),
        (lambda: Model(deep(nn.Tanh), optimiser=lambda p: torch.optim.SGD(p, 0.01)), {}, []),
        (lambda: Model(loss=lambda o, y: F.cross_entropy(o, y).clamp(max=1)), {}, ["zero-gradients"]),
        (
            lambda: Model(optimiser=lambda p: torch.optim.SGD(p, 0.1)),
            {"gradient_clip_val": 1e-5},
            ["always-clipped"],
        ),
        (lambda: Model(), {"gradient_clip_val": 0.01}, []),
        (lambda: Forgetful(), {}, ["uncleared-gradients"]),
        (lambda: Manual(), {}, []),
        (lambda: Manual(every=3), {}, []),
        (lambda: Manual(clears=False), {}, ["uncleared-gradients"]),
        (lambda: Manual(between=True), {}, ["zero-gradients"]),
        (lambda: Model(), {"accumulate_grad_batches": 4}, []),
        (lambda: Model(optimiser=lambda p: torch.optim.LBFGS(p, 0.1, max_iter=2)), {"max_steps": 40}, []),
    ],
)
def test_in_a_fit(model: Any, options: dict[str, Any], expected: list[str]) -> None:
    rule = fit(model(), **options)
    assert sorted(set(alarms(rule))) == expected, rule.findings
    assert not [finding for finding in rule.findings if "Does not apply" in finding.message]


def test_names_step_and_parameter_of_the_first_nan() -> None:
    error = next(one for one in fit(NaNAt()).findings if one.severity is Severity.ERROR)
    assert error.evidence["first_bad_step"] == 20
    assert error.evidence["parameter"] == "net.1.bias"  # the head's gradient was finite
    assert ": 2 of 4, " in error.message
    assert "The loss is finite and its derivative is not" in error.advice
    assert error.step <= 32  # told at the next look


def test_it_leaves_no_trace() -> None:
    models = []
    for callbacks in ([GradientHealth()], []):
        torch.manual_seed(3)
        model = Model(nn.Sequential(nn.Flatten(), nn.Linear(64, 32), nn.Dropout(), nn.Linear(32, 10)))
        rule = fit(model, callbacks=callbacks, max_epochs=2)
        state = torch.random.get_rng_state()
        models.append([*model.parameters(), *model.trainer.optimizers[0].state_dict()["state"][0].values(), state])
        pickle.dumps(rule)
    assert all(torch.equal(*pair) for pair in zip(*models, strict=True))


def test_a_resumed_run_goes_on_with_its_windows(tmp_path: Any) -> None:
    model, first, again = Model(), GradientHealth(), GradientHealth()
    fit(model, first, max_epochs=1)
    model.trainer.save_checkpoint(tmp_path / "last.ckpt")
    fit(Model(), again, tmp_path / "last.ckpt", max_epochs=2)
    assert again._seen[0].steps == 2 * first._seen[0].steps
    assert again._seen[0].norms[0] == first._seen[0].norms[0]  # compared with the beginning of the first part


def test_norms_are_logged() -> None:
    logger = L.loggers.CSVLogger("logs")
    fit(Model(), logger=logger)
    names = (Path(logger.log_dir) / "metrics.csv").read_text().partition("\n")[0].split(",")
    assert {"rules/gradient_norm/total", "rules/gradient_norm/net.1", "rules/gradient_norm/net.3"} <= set(names)
