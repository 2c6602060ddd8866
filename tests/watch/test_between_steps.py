"""update-ratio on weights that change outside of steps, on rates that fall back, and on what is never stepped."""

from __future__ import annotations

from typing import Any

import lightning.pytorch as L
import pytest
import torch
import torch.nn.functional as F
from lightning.pytorch.callbacks import EMAWeightAveraging, ModelPruning
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from lightning_rules import Finding, Severity, UpdateRatio
from lightning_rules.watch.between_steps import Course, Opening, cosine, judge_course, opening_of
from lightning_rules.watch.idle_weights import GradientTally, Idle, fresh_at_zero, idle_of, judge_idle
from lightning_rules.watch.optimiser_changes import Held, judge_held
from lightning_rules.watch.weight_steps import Watched, WeightSteps


def course(openings: list[Opening], left: list[float] | None = None, first: float = 0.1) -> Course:
    made = Course("SGD", first)
    made.openings.extend(openings)
    made.left.extend(left or [])
    return made


ANEW, BACK = Opening(0.1, 0.1, redrawn=0.9), Opening(0.1, 0.1, put_back=True)
FALLS, RISES = Opening(0.5, 0.1), Opening(0.1, 0.5)


@pytest.mark.parametrize(
    ("given", "aspect", "words"),
    [
        (course([ANEW, ANEW]), "weights-overwritten", "bear no relation to what they were"),
        (course([BACK, BACK]), "weights-overwritten", "are what they were at the very first"),
        (course([], [0.02] * 8), "weights-overwritten", "2% of a step of SGD is left"),
        (course([FALLS, FALLS]), "warm-up-repeats", "begins the run at 0.1, climbs to 0.5"),
        (course([ANEW]), None, ""),  # once
        (course([ANEW, Opening(0.1, 0.1, redrawn=0.3), Opening(0.1, 0.1)]), None, ""),  # a head now and then
        (course([], [0.02] * 7), None, ""),  # too few
        (course([], [0.5, 1.0, 1.0, 1.0] * 4), None, ""),  # an average looked back to every few steps
        (course([], [0.3] * 16), None, ""),  # a projection
        (course([FALLS, FALLS, RISES]), None, ""),
        (course([RISES, RISES]), None, ""),  # restarts
        (course([FALLS, Opening(0.5, 0.01)]), None, ""),  # a decay by epochs
        (course([FALLS]), None, ""),
        (course([]), None, ""),
    ],
)
def test_judgement_between_steps(given: Course, aspect: str | None, words: str) -> None:
    found = judge_course(given)
    assert [one.rule for one in found] == ([aspect] if aspect else [])
    assert all(words in one.message and one.advice and one.severity is Severity.WARNING for one in found)


def test_openings_are_reduced() -> None:
    watched = [Watched("w", 0, True, 64, 0.1), Watched("b", 0, False, 64, 0.1), Watched("small", 0, True, 8, 0.1)]
    drawn = [[1.0, 1.0, 1.0], [1.0, 1.0, 1.0], [1.4, 0.0, 0.0], [0.5, 0.1, 0.1], [0.6, 0.0, 0.0]]
    assert opening_of(0.1, 0.2, watched, drawn) == Opening(0.1, 0.2, 1.0, put_back=False)
    assert opening_of(0.1, 0.2, watched, [*drawn[:2], [0.1] * 3, drawn[3], [0.0] * 3]) == Opening(0.1, 0.2, 0.0, True)
    assert opening_of(None, 0.2, [], []) == Opening(None, 0.2)
    assert cosine(2.0, 3.0, 13**0.5) == pytest.approx(0.0)
    assert cosine(0.0, 3.0, 3.0) == 1.0


def idle(**changed: Any) -> Idle:
    given = {"kind": "Adam", "weights": ["a"], "of": 2, "stepped": True, "fresh": ["a"], "looks": 20}
    return Idle(**{**given, **changed})


@pytest.mark.parametrize(
    ("given", "batches", "done", "ended", "words"),
    [
        (idle(), 100, 0.4, False, "learning rate has been 0 for 100 batches, and `a` still hold the random numbers"),
        (idle(stepped=False, fresh=[]), 100, 0.4, False, "Adam has never been stepped in 100 batches"),
        (idle(stepped=False), 60, None, True, "never been stepped"),
        (idle(fresh=[]), 100, 0.4, False, ""),  # pretrained: frozen by its rate
        (idle(), 100, 0.1, False, ""),  # may wait for its turn
        (idle(), 40, 1.0, True, ""),
        (idle(looks=8), 100, 1.0, True, ""),
        (idle(weights=[]), 100, 1.0, True, ""),
        (idle(), 100, None, False, ""),
    ],
)
def test_judgement_of_idle_weights(given: Idle, batches: int, done: float | None, ended: bool, words: str) -> None:
    found = judge_idle(given, batches, done, ended)
    assert (found is not None) is bool(words)
    assert found is None or (words in found.message and found.rule == "weights-never-move" and found.advice)


