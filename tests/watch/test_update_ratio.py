"""update-ratio: the judgement on numbers, the measurement against plain arithmetic, bugs and healthy twins in fits."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import lightning.pytorch as L
import pytest
import torch
import torch.nn.functional as F
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from lightning_rules import Severity, UpdateRatio
from lightning_rules.watch.strided import stride_of, strided
from lightning_rules.watch.update_pace import Pace
from lightning_rules.watch.updates import (
    UpdatesSeen,
    judge_end,
    judge_large,
    judge_small,
    judge_still,
    judge_updates,
    still_now,
)
from lightning_rules.watch.weight_steps import Watched, WeightSteps

INFINITE = float("inf")


def pace(ratio: float, rate: float = 0.1, kind: str = "SGD", steps: int = 20, start: float | None = None) -> Pace:
    """What 20 measured steps of three weights leave that change by one ratio."""
    made = Pace(kind)
    weights = [Watched(name, 0, True, 10, 0.01) for name in "abc"]
    for step in range(steps):
        made.add(weights, [ratio] * 3, [1.0] * 3, [(rate, rate if start is None else start)], step)
    return made


@pytest.mark.parametrize(
    ("given", "severity"),
    [
        (pace(5e-3), None),
        (pace(0.09), None),
        (pace(0.15), Severity.INFO),
        (pace(0.25), Severity.WARNING),
        (pace(0.25, steps=11), None),  # the first steps
        (pace(0.25, kind="LBFGS"), None),
    ],
)
def test_judgement_of_large_steps(given: Pace, severity: Severity | None) -> None:
    found = judge_large(given)
    assert (found and found.severity) is severity
    assert found is None or "rate of 0.1 the steps are large" in found.message


def test_weights_that_blow_up_at_once() -> None:
    weights = [Watched(name, 0, True, 1, 0.01) for name in "abc"]
    for begin, fires in ((0, True), (500, False)):
        made = Pace("Adam")
        for step, size in enumerate((0.05, 0.3, 1.0, 1.5, 1.6)):
            made.add(weights, [1e-3] * 3, [size] * 3, [(1.0, 1.0)], begin + step)
        found = judge_large(made)
        assert (found is not None) is fires
        assert found is None or "up to 32 times the size" in found.message


@pytest.mark.parametrize(
    ("given", "planned", "fires"),
    [
        (pace(5e-4), 100, False),
        (pace(2e-6), 1e3, True),
        (pace(2e-6), 1e5, False),  # a long run gets there
        (pace(2e-6), INFINITE, False),
        (pace(3e-5), 100, True),
        (pace(3e-5), 1e3, False),
        (pace(2e-6, start=1.0), 1e3, False),  # on the way up to a rate ten times as high
        (pace(2e-6, steps=9), 1e3, False),
    ],
)
def test_judgement_of_small_steps(given: Pace, planned: float, fires: bool) -> None:
    found = judge_small(given, planned)
    assert (found is not None) is fires
    assert found is None or (
        "rate of 0.1 the steps are too small" in found.message and "Raise the learning rate" in found.advice
    )


def test_a_run_that_was_once_fast_is_not_too_slow() -> None:
    """Converged, or at the end of its schedule."""
    made = pace(1e-3)
    for step in range(50):
        made.add([Watched(name, 0, True, 10, 0.01) for name in "abc"], [1e-8] * 3, [1.0] * 3, [(0.1, 0.1)], step)
    assert judge_small(made, 1e3) is None


def test_numbers_that_are_not_finite_are_left_to_others() -> None:
    for ratio in (float("nan"), INFINITE):
        made = pace(ratio)
        assert judge_small(made, 1e3) is None
        assert ratio == INFINITE or judge_large(made) is None
        still: tuple[list[str], list[str], int] = ([], [], 3)
        assert [one.severity for one in judge_updates(UpdatesSeen([made], 1e3, 0, None, still))] in (
            [],
            [Severity.WARNING],
        )


def test_an_optimiser_without_a_rate_is_measured() -> None:
    made = Pace("Adafactor")
    for step in range(20):
        made.add([Watched("a", 0, True, 10, 0.01)], [1e-3], [1.0], [()], step)
    assert made.peak == 0.0
    assert made.fastest == pytest.approx(1e-3)
    assert judge_large(made) is judge_small(made, 1e3) is None


def test_nothing_moves_at_all() -> None:
    found = judge_small(pace(0.0), 1e3)
    assert found is not None
    assert found.rule == "weights-never-move"
    assert "3 weights have not moved at all in 20 measured steps" in found.message


@pytest.mark.parametrize(
    ("alive", "done", "fires"), [(0.3, 0.7, False), (0.3, 0.85, True), (0.98, 1.0, False), (0.0, None, False)]
)
def test_judgement_of_the_end_of_the_rate(alive: float, done: float | None, fires: bool) -> None:
    found = judge_end(UpdatesSeen([], 100, alive, done, ([], [], 0)))
    assert (found is not None) is fires
    assert found is None or "after 30% of the planned run" in found.message


def test_judgement_of_weights_that_stand_still() -> None:
    watched = [Watched(name, 0, name == "w", 10, 0.1) for name in ("w", "b")]
    assert still_now(watched, [20, 20], [0.0, 0.0], 20, 250) == (["w"], ["b"])
    assert still_now(watched, [20, 20], [0.1, 0.0], 20, 250) == ([], ["b"])
    assert still_now(watched, [2, 20], [0.0, 0.1], 20, 250) == ([], [])  # no gradient, or no rate
    assert still_now(watched, [20, 20], [0.0, 0.0], 20, 150) == ([], [])  # too early
    assert judge_still(["w"], [], 2).severity is Severity.WARNING  # type: ignore[union-attr]
    assert judge_still([], ["b"], 2).severity is Severity.INFO  # type: ignore[union-attr]
    assert judge_still([], [], 2) is None


@pytest.mark.parametrize("count", [1, 7, 4096, 4097, 64 * 128, 512 * 512 * 9])
def test_samples_are_even_and_share_no_divisor(count: int) -> None:
    stride = stride_of(count, 4096)
    assert len(range(0, count, stride)) <= 4096
    assert stride == 1 or count % stride
    assert count < 8192 or len(range(0, count, stride)) > 2700


def test_samples_are_views_in_any_memory_format() -> None:
    for tensor in (
        torch.rand(8, 6, 3, 3),
        torch.rand(8, 6, 3, 3).to(memory_format=torch.channels_last),
        torch.rand(9, 4).T,
    ):
        sample = strided(tensor, 10_000)
        assert sample is not None
        assert sample.data_ptr() == tensor.data_ptr()
        assert torch.equal(sample.sort().values, tensor.flatten().sort().values)
    assert strided(torch.rand(8, 8)[:, :3], 100) is None  # with gaps
    assert strided(torch.empty(0), 100) is None


def test_measured_as_plain_arithmetic_has_it() -> None:
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Conv2d(1, 4, 3).to(memory_format=torch.channels_last), nn.Flatten(), nn.Linear(16, 3)
    ).double()
    net[2].bias.data = net[2].bias.data.float()
    groups: list[dict[str, Any]] = [{"params": net[0].parameters()}, {"params": net[2].parameters(), "lr": 0.0}]
    optimizer = torch.optim.SGD(groups, 0.1)
    watch = WeightSteps(optimizer, net, 0)
    old = [net[0].weight.detach().clone(), net[2].weight.detach().clone()]
    for parameter in net.parameters():
        parameter.grad = torch.randn_like(parameter)
    watch.before()
    optimizer.step()
    changes, sizes = (torch.cat(parts) for parts in watch.after(optimizer) or ())
    assert [weight.name for weight in watch.judged] == ["0.weight", "2.weight"]
    assert changes.tolist() == pytest.approx([(net[0].weight - old[0]).abs().sum().item(), 0.0])
    assert sizes.tolist() == pytest.approx([weight.abs().sum().item() for weight in old])
    assert dict(zip([one.name for one in watch.watched], watch.reached, strict=True))["2.weight"] == 0
    farthest = torch.cat([part.double() for part in watch.farthest()]).tolist()
    assert [change > 0 for change in farthest] == [one.group == 0 for one in watch.watched]


class Model(L.LightningModule):
    resume_from: str | None = None

    def __init__(self, make: Any, net: nn.Module | None = None, schedule: Any = None) -> None:
        super().__init__()
        self.net: Any = net or nn.Sequential(nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 10))
        self.make, self.schedule = make, schedule

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        return F.cross_entropy(self.net(batch[0]), batch[1])

    def configure_optimizers(self) -> Any:
        optimizer = self.make(self.net.parameters())
        return [optimizer], [self.schedule(optimizer)] if self.schedule else []


def fit(model: Any, rules: list[Any], **options: Any) -> Any:
    bunch = load_digits()
    data = TensorDataset(torch.tensor(bunch.data / 16, dtype=torch.float32)[:640], torch.tensor(bunch.target)[:640])
    quiet = dict.fromkeys(("logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary"), False)
    trainer = L.Trainer(**{"accelerator": "cpu", "max_epochs": 4, "callbacks": rules, **quiet, **options})
    trainer.fit(model, DataLoader(data, 32, shuffle=True), ckpt_path=model.resume_from)
    return trainer


def alarms(rule: Any) -> list[str]:
    return [finding.rule for finding in rule.findings if finding.severity >= Severity.WARNING]


def adam(rate: float) -> Any:
    return lambda parameters: torch.optim.Adam(parameters, rate)


def sgd(rate: float, momentum: float = 0.9) -> Any:
    return lambda parameters: torch.optim.SGD(parameters, rate, momentum)


class DeadEnd(nn.Module):
    """A layer whose output is multiplied by zero."""

    def __init__(self) -> None:
        super().__init__()
        self.dead, self.head = nn.Linear(64, 64), nn.Linear(64, 10)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.head(x + 0 * self.dead(x))
        return logits


def by_tenths(optimizer: Any) -> Any:
    return torch.optim.lr_scheduler.StepLR(optimizer, 1, 0.1)


BUGS: dict[str, tuple[Any, dict[str, Any], str]] = {
    "rate-too-high": (lambda: Model(adam(1.0)), {}, "updates-too-large"),
    "rate-too-low": (lambda: Model(sgd(1e-6)), {}, "updates-too-small"),
    "schedule-by-tenths": (lambda: Model(sgd(0.1), None, by_tenths), {"max_epochs": 8}, "rate-ends-early"),
    "dead-end": (lambda: Model(sgd(0.1), DeadEnd()), {"max_epochs": 11}, "weights-never-move"),
}


@pytest.mark.parametrize("bug", BUGS)
def test_fires_on_a_planted_bug(bug: str) -> None:
    torch.manual_seed(0)
    make, options, aspect = BUGS[bug]
    rule = UpdateRatio()
    fit(make(), [rule], **options)
    assert alarms(rule) == [aspect]
    assert all(finding.advice for finding in rule.findings if finding.rule == aspect)


TWINS: dict[str, tuple[Any, dict[str, Any]]] = {
    "adam": (lambda: Model(adam(2e-3)), {}),
    "logistic": (lambda: Model(sgd(0.5, 0.0), nn.Linear(64, 10)), {}),
    "cosine": (lambda: Model(sgd(0.1), None, lambda o: torch.optim.lr_scheduler.CosineAnnealingLR(o, 4)), {}),
    "fine-tuning": (lambda: Model(adam(2e-5)), {}),
    "lbfgs": (lambda: Model(lambda p: torch.optim.LBFGS(p, 0.5, max_iter=3)), {"max_epochs": 2}),
    "accumulated": (lambda: Model(sgd(0.1)), {"accumulate_grad_batches": 3}),
}


@pytest.mark.parametrize("twin", TWINS)
def test_silent_on_healthy_twins(twin: str) -> None:
    torch.manual_seed(0)
    make, options = TWINS[twin]
    rule = UpdateRatio()
    fit(make(), [rule], **options)
    assert [finding.severity for finding in rule.findings] == [Severity.OK], rule.findings


def test_leaves_no_trace_and_no_hooks() -> None:
    """Other hooks on the optimiser, before and after those of the rule, run as they did."""

    class Hooked(Model):
        def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:  # after the rule's
            if batch_idx == 0 and self.current_epoch == 0:
                self.calls: list[int] = []
                self.trainer.optimizers[0].register_step_post_hook(lambda *_: self.calls.append(self.global_step))

    left = []
    for rules in ([], [UpdateRatio(overhead=0.9)]):
        torch.manual_seed(0)
        model = Hooked(adam(1e-3))
        trainer = fit(model, rules, max_epochs=2)
        optimizer = trainer.optimizers[0]
        assert (len(optimizer._optimizer_step_pre_hooks), len(optimizer._optimizer_step_post_hooks)) == (0, 1)
        state = [value for values in optimizer.state.values() for value in values.values()]
        left.append(([*model.parameters(), *state, torch.get_rng_state()], model.calls))
    assert left[0][1] == left[1][1]
    assert len(left[1][1]) == 40
    assert all(torch.equal(one, other) for one, other in zip(left[0][0], left[1][0], strict=True))


class Fails(L.Callback):
    """Ends a fit in a sampled batch, between the hooks; copies the module there."""

    def on_after_backward(self, trainer: Any, pl_module: Any) -> None:
        if trainer.global_step == 8:
            optimizer = trainer.optimizers[0]
            assert len(optimizer._optimizer_step_pre_hooks) == 1
            copy.deepcopy(pl_module.net), copy.deepcopy(optimizer), pickle.dumps(optimizer)
            raise RuntimeError("stopped")


def test_hooks_are_gone_after_an_exception() -> None:
    rule = UpdateRatio()
    model = Model(adam(1e-3))
    with pytest.raises(RuntimeError, match="stopped"):
        fit(model, [rule, Fails()])
    optimizer = model.trainer.optimizers[0]
    assert not optimizer._optimizer_step_pre_hooks
    assert not optimizer._optimizer_step_post_hooks
    assert rule._trainer is None
    assert not rule._watches


def test_windows_survive_a_resume(tmp_path: Any) -> None:
    torch.manual_seed(0)
    trainer = fit(Model(sgd(1e-6)), [UpdateRatio()], max_epochs=2)
    trainer.save_checkpoint(tmp_path / "half.ckpt")
    before = trainer.callbacks[0]
    model = Model(sgd(1e-6))
    model.resume_from = str(tmp_path / "half.ckpt")
    rule = UpdateRatio()
    fit(model, [rule])
    assert before._paces[0].steps == 14
    assert rule._paces[0].steps > 14
    assert alarms(rule) == ["updates-too-small"]


def test_logs_the_ratio_of_each_layer(tmp_path: Any) -> None:
    from lightning.pytorch.loggers import CSVLogger

    logger = CSVLogger(tmp_path)
    fit(Model(adam(1e-3)), [UpdateRatio()], logger=logger)
    text = (tmp_path / "lightning_logs/version_0/metrics.csv").read_text()
    assert "rules/update_ratio/net.0" in text
    assert "rules/update_ratio/net.2" in text


def test_several_optimisers_are_measured_apart() -> None:
    class Two(Model):
        def __init__(self) -> None:
            super().__init__(None)
            self.automatic_optimization = False

        def training_step(self, batch: Any, batch_idx: int) -> None:  # type: ignore[override]
            optimizers: Any = self.optimizers()
            for optimizer in optimizers:
                for _ in range(2):
                    optimizer.zero_grad()
                    self.manual_backward(F.cross_entropy(self.net(batch[0]), batch[1]))
                    optimizer.step()

        def configure_optimizers(self) -> Any:
            return [torch.optim.Adam(self.net[0].parameters(), 1e-3), torch.optim.SGD(self.net[2].parameters(), 1e-2)]

    rule = UpdateRatio()
    fit(Two(), [rule], max_epochs=2)
    assert [(one.kind, one.names, one.steps) for one in rule._paces.values()] == [
        ("Adam", ["net.0.weight"], 14), ("SGD", ["net.2.weight"], 14)
    ]  # fmt: skip
    assert alarms(rule) == []
