"""Parameters, modes, cleared gradients and settings of the model's audit: planted in real runs, and their healthy "
"twins."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import lightning.pytorch as L
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from lightning_rules import Severity
from lightning_rules.audit import Audit, aspects_of
from lightning_rules.deadline import Deadline
from lightning_rules.preflight import gradient_reset, modes, optimiser_settings, parameter_use
from lightning_rules.preflight.mentions import mentions
from lightning_rules.preflight.model_seen import ModelSeen
from lightning_rules.preflight.modes import ModesSeen
from lightning_rules.preflight.parameter_use import judge
from lightning_rules.preflight.step_facts import Facts, LayerMode, ParameterSeen
from lightning_rules.view import View

PARTS = (parameter_use.PART, modes.PART, gradient_reset.PART, optimiser_settings.PART)


class Parts(Audit):
    """The parts under test, as an audit of their own."""

    name, source, kind = "parts-under-test", "a test (2026)", "check"
    parts, aspects = PARTS, aspects_of(PARTS)

    def read(self, view: View, deadline: Deadline) -> ModelSeen:
        return ModelSeen(view)


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        body = (nn.Linear(64, 32), nn.BatchNorm1d(32), nn.ReLU(), nn.Dropout(0.2), nn.Linear(32, 32), nn.ReLU())
        self.body, self.head = nn.Sequential(*body), nn.Linear(32, 10)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.body(x))


class Detached(Net):
    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.body(x).detach())


class NoGraph(Net):
    def forward(self, x: Tensor) -> Tensor:
        with torch.no_grad():
            features = self.body(x)
        return self.head(features)


class Pooler(Net):
    """Computes more than it uses, as many pretrained networks do."""

    def __init__(self) -> None:
        super().__init__()
        self.pooler = nn.Linear(32, 32)

    def forward(self, x: Tensor) -> Tensor:
        features = self.body(x)
        self.pooler(features)
        return self.head(features)


class Hidden(nn.Module):
    def __init__(self, hide: Callable[[list[nn.Module]], Any]) -> None:
        super().__init__()
        self.layers, self.head = hide([nn.Linear(64, 32), nn.Linear(32, 32)]), nn.Linear(32, 10)

    def forward(self, x: Tensor) -> Tensor:
        layers = self.layers["both"][0] if isinstance(self.layers, dict) else self.layers
        for layer in layers:
            x = F.relu(layer(x))
        return self.head(x)


class Teacher(Net):
    """Hides a frozen network on purpose, so that it is neither saved nor trained."""

    def __init__(self) -> None:
        super().__init__()
        self.teacher = [Net().eval()]

    def forward(self, x: Tensor) -> Tensor:
        with torch.no_grad():
            target = self.teacher[0](x)
        return super().forward(x) + 0 * target


class Judge(Net):
    """A network in evaluation mode that the loss is computed with, as perceptual losses do."""

    def __init__(self) -> None:
        super().__init__()
        self.judge = nn.Linear(10, 10)

    def train(self, mode: bool = True) -> Judge:
        super().train(mode)
        self.judge.eval()
        return self

    def forward(self, x: Tensor) -> Tensor:
        return self.judge(super().forward(x))


class Branches(Net):
    """Branches that start as nothing: what is below their zero weights gets a gradient of zero."""

    def __init__(self) -> None:
        super().__init__()
        self.down, self.up = nn.Linear(64, 512), nn.Linear(512, 10)
        nn.init.zeros_(self.up.weight)

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) + self.up(self.down(x))


def dead() -> nn.Module:
    net = nn.Sequential(nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 10))
    nn.init.constant_(net[0].bias, -1000.0)
    return net


class Model(L.LightningModule):
    def __init__(self, net: nn.Module, optimizer: Any = None) -> None:
        super().__init__()
        self.net = net
        self.make = optimizer or (lambda module: torch.optim.Adam(module.parameters(), 1e-3))

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        return F.cross_entropy(self.net(batch[0]), batch[1])

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self.log("val_loss", F.cross_entropy(self.net(batch[0]), batch[1]))

    def configure_optimizers(self) -> Any:
        return self.make(self)


def like(net: nn.Module | None = None, **methods: Any) -> Model:
    """The model with other hooks."""
    return type("Changed", (Model,), methods)(net or Net())


QUIET = dict.fromkeys(("logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary"), False)


class Stop(L.Callback):
    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        raise StopIteration


def loader(seed: int = 0) -> DataLoader[Any]:
    generator = torch.Generator().manual_seed(seed)
    inputs = torch.randn(160, 64, generator=generator)
    return DataLoader(TensorDataset(inputs, torch.randint(10, (160,), generator=generator)), 16, shuffle=True)


def alarms(model: Model, **options: Any) -> dict[str, Any]:
    """Alarms at the start of a run, by name; nothing that was measured may have failed."""
    rule = Parts(budget=None)
    trainer = L.Trainer(accelerator="cpu", max_epochs=4, callbacks=[rule, Stop()], **QUIET, **options)
    with pytest.raises(StopIteration):
        trainer.fit(model, loader(), loader(1))
    assert all("failed with" not in finding.message for finding in rule.findings), rule.findings
    return {finding.rule: finding for finding in rule.findings if finding.severity >= Severity.WARNING}


def of_head(module: Any) -> Any:
    return torch.optim.Adam(module.net.head.parameters(), 1e-3)


def replaced(module: Any) -> Any:
    optimizer = torch.optim.Adam(module.parameters(), 1e-3)
    module.net = copy.deepcopy(module.net)
    return optimizer


def new_head(module: Any) -> Any:
    optimizer = torch.optim.Adam(module.parameters(), 1e-3)
    module.net.head = nn.Linear(32, 10)
    return optimizer


def evaluated(model: Model, part: str = "") -> Model:
    model.get_submodule(part).eval()
    return model


def in_evaluation(self: Any, batch: Any, batch_idx: int) -> Tensor:
    self.eval()
    return F.cross_entropy(self.net(batch[0]), batch[1])


def pseudo_labels(self: Any, batch: Any, batch_idx: int) -> Tensor:
    self.eval()
    with torch.no_grad():
        labels = self.net(batch[0]).argmax(1)
    self.train()
    return F.cross_entropy(self.net(batch[0]), labels)


def in_training(self: Any, batch: Any, batch_idx: int) -> None:
    self.train()
    self.net(batch[0])


def manual(clear: str = "", every: int = 1, direct: bool = False, **methods: Any) -> Model:
    """A training step by hand that clears gradients before the backward, after the step, or not at all."""

    def training_step(self: Any, batch: Any, batch_idx: int) -> None:
        optimizer = self.optimizers()
        if clear == "before":
            optimizer.zero_grad()
        if clear == "module":
            self.zero_grad()
        loss = F.cross_entropy(self.net(batch[0]), batch[1]) / every
        loss.backward() if direct else self.manual_backward(loss)
        nn.utils.clip_grad_norm_(self.parameters(), 1.0)
        if clear == "between":
            optimizer.zero_grad()
        if (batch_idx + 1) % every == 0:
            optimizer.step()
            if clear == "after":
                optimizer.zero_grad()

    model = like(training_step=training_step, **methods)
    model.automatic_optimization = False
    return model


def using(name: str, *arguments: Any, **options: Any) -> Model:
    make = getattr(torch.optim, name)
    return Model(Net(), lambda module: make(module.parameters(), *arguments, **options))


PLANTED = {
    "detached": (lambda: Model(Detached()), "detached-layers", "detach()"),
    "cleared-too-early": (lambda: manual("between"), "gradients-kept", "not between the two"),
    "no-graph": (lambda: Model(NoGraph()), "detached-layers", "torch.no_grad()"),
    "list": (lambda: Model(Hidden(list)), "hidden-layers", "nn.ModuleList"),
    "nested": (lambda: Model(Hidden(lambda layers: {"both": (layers,)})), "hidden-layers", "`net.layers`"),
    "body-missing": (lambda: Model(Net(), of_head), "untrained-parameters", "Give them to an optimiser"),
    "replaced": (lambda: Model(Net(), replaced), "foreign-parameters", "another copy"),
    "head-replaced": (lambda: Model(Net(), new_head), "foreign-parameters", "another copy"),
    "dead": (lambda: Model(dead()), "no-gradient", "units that are off"),
    "eval-before-fit": (lambda: evaluated(Model(Net())), "evaluation-mode-in-training", "module.train()"),
    "body-in-eval": (lambda: evaluated(Model(Net()), "net.body"), "evaluation-mode-in-training", "module.train()"),
    "eval-in-step": (lambda: like(training_step=in_evaluation), "evaluation-mode-in-training", "no eval()"),
    "eval-each-epoch": (lambda: like(on_train_epoch_start=lambda self: self.eval()), "evaluation-mode-in-training", ""),
    "train-in-validation": (lambda: like(validation_step=in_training), "training-mode-in-validation", "train()"),
    "train-before": (lambda: like(on_validation_start=lambda self: self.train()), "training-mode-in-validation", ""),
    "no-eval": (lambda: like(on_validation_model_eval=lambda self: None), "training-mode-in-validation", ""),
    "kept": (manual, "gradients-kept", "zero_grad()"),
    "kept-direct": (lambda: manual(direct=True), "gradients-kept", "zero_grad()"),
    "kept-accumulated": (lambda: manual(every=4), "gradients-kept", "zero_grad()"),
    "kept-override": (lambda: like(optimizer_zero_grad=lambda self, *_: None), "gradients-kept", "zero_grad()"),
    "rate": (lambda: using("Adam", 3.0), "optimiser-settings", "Lower it"),
    "no-rate": (lambda: using("Adam", 0.0), "optimiser-settings", "Set a learning rate"),
    "betas": (lambda: using("Adam", 1e-3, betas=(0.97, 0.9)), "optimiser-settings", "swapped"),
    "momentum": (lambda: using("SGD", 0.1, momentum=1.0), "optimiser-settings", "below 1"),
    "decay": (lambda: using("SGD", 0.1, momentum=0.9, weight_decay=0.5), "optimiser-settings", "Lower it"),
    "coupled-decay": (lambda: using("Adam", 1e-3, weight_decay=1.0), "optimiser-settings", "AdamW"),
    "epsilon": (lambda: using("Adam", 1e-3, eps=100.0), "optimiser-settings", "1e-8"),
    "maximised": (lambda: using("Adam", 1e-3, maximize=True), "optimiser-settings", "maximize=True"),
}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("bug", PLANTED)
def test_fires_on_a_planted_bug(bug: str) -> None:
    make, rule, words = PLANTED[bug]
    found = alarms(make())
    assert list(found) == [rule], found
    assert words in f"{found[rule].message} {found[rule].advice}"


HEALTHY = {
    "plain": lambda: Model(Net()),
    "no-graph-in-evaluation-mode": lambda: evaluated(Model(NoGraph()), "net.body"),
    "frozen": lambda: Model(_frozen(Net())),
    "pooler": lambda: Model(Pooler()),
    "registered": lambda: Model(Hidden(nn.ModuleList)),
    "teacher": lambda: Model(Teacher()),
    "judge": lambda: Model(Judge(), lambda module: torch.optim.Adam([*module.net.body.parameters()], 1e-3)),
    "branches": lambda: Model(Branches()),
    "pseudo-labels": lambda: like(training_step=pseudo_labels),
    "trained-again": lambda: evaluated(like(on_train_start=lambda self: self.train())),
    "still-norms": lambda: evaluated(Model(Net()), "net.body.1"),
    "own-eval": lambda: like(on_validation_model_eval=lambda self: self.eval()),
    "before": lambda: manual("before"),
    "after": lambda: manual("after", direct=True),
    "module": lambda: manual("module"),
    "accumulated": lambda: manual("after", every=3),
    "in-a-hook": lambda: manual(on_train_batch_end=lambda self, *_: self.optimizers().zero_grad()),
    "own-clearing": lambda: like(optimizer_zero_grad=lambda self, e, i, optimizer: optimizer.zero_grad(False)),
    "adamw": lambda: using("AdamW", 3e-4, weight_decay=0.1, betas=(0.9, 0.95)),
    "sgd": lambda: using("SGD", 0.1, momentum=0.9, weight_decay=5e-4, nesterov=True),
    "gan": lambda: using("Adam", 2e-4, betas=(0.0, 0.9)),
    "adadelta": lambda: using("Adadelta"),
    "lbfgs": lambda: using("LBFGS"),
}


def _frozen(net: Net) -> Net:
    net.body.requires_grad_(False).eval()
    return net


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("twin", HEALTHY)
def test_silent_on_a_healthy_twin(twin: str) -> None:
    found = alarms(HEALTHY[twin]())
    if twin == "judge":  # its head is missing, and only that is told
        assert "`net.head.weight`" in found.pop("untrained-parameters").message
    assert found == {}


@pytest.mark.filterwarnings("ignore")
def test_a_clip_that_leaves_nothing() -> None:
    assert list(alarms(using("SGD", 0.1), gradient_clip_val=1e-6)) == ["optimiser-settings"]
    assert alarms(using("SGD", 0.1), gradient_clip_val=1.0) == {}


@pytest.mark.filterwarnings("ignore")
def test_leaves_no_trace() -> None:
    for make in (lambda: Model(Net()), lambda: manual("before"), lambda: like(on_validation_start=lambda s: s.train())):
        ends = []
        for callbacks in ([], [Parts(budget=None)]):
            L.seed_everything(1, verbose=False)
            model = make()
            trainer = L.Trainer(accelerator="cpu", max_epochs=2, callbacks=callbacks, **QUIET)
            trainer.fit(model, loader(), loader(1))
            moments = [value for one in trainer.optimizers[0].state_dict()["state"].values() for value in one.values()]
            ends.append([*model.state_dict().values(), *moments, torch.get_rng_state()])
            assert not any(part._forward_hooks or part._forward_pre_hooks for part in model.modules())
        assert all(torch.equal(one, other) for one, other in zip(*ends, strict=True))


def facts(*parameters: ParameterSeen, **more: Any) -> list[Facts]:
    return [Facts(parameters, **more)]


P = ParameterSeen
BELOW = P("body.weight", 900, gradient="none", ran=0)
HEAD = P("head.weight", 100, ran=1)


@pytest.mark.parametrize(
    ("seen", "rules"),
    [
        (facts(BELOW, HEAD, fed={1: False}), {"detached-layers": Severity.WARNING, "unused-parameters": Severity.INFO}),
        (facts(BELOW, HEAD, fed={1: True}), {"unused-parameters": Severity.INFO}),  # another branch feeds the head
        (
            facts(BELOW, HEAD, fed={1: False}, manual=True)[:1],
            {"detached-layers": Severity.INFO, "unused-parameters": Severity.INFO},
        ),
        (facts(P("a", 20, gradient="none", ran=0), P("head", 980, ran=1)), {"unused-parameters": Severity.INFO}),
        (facts(P("a", optimised=False), HEAD), {"untrained-parameters": Severity.WARNING}),
        (facts(P("a", optimised=False, evaluation=True), HEAD), {"untrained-parameters": Severity.OK}),
        (facts(P("a", optimised=False, gradient="none"), HEAD), {"untrained-parameters": Severity.OK}),
        (facts(P("a", trained=False, gradient="none"), HEAD), {"frozen-in-optimiser": Severity.INFO}),
        (facts(P("o", foreign=True), HEAD), {"foreign-parameters": Severity.INFO}),  # an image that is optimised
        (facts(P("x", hidden=True), HEAD), {"hidden-layers": Severity.INFO}),  # hidden, and given to the optimiser
        (facts(P("x", hidden=True, optimised=False), HEAD), {"hidden-layers": Severity.ERROR}),
        (facts(P("a", 900, gradient="zero"), HEAD), {"no-gradient": Severity.WARNING}),
        (facts(P("a", 900, gradient="zero"), P("scale.weight", zero=True)), {"no-gradient": Severity.INFO}),
        (facts(P("a", 900, gradient="zero"), P("a.bias", zero=True)), {"no-gradient": Severity.WARNING}),
    ],
)
def test_judgement_of_parameters(seen: Any, rules: Any) -> None:
    assert {finding.rule: finding.severity for finding in judge(seen)} == rules


def mode(training: bool, evaluation: bool, around: bool = True, trained: bool = True) -> LayerMode:
    return LayerMode("net.drop", "Dropout", training, evaluation, around, trained)


@pytest.mark.parametrize(
    ("seen", "severity"),
    [
        (ModesSeen((mode(True, False),)), Severity.OK),
        (ModesSeen((mode(False, True),)), Severity.WARNING),
        (ModesSeen((mode(True, True),)), Severity.OK),  # once without, and once with
        (ModesSeen((mode(False, True, around=False),)), Severity.INFO),
        (ModesSeen((mode(False, True, trained=False),)), Severity.OK),
        (ModesSeen((mode(True, False),), ("net.drop",), 1), Severity.WARNING),
        (ModesSeen((mode(True, False),), (), 1), Severity.OK),
    ],
)
def test_judgement_of_modes(seen: ModesSeen, severity: Severity) -> None:
    assert max(finding.severity for finding in modes.judge([seen])) is severity


def test_mentions_follows_methods() -> None:
    class Owner:
        def first(self) -> None:
            self.second()

        def second(self) -> None:
            [self.target.zero_grad() for _ in range(2)]  # type: ignore[attr-defined]

    assert mentions(Owner.first, "zero_grad", Owner())
    assert not mentions(Owner.first, "zero_grad")
    assert not mentions(len, "zero_grad", Owner())