def test_gradients_are_counted() -> None:
    net = nn.Sequential(nn.Linear(40, 40), nn.Linear(40, 4).double())
    groups: list[dict[str, Any]] = [{"params": net[0].parameters(), "lr": 0.0}, {"params": net[1].parameters()}]
    optimizer = torch.optim.SGD(groups, 0.1)
    watch = WeightSteps(optimizer, net, 0)
    tally = GradientTally(watch)
    for gradient in (None, torch.zeros(40, 40), torch.ones(40, 40)):
        net[0].weight.grad = gradient
        tally.look()
    looks, kinds, counts = tally.reading()
    names = [watch.watched[place].name for places in kinds for place in places]
    counted = dict(zip(names, torch.cat(counts).tolist(), strict=True))
    assert (looks, counted) == (3, {"0.weight": 1.0, "0.bias": 0.0, "1.weight": 0.0, "1.bias": 0.0})
    fresh = fresh_at_zero([optimizer], net)
    assert fresh == {id(net[0].weight)}
    full = 1, kinds, [torch.ones(4)]
    assert idle_of("SGD", watch, {0}, [0.0] * 4, full, fresh) == Idle("SGD", ["0.weight"], 2, True, ["0.weight"], 1)
    assert idle_of("SGD", watch, None, [0.0, 0.0, 0.1, 0.0], full, set()).weights == ["0.weight"]
    assert idle_of("SGD", watch, None, [0.0] * 4, (3, *tally.reading()[1:]), set()).weights == []
    nn.init.normal_(net[0].weight)
    assert fresh_at_zero([optimizer], net) == set()


@pytest.mark.parametrize(
    ("held", "done", "unfreezes", "severity"),
    [
        (Held("Adam", True, 10, 10), 0.5, False, Severity.WARNING),
        (Held("SGD", False, 10, 10), 0.5, False, Severity.INFO),
        (Held("Adam", True, 7, 7), 0.5, False, None),
        (Held("Adam", True, 40, 4), 0.5, False, None),  # each epoch
        (Held("Adam", weights=3, frozen=("a", "b"), since=0.1), 0.6, False, Severity.WARNING),
        (Held("Adam", weights=3, frozen=("a", "b"), since=0.1), 0.6, True, None),
        (Held("Adam", weights=3, frozen=("a", "b"), since=0.1, thawed=True), 0.6, False, None),
        (Held("Adam", weights=3, frozen=("a", "b"), since=0.1), 0.3, False, Severity.INFO),
        (Held("Adam", weights=3, frozen=("a", "b"), since=0.5), 1.0, False, Severity.INFO),
        (Held("Adam", weights=3, frozen=("a",), since=0.1), 0.9, False, Severity.INFO),
        (Held("Adam"), 0.9, False, None),
    ],
)
def test_judgement_of_what_is_held(held: Held, done: float, unfreezes: bool, severity: Severity | None) -> None:
    assert [one.severity for one in judge_held(held, done, unfreezes)] == ([] if severity is None else [severity])


def test_what_freezes_and_thaws_goes_by_a_plan() -> None:
    held = Held("Adam")
    held.freezes(["body"], ["head"], 0.1)
    assert (held.frozen, held.since, held.weights) == (("body",), 0.1, 2)
    held.freezes(["head"], ["body"], 0.2)
    assert held.thawed
    assert held.frozen == ("head",)


class Model(L.LightningModule):
    """Small, with what is done to it in a hook."""

    def __init__(
        self, at_epoch: Any = None, after_batch: Any = None, make: Any = None, manual: Any = None, rate: Any = None
    ) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 32), nn.ReLU(), nn.Linear(32, 10))
        self.at_epoch, self.after_batch, self.make, self.manual = at_epoch, after_batch, make, manual
        self.rate = rate  # from the batch's place in the epoch
        self.automatic_optimization = manual is None
        self.slow: list[Tensor] = []

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        loss = F.cross_entropy(self.net(batch[0]), batch[1])
        return loss if self.manual is None else self.manual(self, loss)

    def on_train_epoch_start(self) -> None:
        if self.at_epoch:
            self.at_epoch(self)

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        if self.rate:
            self.trainer.optimizers[0].param_groups[0]["lr"] = self.rate(self, batch_idx)

    @torch.no_grad()
    def on_train_batch_end(self, *_: Any) -> None:
        if self.after_batch:
            self.after_batch(self)

    def configure_optimizers(self) -> Any:
        return self.make(self.net) if self.make else torch.optim.Adam(self.net.parameters(), 2e-3)


