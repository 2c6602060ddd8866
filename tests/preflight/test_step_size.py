"""step-size: the judgement on trials, then rates that are right, far too high and far too low, and no trace."""

from __future__ import annotations

from typing import Any

import lightning.pytorch as L
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from lightning_rules import Severity, StepSize
from lightning_rules.preflight.step_size import judge
from lightning_rules.preflight.step_trial import Trial


def trial(losses: Any = (2.3, 2.0, 1.8, 1.6), ratio: float = 0.01, **more: Any) -> Trial:
    usual = {"decrease": 0.05, "moved": 0.2, "rate": 1e-3, "planned": 900.0, "prior": 2.3}
    return Trial(tuple(losses), (ratio,) * len(losses), **{**usual, **more})


UP = (2.3, 9.0, 30.0, 20.0, 14.0)
NAN = float("nan")


@pytest.mark.parametrize(
    ("seen", "severity", "words"),
    [
        (trial(), Severity.OK, "takes the loss from 2.3"),
        (trial((2.3, 2.5, NAN)), Severity.ERROR, "no longer finite at step 3"),
        (trial((2.3, NAN), broken="loss"), Severity.INFO, "not finite before the first step"),
        (trial(UP, 0.5), Severity.WARNING, "too high"),
        (trial(UP, 0.5, summed=True), Severity.WARNING, 'reduction="mean"'),
        (trial(UP, 0.01), Severity.OK, ""),  # outliers among the batches
        (trial((2.3, 2.2, 2.1), 0.5), Severity.OK, ""),
        (trial((2.3, 2.2, 2.1), 3.0), Severity.WARNING, "3 of their size"),
        (trial((2.3, 4.0, 8.0, 8.0, 8.0), 0.1), Severity.WARNING, "to 8 in 5 steps"),
        (trial(decrease=1e-5, moved=1e-4), Severity.WARNING, "too low"),
        (trial(decrease=1e-5, moved=0.1), Severity.OK, ""),
        (trial((0.1, 0.1), decrease=1e-6, moved=1e-4), Severity.OK, "fine-tuning starts below the prior"),
        (trial(decrease=1e-5, moved=1e-4, planned=50.0), Severity.OK, "a trial run"),
        (trial(decrease=1e-5, moved=1e-4, planned=None), Severity.OK, "no planned end"),
        (trial(decrease=0.0, moved=0.0), Severity.INFO, "moves none of its parameters"),
    ],
)
def test_judgement(seen: Trial, severity: Severity, words: str) -> None:
    found = judge(seen)
    assert found.severity is severity, found.message
    if severity is not Severity.OK:
        assert words in f"{found.message} {found.advice}"


def test_most_ranks_decide() -> None:
    high, fine = trial((2.3, NAN)), trial()
    assert [found.severity for found in StepSize().judge([high, fine])] == [Severity.OK]
    assert [found.severity for found in StepSize().judge([high, high])] == [Severity.ERROR]


class Model(L.LightningModule):
    def __init__(self, net: nn.Module, optimizer: Any, scale: float = 1.0, warm: int = 0, **how: Any) -> None:
        super().__init__()
        self.net, self.optimizer, self.scale, self.warm, self.how = net, optimizer, scale, warm, how

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        return self.scale * F.cross_entropy(self.net(batch[0]), batch[1], **self.how)

    def configure_optimizers(self) -> Any:
        optimizer = self.optimizer(self.parameters())
        if not self.warm:
            return optimizer
        climb = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: min(1.0, step / self.warm))
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": climb, "interval": "step"}}


class Stop(L.Callback):
    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        raise StopIteration


def data() -> DataLoader[Any]:
    inputs = np.asarray(load_digits().data, dtype=np.float32)
    inputs = (inputs - inputs.mean(0)) / (inputs.std(0) + 1e-3)
    return DataLoader(TensorDataset(torch.tensor(inputs), torch.tensor(load_digits().target)), 32, shuffle=True)


QUIET = dict.fromkeys(("logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary"), False)


