"""weight-decay-groups: as if the author had split the groups, whatever the optimiser and its schedule."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning.pytorch
import pytest
import pytorch_lightning
import torch
from timm.scheduler import CosineLRScheduler
from torch import Tensor, nn
from torch.optim import lr_scheduler
from torch.utils.data import DataLoader, TensorDataset

from lightning_rules import WeightDecayGroups

DATA = TensorDataset(torch.randn(24, 6, generator=torch.Generator().manual_seed(0)))


class Block(nn.Module):
    """Two linear layers, a norm with a weight of two dimensions, and a token that the module lists."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.norm, self.last = nn.Linear(6, 8), nn.LayerNorm([2, 4]), nn.Linear(8, 1)
        self.token = nn.Parameter(torch.ones(1, 8))

    def no_weight_decay(self) -> set[str]:
        return {"token"}

    def forward(self, inputs: Tensor) -> Tensor:
        hidden = self.norm((self.first(inputs) + self.token).view(-1, 2, 4))
        return self.last(hidden.flatten(1).relu())


NO_DECAY = {"first.bias", "norm.weight", "norm.bias", "last.bias", "token"}


def fit(configure: Callable[[Any], Any], rules: list[Any], L: Any = lightning.pytorch, **options: Any) -> Any:
    ckpt_path = options.pop("ckpt_path", None)

    class Model(L.LightningModule):  # type: ignore[name-defined, misc]
        def __init__(self) -> None:
            super().__init__()
            self.net, self.rates = Block(), []

        def training_step(self, batch: Any, batch_idx: int) -> Tensor:
            optimizers = self.trainer.optimizers
            self.rates.append([group["lr"] for optimizer in optimizers for group in optimizer.param_groups])
            loss = (self.net(batch[0]) - 1).square().mean()
            self.log("loss", loss)
            if self.automatic_optimization:
                return loss
            for optimizer in self.optimizers():
                optimizer.zero_grad()
            self.manual_backward(loss)
            for optimizer in self.optimizers():
                optimizer.step()
            return loss

        def configure_optimizers(self) -> Any:
            return configure(self)

        def lr_scheduler_step(self, scheduler: Any, metric: Any) -> None:
            if isinstance(scheduler, CosineLRScheduler):
                scheduler.step(self.current_epoch + 1)
            else:
                super().lr_scheduler_step(scheduler, metric)

    torch.manual_seed(2)
    quiet = dict.fromkeys(("logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary"), False)
    trainer = L.Trainer(accelerator="cpu", callbacks=rules, **{**quiet, "max_epochs": 4, **options})
    model = Model()
    trainer.fit(model, DataLoader(DATA, 8), ckpt_path=ckpt_path)
    return model, trainer


def named(module: Any, spared: bool, part: str = "") -> list[Any]:
    pairs = module.net.named_parameters()
    return [value for name, value in pairs if (name in NO_DECAY) is spared and name.startswith(part)]


def plain(module: Any) -> Any:
    return [{"params": [*module.net.parameters()]}]


def split(module: Any) -> Any:
    return [{"params": named(module, False)}, {"params": named(module, True), "weight_decay": 0.0}]


SCHEDULES: dict[str, Callable[[Any], Any]] = {
    "none": lambda optimizer: None,
    "lambda": lambda optimizer: lr_scheduler.LambdaLR(optimizer, lambda epoch: 0.5**epoch),
    "one-cycle": lambda optimizer: lr_scheduler.OneCycleLR(optimizer, 0.1, total_steps=6),
    "cyclic": lambda optimizer: lr_scheduler.CyclicLR(optimizer, 0.01, 0.1, step_size_up=2, cycle_momentum=False),
    "cosine": lambda optimizer: lr_scheduler.CosineAnnealingLR(optimizer, 4),
    "plateau": lambda optimizer: lr_scheduler.ReduceLROnPlateau(optimizer, patience=0, threshold=0.9),
    "sequential": lambda optimizer: lr_scheduler.SequentialLR(
        optimizer,
        [lr_scheduler.LinearLR(optimizer, 0.1, total_iters=2), lr_scheduler.ExponentialLR(optimizer, 0.5)],
        milestones=[2],
    ),
    "timm": lambda optimizer: CosineLRScheduler(optimizer, 4, warmup_t=2, warmup_lr_init=1e-3),
}


def scheduled(optimizer: Any, schedule: str) -> Any:
    scheduler = SCHEDULES[schedule](optimizer)
    if scheduler is None:
        return optimizer
    return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "monitor": "loss"}}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("schedule", SCHEDULES)