def fit(model: Model, *callbacks: Any, epochs: int = 6) -> list[Finding]:
    torch.manual_seed(0)
    bunch = load_digits()
    data = TensorDataset(torch.tensor(bunch.data / 16, dtype=torch.float32)[:640], torch.tensor(bunch.target)[:640])
    quiet = dict.fromkeys(("logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary"), False)
    rule = UpdateRatio()
    trainer = L.Trainer(accelerator="cpu", max_epochs=epochs, callbacks=[*callbacks, rule], **quiet)
    trainer.fit(model, DataLoader(data, 32, shuffle=True))
    assert not any("failed" in one.message for one in rule.findings)
    for optimizer in trainer.optimizers:
        assert not optimizer._optimizer_step_pre_hooks
        assert not optimizer._optimizer_step_post_hooks
    return [one for one in rule.findings if one.severity >= Severity.WARNING]


def anew(model: Model) -> None:
    model.net.apply(lambda layer: layer.reset_parameters() if isinstance(layer, nn.Linear) else None)


def put_back(model: Model) -> None:
    model.slow = model.slow or [parameter.detach().clone() for parameter in model.net.parameters()]
    with torch.no_grad():
        for parameter, first in zip(model.net.parameters(), model.slow, strict=True):
            parameter.copy_(first)


def averaged_back(every: int, share: float) -> Any:
    """Every few steps the weights become a moving average of themselves."""

    def after(model: Model) -> None:
        model.slow = model.slow or [parameter.clone() for parameter in model.net.parameters()]
        if model.trainer.global_step % every == 0:
            for slow, parameter in zip(model.slow, model.net.parameters(), strict=True):
                parameter.copy_(slow.lerp_(parameter, share))

    return after


def by_batch(model: Any, batch_idx: int) -> float:
    return float(2e-3 * min(1, (batch_idx + 1) / 15))


def by_step(model: Any, batch_idx: int) -> float:
    return float(2e-3 * min(1, (model.trainer.global_step + 1) / 30))


def new_optimiser(model: Model) -> None:
    model.trainer.optimizers = [model.configure_optimizers()]


def frozen_from(epoch: int) -> Any:
    return lambda model: model.net[:-1].requires_grad_(model.current_epoch < epoch)


def in_turns(model: Model) -> None:
    model.net[:-1].requires_grad_(model.current_epoch % 2 == 0)
    model.net[-1].requires_grad_(model.current_epoch % 2 == 1)


def groups(rate: float) -> Any:
    def make(net: nn.Sequential) -> Any:
        return torch.optim.Adam([{"params": net[:-1].parameters(), "lr": rate}, {"params": net[-1].parameters()}])

    return make


def two(net: nn.Sequential) -> Any:
    return torch.optim.Adam(net[:-1].parameters(), 1e-3), torch.optim.Adam(net[-1].parameters(), 1e-3)


def body_from(epoch: int) -> Any:
    """Steps the head's optimiser, and from some epoch on the body's too."""

    def step(model: Model, loss: Tensor) -> None:
        body, head = model.optimizers()  # type: ignore[misc, attr-defined]
        body.zero_grad()
        head.zero_grad()
        model.manual_backward(loss)
        head.step()
        if model.current_epoch >= epoch:
            body.step()

    return step


@pytest.mark.parametrize(
    ("model", "aspect"),
    [
        (lambda: Model(anew), "weights-overwritten"),
        (lambda: Model(put_back), "weights-overwritten"),
        (lambda: Model(None, averaged_back(1, 0.02)), "weights-overwritten"),
        (lambda: Model(rate=by_batch), "warm-up-repeats"),
        (lambda: Model(None, new_optimiser), "optimiser-replaced"),
        (lambda: Model(frozen_from(1)), "frozen-midway"),
        (lambda: Model(make=groups(0.0)), "weights-never-move"),
        (lambda: Model(make=two, manual=body_from(99)), "weights-never-move"),
    ],
)
def test_fires_on_a_planted_bug(model: Any, aspect: str) -> None:
    assert [one.rule for one in fit(model())] == [aspect]


@pytest.mark.parametrize(
    ("model", "callback"),
    [
        (lambda: Model(lambda model: anew(model) if model.current_epoch == 0 else None), None),
        (lambda: Model(lambda model: model.net[-1].reset_parameters()), None),  # the head alone
        (lambda: Model(None, averaged_back(4, 0.5)), None),
        (lambda: Model(rate=by_step), None),
        (lambda: Model(new_optimiser), None),  # once an epoch
        (lambda: Model(frozen_from(5)), None),
        (lambda: Model(in_turns), None),
        (lambda: Model(make=groups(1e-4)), None),
        (lambda: Model(make=two, manual=body_from(1)), None),
        (Model, lambda: EMAWeightAveraging(decay=0.99)),
        (Model, lambda: ModelPruning("l1_unstructured", amount=0.2)),
    ],
)
def test_silent_on_healthy_twins(model: Any, callback: Any) -> None:
    assert fit(model(), *([callback()] if callback else [])) == []
