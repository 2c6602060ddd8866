"""data-audit in real fits: planted bugs and their healthy twins, foreign data, no trace."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import lightning.pytorch as L
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from sklearn.datasets import load_breast_cancer, load_diabetes, load_digits
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, IterableDataset, Subset, SubsetRandomSampler, TensorDataset

from lightning_rules import DataAudit, Finding, Severity
from lightning_rules.data.data_seen import DataSeen
from lightning_rules.view import View

Pair = tuple[Tensor, Tensor]
Step = Callable[[Tensor], Tensor]


class Model(L.LightningModule):
    def __init__(self, net: nn.Module, loss: Any, train: Step, validation: Step) -> None:
        super().__init__()
        self.net, self.loss, self.prepare, self.prepare_validation = net, loss, train, validation

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        return self.loss(self.net(self.prepare(batch[0])), batch[1])  # type: ignore[no-any-return]

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self.log("loss", self.loss(self.net(self.prepare_validation(batch[0])), batch[1]))

    def configure_optimizers(self) -> Any:
        return torch.optim.Adam(self.parameters(), 1e-3)


def model(net: nn.Module | None = None, loss: Any = F.cross_entropy, **steps: Step) -> Model:
    same: Step = lambda x: x  # noqa: E731
    return Model(net or mlp(), loss, steps.get("train", same), steps.get("validation", steps.get("train", same)))


def mlp(inputs: int = 64, outputs: int = 10) -> nn.Sequential:
    return nn.Sequential(nn.Linear(inputs, 16), nn.ReLU(), nn.Linear(16, outputs))


def cut(bunch: Any, scale: bool = True, held: float = 0.2) -> tuple[Pair, Pair]:
    inputs, targets = torch.tensor(bunch.data).float(), torch.tensor(bunch.target)
    if scale:
        inputs = (inputs - inputs.mean(0)) / inputs.std(0).clamp_min(0.1)
    order = torch.randperm(len(inputs), generator=torch.Generator().manual_seed(0))
    ours, theirs = order[int(held * len(order)) :], order[: int(held * len(order))]
    return (inputs[ours], targets[ours]), (inputs[theirs], targets[theirs])


def digits(scale: bool = True) -> tuple[Pair, Pair]:
    return cut(load_digits(), scale)


def loader(pair: Pair, **options: Any) -> DataLoader[Any]:
    return DataLoader(TensorDataset(*pair), 64, **options)


def audited(module: Any, train: Any, validation: Any = None, **options: Any) -> list[Finding]:
    rule = DataAudit(budget=None)
    quiet = {"enable_checkpointing": False, "enable_progress_bar": False, "enable_model_summary": False}
    trainer = L.Trainer(
        max_epochs=1, limit_train_batches=1, num_sanity_val_steps=0, limit_val_batches=1, accelerator="cpu",
        logger=False, callbacks=[rule], **quiet, **options,
    )  # fmt: skip
    trainer.fit(module, train, validation)
    assert not [finding for finding in rule.findings if "failed with" in finding.message]
    return rule.findings


def alarms(findings: list[Finding]) -> dict[str, Severity]:
    return {finding.rule: finding.severity for finding in findings if finding.severity >= Severity.WARNING}


def with_nan(pair: Pair) -> Pair:
    inputs = pair[0].clone()
    inputs[::100] = torch.nan
    return inputs, pair[1]


def without(pair: Pair, label: int) -> Pair:
    return pair[0][pair[1] != label], pair[1][pair[1] != label]


def joined(one: Pair, two: Pair) -> Pair:
    return torch.cat([one[0], two[0]]), torch.cat([one[1], two[1]])


def with_label(pair: Pair) -> Pair:
    inputs = pair[0].clone()
    inputs[:, 0] = pair[1] / 10
    return inputs, pair[1]


PLANTED: dict[str, tuple[str, Severity, Callable[[Pair, Pair], tuple[Any, ...]]]] = {
    "validation in training": ("no-leak", Severity.ERROR, lambda a, b: (model(), joined(a, b), b)),
    "class missing": ("missing-class", Severity.ERROR, lambda a, b: (model(), without(a, 5), b)),
    "1% NaN rows": ("no-junk", Severity.ERROR, lambda a, b: (model(), with_nan(a), b)),
    "zeroed on the way": ("no-junk", Severity.ERROR, lambda a, b: (model(train=lambda x: x * 0), a, b)),
    "pixels x255": ("normalise-inputs", Severity.WARNING, lambda a, b: (model(train=lambda x: x * 255), a, b)),
    "validation unscaled in its step": (
        "same-distribution",
        Severity.WARNING,
        lambda a, b: (model(validation=lambda x: x * 6 + 5), a, b),
    ),
    "label in a pixel": ("label-in-input", Severity.WARNING, lambda a, b: (model(), with_label(a), with_label(b))),
}


@pytest.mark.parametrize("bug", PLANTED)
def test_planted_bug_is_named(bug: str) -> None:
    name, severity, plant = PLANTED[bug]
    module, train, validation = plant(*digits())
    found = alarms(audited(module, loader(train), loader(validation)))
    assert found.get(name) is severity


def test_healthy_twins() -> None:
    train, validation = digits()
    assert alarms(audited(model(), loader(train, shuffle=True), loader(validation))) == {}
    raw, raw_held = digits(scale=False)
    behind_norm = nn.Sequential(nn.BatchNorm1d(64), mlp())
    assert alarms(audited(model(behind_norm), loader(raw), loader(raw_held))) == {}
    in_order = validation[1].argsort()
    ordered = (validation[0][in_order], validation[1][in_order])
    assert alarms(audited(model(), loader(train), loader(ordered))) == {}


def squared(output: Tensor, target: Tensor) -> Tensor:
    return F.mse_loss(output[:, 0], target.float())


def binary(output: Tensor, target: Tensor) -> Tensor:
    return F.binary_cross_entropy_with_logits(output[:, 0], target.float())


def test_targets() -> None:
    train, held = cut(load_diabetes())
    unscaled = alarms(audited(model(mlp(10, 1), squared), loader(train), loader(held)))
    assert unscaled == {"target-scale": Severity.WARNING}
    scaled = (train[0], (train[1] - 152) / 77), (held[0], (held[1] - 152) / 77)
    assert alarms(audited(model(mlp(10, 1), squared), *map(loader, scaled))) == {}
    train, held = cut(load_breast_cancer())
    assert alarms(audited(model(mlp(30, 1), binary), loader(train), loader(held))) == {}
    signed = (train[0], 2 * train[1] - 1), (held[0], 2 * held[1] - 1)
    assert alarms(audited(model(mlp(30, 1), binary), *map(loader, signed))) == {"target-type": Severity.ERROR}


def test_unscaled_features() -> None:
    train, held = cut(load_breast_cancer(), scale=False)
    (name,) = alarms(audited(model(mlp(30, 1), binary), loader(train), loader(held)))
    assert name == "normalise-inputs"


def test_one_set_two_samplers_or_subsets() -> None:
    """Splits of one data set are told apart by what they draw from it."""
    whole = TensorDataset(*joined(*digits()))
    order = torch.randperm(len(whole), generator=torch.Generator().manual_seed(0)).tolist()
    ours, theirs = order[:1400], order[1400:]
    train = DataLoader(whole, 64, sampler=SubsetRandomSampler(ours))
    assert alarms(audited(model(), train, DataLoader(whole, 64, sampler=SubsetRandomSampler(theirs)))) == {}
    assert alarms(audited(model(), DataLoader(Subset(whole, ours), 64), DataLoader(Subset(whole, theirs), 64))) == {}
    overlapping = DataLoader(Subset(whole, order[1390:]), 64)
    findings = audited(model(), DataLoader(Subset(whole, ours), 64), overlapping)
    (leak,) = [finding for finding in findings if finding.rule == "no-leak"]
    assert leak.severity is Severity.ERROR
    assert leak.evidence["shared_indices"] == 10


class Augmented(Dataset):
    """Moved at random when read; what lies underneath is in ``data``."""

    def __init__(self, pair: Pair, random: bool) -> None:
        self.data, self.targets = pair[0].reshape(-1, 1, 8, 8), pair[1]
        self.random = random

    def __len__(self) -> int:
        return len(self.data)

    def __getitem__(self, index: int) -> Any:
        by = int(torch.randint(-2, 3, ())) if self.random else 0
        return self.data[index].roll(by, 2), self.targets[index]


def test_augmentation_is_no_shift_and_hides_no_leak() -> None:
    train, held = digits()
    net = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(144, 10))
    validation = DataLoader(Augmented(held, False), 64)
    assert alarms(audited(model(net), DataLoader(Augmented(train, True), 64), validation)) == {}
    leaking = DataLoader(Augmented(joined(train, held), True), 64)
    assert alarms(audited(model(net), leaking, validation)) == {"no-leak": Severity.ERROR}


class Stream(IterableDataset):
    def __init__(self, pair: Pair) -> None:
        self.pair = pair

    def __iter__(self) -> Iterator[Any]:
        return iter(zip(*self.pair, strict=True))


def test_streams_are_judged_by_what_can_be_seen() -> None:
    train, held = digits()
    assert alarms(audited(model(), DataLoader(Stream(train), 64), DataLoader(Stream(held), 64))) == {}
    wide = DataLoader(Stream((train[0] * 255, train[1])), 64)
    findings = audited(model(), wide, DataLoader(Stream(held), 64))
    assert alarms(findings).keys() == {"normalise-inputs", "same-distribution"}
    assert any("a stream's examples are not compared" in finding.message for finding in findings)


def test_unknown_targets_left_out_by_a_mask_are_healthy() -> None:
    train, held = cut(load_diabetes())

    def masked(output: Tensor, target: Tensor) -> Tensor:
        known = torch.isfinite(target)
        return F.mse_loss(output[:, 0][known], target[known])

    gaps = (train[1].float() - 152) / 77
    gaps[::5] = torch.nan
    findings = audited(model(mlp(10, 1), masked), loader((train[0], gaps)), loader((held[0], (held[1] - 152) / 77)))
    assert alarms(findings) == {}
    assert any("the training step copes with them" in finding.message for finding in findings)
    broken = audited(model(mlp(10, 1), lambda o, t: F.mse_loss(o[:, 0], t)), loader((train[0], gaps)))
    assert alarms(broken) == {"no-junk": Severity.ERROR}


def test_an_aspect_can_be_ignored_alone() -> None:
    train, held = digits()
    rule = DataAudit(budget=None)
    rule.ignored = {"no-leak": "the sets are one on purpose"}
    trainer = L.Trainer(
        max_epochs=1, limit_train_batches=1, accelerator="cpu", logger=False, enable_checkpointing=False,
        enable_progress_bar=False, enable_model_summary=False, callbacks=[rule],
    )  # fmt: skip
    trainer.fit(model(), loader(joined(train, held)), loader(held))
    assert alarms(rule.findings) == {}
    assert any(finding.message.startswith("Ignored, the sets are one on purpose: 359") for finding in rule.findings)


def test_wrong_options_are_told() -> None:
    with pytest.raises(ValueError, match="Expected `seconds` to be a positive number, but got 0"):
        DataAudit(seconds=0)
    with pytest.raises(ValueError, match="Expected `budget`"):
        DataAudit(budget=-1)


def fitted(callbacks: list[Any]) -> dict[str, Any]:
    """All that two epochs leave behind, of a network with dropout and batch norm on augmented data."""
    torch.manual_seed(5)
    np.random.seed(5)
    train, held = digits()
    net = nn.Sequential(nn.Flatten(), nn.Linear(64, 16), nn.BatchNorm1d(16), nn.Dropout(0.3), nn.Linear(16, 10))
    module = model(net)
    trainer = L.Trainer(
        max_epochs=2, accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False, callbacks=callbacks,
    )  # fmt: skip
    batches = DataLoader(Augmented((train[0][:320], train[1][:320]), True), 64, shuffle=True)
    trainer.fit(module, batches, DataLoader(Augmented(held, False), 64))
    weights = {name: value.clone() for name, value in module.state_dict().items()}
    moments = [
        value.clone()
        for state in trainer.optimizers[0].state_dict()["state"].values()
        for value in state.values()
        if isinstance(value, Tensor)
    ]
    return {"weights": weights, "moments": moments, "torch": torch.get_rng_state(), "numpy": np.random.get_state()[1]}


def test_no_trace() -> None:
    rule = DataAudit(budget=None)
    ours, theirs = fitted([rule]), fitted([])
    assert len(rule.findings) > 5
    assert all(torch.equal(ours["weights"][name], value) for name, value in theirs["weights"].items())
    assert all(torch.equal(one, other) for one, other in zip(ours["moments"], theirs["moments"], strict=True))
    assert torch.equal(ours["torch"], theirs["torch"])
    assert (ours["numpy"] == theirs["numpy"]).all()


def test_the_sample_is_bounded_and_spread() -> None:
    class Long(Dataset):
        reads: list[int] = []  # noqa: RUF012

        def __len__(self) -> int:
            return 1_000_000

        def __getitem__(self, index: int) -> Any:
            self.reads.append(index)
            return torch.full((4,), float(index)), index % 3

    trainer = L.Trainer(max_epochs=0, accelerator="cpu", logger=False, enable_checkpointing=False)
    module = model(mlp(4, 3))
    trainer.fit(module, DataLoader(Long(), 8))
    trainer.fit_loop.setup_data()
    sample = DataSeen(View(trainer, module)).train
    assert sample.says == "4,096 of 1,000,000 examples"
    assert (sample.indices[0], sample.indices[-1]) == (0, 999_999)
    assert max(np.diff(sample.indices)) < 250
    assert sample.inputs is not None
    assert sample.inputs.shape == (4096, 4)
    assert sample.targets is not None
    assert sample.targets.tolist() == [index % 3 for index in sample.indices]
    assert len(Long.reads) <= 4096 + 16