def test_as_if_the_author_had_split_them(schedule: str) -> None:
    """Weights and rates to the bit, for a schedule that was made before the split."""

    def configure(groups: Any) -> Callable[[Any], Any]:
        return lambda module: scheduled(torch.optim.AdamW(groups(module), 0.05, weight_decay=0.3), schedule)

    rule = WeightDecayGroups()
    model, trainer = fit(configure(plain), [rule])
    reference, reference_trainer = fit(configure(split), [])
    groups, expected = (run.optimizers[0].param_groups for run in (trainer, reference_trainer))
    without = [{key: value for key, value in group.items() if key != "params"} for group in groups]
    assert without == [{key: value for key, value in group.items() if key != "params"} for group in expected]
    assert model.rates == reference.rates
    for name, value in model.net.state_dict().items():
        assert torch.equal(value, reference.net.state_dict()[name]), name
    assert rule.findings[0].message == (
        "Took 5 biases, norms and other parameters without width out of the weight decay of AdamW; "
        "2 weights keep it, in 2 groups instead of 1."
    )


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("L", [lightning.pytorch, pytorch_lightning], ids=lambda L: L.__name__)
def test_several_groups_keep_their_options_and_ratios(L: Any) -> None:
    def configure(module: Any) -> Any:
        first = {"params": [*module.net.first.named_parameters()], "lr": 0.001, "momentum": 0.5}
        norm = {"params": [*module.net.norm.named_parameters()], "lr": 0.01}
        last = {"params": [*module.net.last.named_parameters()], "lr": 0.1, "weight_decay": 0.0}
        optimizer = torch.optim.SGD([first, norm, last], 0.1, momentum=0.9, weight_decay=0.1)
        lambdas = [lambda epoch: 1.0, lambda epoch: 0.5**epoch, lambda epoch: 0.1**epoch]
        return [optimizer], [lr_scheduler.LambdaLR(optimizer, lambdas)]

    model, trainer = fit(configure, [WeightDecayGroups()], L, max_epochs=2)
    (optimizer,) = trainer.optimizers
    seen = [
        (group["weight_decay"], group["momentum"], group["initial_lr"], group["param_names"])
        for group in optimizer.param_groups
    ]
    assert seen == [
        (0.1, 0.5, 0.001, ["weight"]),
        (0.0, 0.9, 0.01, ["weight", "bias"]),  # norms only: no new group
        (0.0, 0.9, 0.1, ["weight", "bias"]),  # no decay from the start: left whole
        (0.0, 0.5, 0.001, ["bias"]),
    ]
    assert optimizer.param_groups[3]["params"][0] is model.net.first.bias
    assert model.rates[-1] == pytest.approx([0.001, 0.005, 0.01, 0.001])


@pytest.mark.filterwarnings("ignore")
def test_manual_optimisation_with_several_optimisers() -> None:
    def configure(module: Any) -> Any:
        module.automatic_optimization = False
        rest = [p for name, p in module.net.named_parameters() if not name.startswith("first")]
        return [
            torch.optim.SGD(module.net.first.parameters(), 0.1, weight_decay=0.1),
            torch.optim.Adam(rest, 0.1),
        ]

    rule = WeightDecayGroups()
    _, trainer = fit(configure, [rule])
    assert [[group["weight_decay"] for group in o.param_groups] for o in trainer.optimizers] == [[0.1, 0.0], [0]]
    assert [finding.message.split(";")[0] for finding in rule.findings] == [
        "Took 1 biases, norms and other parameters without width out of the weight decay of SGD",
        "The groups of Adam were left alone: it has no weight decay.",
    ]


def adamw(module: Any) -> Any:
    return scheduled(torch.optim.AdamW(plain(module), 0.05, weight_decay=0.3), "cosine")


def resumed(first: list[Any], second: list[Any], tmp_path: Path) -> Any:
    _, trainer = fit(adamw, first, max_epochs=2)
    trainer.save_checkpoint(tmp_path / "a.ckpt")
    return fit(adamw, second, ckpt_path=tmp_path / "a.ckpt")


@pytest.mark.filterwarnings("ignore")
def test_resumed_to_the_bit(tmp_path: Path) -> None:
    whole, _ = fit(adamw, [WeightDecayGroups()])
    model, _ = resumed([WeightDecayGroups()], [WeightDecayGroups()], tmp_path)
    assert model.rates == whole.rates[6:]
    for name, value in whole.net.state_dict().items():
        assert torch.equal(model.net.state_dict()[name], value), name


@pytest.mark.filterwarnings("ignore")
def test_a_checkpoint_without_the_rule_is_taken_as_it_is(tmp_path: Path) -> None:
    rule = WeightDecayGroups()
    model, trainer = resumed([lightning.pytorch.Callback()], [rule], tmp_path)
    assert len(trainer.optimizers[0].param_groups) == 1
    assert rule.findings[0].message == (
        "The groups of AdamW were left alone: the run is resumed from a checkpoint with these groups, to which its "
        "state belongs."
    )
    reference, _ = fit(adamw, [])
    for name, value in reference.net.state_dict().items():
        assert torch.equal(model.net.state_dict()[name], value), name


@pytest.mark.filterwarnings("ignore")
def test_groups_that_are_split_already_stay() -> None:
    rule = WeightDecayGroups()
    _, trainer = fit(lambda module: torch.optim.AdamW(split(module), 0.05, weight_decay=0.3), [rule])
    assert [len(group["params"]) for group in trainer.optimizers[0].param_groups] == [2, 5]
    assert rule.findings[0].message == "The groups of AdamW were left alone: its groups are split already."