def found(model: Model, **options: Any) -> Any:
    rule = StepSize(budget=None)
    options = {"max_epochs": 20, **options}
    with pytest.raises(StopIteration):
        L.Trainer(accelerator="cpu", callbacks=[rule, Stop()], **QUIET, **options).fit(model, data())
    (finding,) = rule.findings
    return finding


def mlp(norm: bool = False) -> nn.Module:
    middle = nn.BatchNorm1d(64) if norm else nn.Identity()
    return nn.Sequential(nn.Linear(64, 64), middle, nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10))


def sgd(rate: float, **options: Any) -> Any:
    return lambda parameters: torch.optim.SGD(parameters, rate, **options)


def adam(rate: float) -> Any:
    return lambda parameters: torch.optim.Adam(parameters, rate)


HEALTHY = {
    "adam": lambda: Model(mlp(), adam(1e-3)),
    "adam-slow": lambda: Model(mlp(), adam(1e-4)),
    "momentum": lambda: Model(mlp(), sgd(0.1, momentum=0.9)),
    "batch-norm": lambda: Model(mlp(norm=True), sgd(0.1, momentum=0.9)),
    "logistic-regression": lambda: Model(nn.Linear(64, 10), sgd(0.5)),
    "warm-up": lambda: Model(mlp(), adam(1e-3), warm=60),
    "zero-start": lambda: Model(_zeros(nn.Linear(64, 10)), sgd(0.5)),
}


def _zeros(layer: nn.Linear) -> nn.Linear:
    nn.init.zeros_(layer.weight)
    return layer


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", HEALTHY)
def test_silent_on_healthy_rates(name: str) -> None:
    for seed in range(3):
        torch.manual_seed(seed)
        finding = found(HEALTHY[name]())
        assert finding.severity is Severity.OK, finding.message


PLANTED = {
    "adam-x100": (lambda: Model(mlp(), adam(0.1)), "too high"),
    "momentum-x100": (lambda: Model(mlp(), sgd(10.0, momentum=0.9)), "too high"),
    "summed": (lambda: Model(mlp(), sgd(0.1, momentum=0.9), reduction="sum"), "too high"),
    "adam-/1000": (lambda: Model(mlp(), adam(1e-6)), "too low"),
    "momentum-/1000": (lambda: Model(mlp(), sgd(1e-4, momentum=0.9)), "too low"),
    "loss-x1e-6": (lambda: Model(mlp(), sgd(0.1, momentum=0.9), scale=1e-6), "too low"),
}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", PLANTED)
def test_fires_on_planted_rates(name: str) -> None:
    make, words = PLANTED[name]
    for seed in range(3):
        torch.manual_seed(seed)
        finding = found(make())
        assert finding.severity >= Severity.WARNING, finding.message
        assert words in finding.message


@pytest.mark.filterwarnings("ignore")
def test_does_not_apply() -> None:
    for model, options, words in (
        (Model(mlp(), lambda p: torch.optim.LBFGS(p)), {}, "LBFGS"),
        (Model(mlp(), adam(1e-3)), {"max_steps": 10}, "is a trial itself"),
    ):
        finding = found(model, **options)
        assert finding.severity is Severity.INFO
        assert words in finding.message


@pytest.mark.filterwarnings("ignore")
def test_leaves_no_trace() -> None:
    ends = []
    for callbacks in ([], [StepSize(budget=None)]):
        L.seed_everything(1, verbose=False)
        model = Model(mlp(norm=True), adam(1e-3), warm=20)
        options = {"max_epochs": 2, "accumulate_grad_batches": 2, "gradient_clip_val": 0.5}
        trainer = L.Trainer(accelerator="cpu", callbacks=callbacks, **options, **QUIET)
        trainer.fit(model, data())
        state = trainer.optimizers[0].state_dict()
        moments = [value for one in state["state"].values() for value in one.values()]
        ends.append([*model.state_dict().values(), *moments, torch.get_rng_state()])
        assert not callbacks or callbacks[0].findings[0].severity is Severity.OK
    assert len(ends[0]) == len(ends[1])
    assert all(torch.equal(one, other) for one, other in zip(*ends, strict=True))
