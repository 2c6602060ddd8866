"""What loaders do to a run: planted bugs and their healthy twins in real fits."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from typing import Any, ClassVar

import lightning.pytorch as L
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from sklearn.datasets import load_diabetes, load_digits
from torch import Tensor, nn
from torch.utils.data import (
    DataLoader,
    Dataset,
    IterableDataset,
    RandomSampler,
    Sampler,
    SubsetRandomSampler,
    TensorDataset,
    WeightedRandomSampler,
    get_worker_info,
    random_split,
)

from lightning_rules import Severity
from lightning_rules.audit import Audit, aspects_of
from lightning_rules.data import distributed_sampling, repeated_batches, same_draws, shuffle, validation_passes
from lightning_rules.data.data_seen import DataSeen
from lightning_rules.deadline import Deadline
from lightning_rules.view import View

pytestmark = pytest.mark.filterwarnings("ignore")
DIGITS, DIABETES = load_digits(), load_diabetes()
X, Y = torch.tensor(DIGITS.data / 16, dtype=torch.float32), torch.tensor(DIGITS.target)
TRAIN, VALIDATION = (X[:1400], Y[:1400]), (X[1400:], Y[1400:])
ORDER = Y.argsort(stable=True)
SORTED = (X[ORDER], Y[ORDER])
NUMBERS = torch.tensor(DIABETES.data, dtype=torch.float32), torch.tensor((DIABETES.target - 152) / 77).float()


class LoaderAudit(Audit):
    """The parts under test, alone."""

    name, source, kind = "loader-audit", "a test (2026)", "check"
    modules = (shuffle, repeated_batches, validation_passes, same_draws, distributed_sampling)
    parts: ClassVar[Any] = tuple(module.PART for module in modules)
    aspects = aspects_of(parts)

    def read(self, view: View, deadline: Deadline) -> DataSeen:
        return DataSeen(view)


class Model(L.LightningModule):
    def __init__(self, inputs: int = 64, outputs: int = 10) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Linear(inputs, 16), nn.ReLU(), nn.Dropout(0.5), nn.Linear(16, outputs))
        self.kept: Any = None

    def loss(self, batch: Any) -> Tensor:
        out = self.net(batch[0].flatten(1))
        return F.mse_loss(out[:, 0], batch[1]) if batch[1].is_floating_point() else F.cross_entropy(out, batch[1])

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        return self.loss(batch)

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self.loss(batch)

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), 0.01, momentum=0.9)


class KeepsTheFirst(Model):
    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        self.kept = batch if self.kept is None else self.kept
        return self.loss(self.kept)


class NoisyHook(Model):
    always = True

    def on_after_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
        return (noisy(batch[0]), batch[1]) if self.always or self.trainer.training else batch


class NoisyInTraining(NoisyHook):
    always = False


def noisy(inputs: Tensor) -> Tensor:
    return inputs + 0.1 * torch.randn_like(inputs)


def flipped(inputs: Tensor) -> Tensor:
    return inputs.view(8, 8).flip(1).flatten() if random.random() < 0.5 else inputs


class Mapped(Dataset):
    """Keeps its labels where nobody looks for them."""

    def __init__(self, data: Any, transform: Callable[[Tensor], Tensor] = lambda inputs: inputs) -> None:
        self.rows, self.transform = list(zip(*data, strict=True)), transform

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> Any:
        inputs, label = self.rows[index]
        return self.transform(inputs), label


class OwnGenerator(Mapped):
    def __init__(self, data: Any) -> None:
        super().__init__(data, lambda inputs: inputs + torch.tensor(self.generator.normal(size=64)).float())
        self.generator = np.random.default_rng(0)


class Forgetful(Mapped):
    def __getitem__(self, index: int) -> Any:
        return super().__getitem__(0)


class Stream(IterableDataset):
    def __init__(self, data: Any) -> None:
        self.data = data

    def __iter__(self) -> Iterator[Any]:
        return zip(*self.data, strict=True)


class Batches:
    def __init__(self, batches: list[Any]) -> None:
        self.batches = batches

    def __iter__(self) -> Iterator[Any]:
        return iter(self.batches)


class FewClassesABatch(Sampler[Any]):
    """Two of ten classes, sixteen examples of each, as for learning distances."""

    def __len__(self) -> int:
        return 40

    def __iter__(self) -> Iterator[list[int]]:
        for _ in range(40):
            yield [
                int(index)
                for label in torch.randperm(10)[:2]
                for index in (TRAIN[1] == label).nonzero()[:, 0][torch.randperm(120)[:16]]
            ]


def seed_alike(worker: int) -> None:
    torch.manual_seed(0)


def seed_the_set(worker: int) -> None:
    info = get_worker_info()
    assert info is not None
    dataset = getattr(info.dataset, "dataset", info.dataset)
    dataset.generator = np.random.default_rng(info.seed)


def loader(data: Any = TRAIN, size: int | None = 32, **options: Any) -> Any:
    return DataLoader(TensorDataset(*data) if isinstance(data, tuple) else data, size, **options)


def clean() -> Any:
    return loader(VALIDATION)


def halves(transform: Callable[[Tensor], Tensor]) -> tuple[Any, Any]:
    train, validation = random_split(Mapped((X, Y), transform), [1400, 397])
    return loader(train, shuffle=True), loader(validation)


def fit(make: Callable[[], tuple[Any, ...]], callbacks: list[Any], **options: Any) -> Any:
    L.seed_everything(1, verbose=False)
    module, train, validation = make()
    quiet = dict.fromkeys(("logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary"), False)
    options = {"max_steps": 1, "limit_val_batches": 1, "num_sanity_val_steps": 0, **quiet, **options}
    trainer = L.Trainer(accelerator="cpu", callbacks=callbacks, **options)
    trainer.fit(module, train, validation)
    return trainer


PLANTED: dict[str, tuple[Callable[[], Any], str, str]] = {
    "sorted": (lambda: (Model(), loader(SORTED), clean()), "shuffle", "sorted by label"),
    "sorted-one-by-one": (lambda: (Model(), loader(SORTED, 1), clean()), "shuffle", "hold 1.0 classes"),
    "sorted-labels-read": (lambda: (Model(), loader(Mapped(SORTED)), clean()), "shuffle", "sorted by label"),
    "sorted-stream": (lambda: (Model(), loader(Stream(SORTED)), clean()), "shuffle", "of 10 classes"),
    "sorted-numbers": (
        lambda: (Model(10, 1), loader(tuple(part[NUMBERS[1].argsort()] for part in NUMBERS)), None),
        "shuffle",
        "vary 1% as much",
    ),
    "same-indices": (
        lambda: (Model(), loader(sampler=list(range(32)) * 40), clean()),
        "repeated-batches",
        "draws only 32 of 1,400 examples, 40 times each",
    ),
    "same-batch": (
        lambda: (Model(), Batches([TRAIN] * 40), clean()),
        "repeated-batches",
        "the first 4 batches hold the same",
    ),
    "same-item": (
        lambda: (Model(), loader(Forgetful(TRAIN, noisy), shuffle=True), clean()),
        "repeated-batches",
        "Every example is the same",
    ),
    "kept-batch": (
        lambda: (KeepsTheFirst(), loader(shuffle=True), clean()),
        "repeated-batches",
        "outputs of the first batch for the second",
    ),
    "noisy-validation": (lambda: (Model(), *halves(noisy)), "validation-passes", "augmented at random"),
    "flipped-validation": (lambda: (Model(), *halves(flipped)), "validation-passes", "augmented at random"),
    "noisy-hook": (
        lambda: (NoisyHook(), loader(shuffle=True), clean()),
        "validation-passes",
        "enter the network differently",
    ),
    "copied-generator": (
        lambda: (Model(), loader(OwnGenerator(TRAIN), num_workers=2), clean()),
        "same-draws",
        "draw the same augmentations",
    ),
    "workers-seeded-alike": (
        lambda: (Model(), loader(Mapped(TRAIN, noisy), num_workers=2, worker_init_fn=seed_alike), clean()),
        "same-draws",
        "draw the same augmentations",
    ),
}


@pytest.mark.parametrize("bug", PLANTED)
def test_fires_on_a_planted_bug(bug: str) -> None:
    make, aspect, words = PLANTED[bug]
    audit = LoaderAudit(budget=None)
    fit(make, [audit])
    (alarm,) = [finding for finding in audit.findings if finding.severity >= Severity.WARNING]
    assert (alarm.rule, alarm.severity) == (aspect, Severity.WARNING)
    assert words in alarm.message
    assert alarm.advice


def balanced() -> Any:
    rare = (Y == 0).long()
    return loader((X, rare), sampler=WeightedRandomSampler((1 / torch.bincount(rare))[rare], 1797))


HEALTHY: dict[str, Callable[[], Any]] = {
    "shuffled": lambda: (Model(), loader(shuffle=True), clean()),
    "random-order": lambda: (Model(), loader(), clean()),
    "one-batch": lambda: (Model(), loader(SORTED, 1797), clean()),
    "balanced": lambda: (Model(), balanced(), clean()),
    "few-classes-a-batch": lambda: (
        Model(),
        DataLoader(TensorDataset(*TRAIN), batch_sampler=FewClassesABatch()),
        clean(),
    ),
    "subset": lambda: (Model(), loader(sampler=SubsetRandomSampler(range(64))), clean()),
    "many-passes": lambda: (Model(), loader(sampler=RandomSampler(range(200), True, 4000)), clean()),
    "tiny": lambda: (Model(), loader((X[:16], Y[:16]), 16, shuffle=True), None),
    "numbers": lambda: (Model(10, 1), loader(NUMBERS), loader(NUMBERS)),
    "stream": lambda: (Model(), loader(Stream(TRAIN)), clean()),
    "shuffled-validation": lambda: (Model(), loader(shuffle=True), loader(VALIDATION, shuffle=True)),
    "augmented-training": lambda: (Model(), loader(Mapped(TRAIN, noisy), shuffle=True), clean()),
    "augmented-by-a-hook": lambda: (NoisyInTraining(), loader(shuffle=True), clean()),
    "drawn-anew": lambda: (Model(), *halves(lambda inputs: torch.randn(64))),
    "own-generator-alone": lambda: (Model(), loader(OwnGenerator(TRAIN)), clean()),
    "own-generator-seeded": lambda: (
        Model(),
        loader(OwnGenerator(TRAIN), num_workers=2, worker_init_fn=seed_the_set),
        clean(),
    ),
}


@pytest.mark.parametrize("twin", HEALTHY)
def test_silent_on_healthy_twins(twin: str) -> None:
    audit = LoaderAudit(budget=None)
    fit(HEALTHY[twin], [audit])
    assert [finding for finding in audit.findings if finding.severity >= Severity.WARNING] == []
    assert [finding for finding in audit.findings if "failed" in finding.message] == []


def test_overfitting_on_purpose_is_left_alone() -> None:
    audit = LoaderAudit(budget=None)
    fit(lambda: (Model(), loader(SORTED), None), [audit], overfit_batches=1)
    assert any("overfit_batches trains on the same batches" in finding.message for finding in audit.findings)
    assert all(finding.severity <= Severity.INFO for finding in audit.findings)


@pytest.mark.parametrize("bug", ["kept-batch", "noisy-hook", "copied-generator", "flipped-validation"])
def test_leaves_no_trace(bug: str) -> None:
    ends = []
    for callbacks in ([], [LoaderAudit(budget=None)]):
        trainer = fit(PLANTED[bug][0], callbacks, max_steps=-1, max_epochs=2, limit_train_batches=4)
        ends.append([*trainer.model.state_dict().values(), torch.get_rng_state()])
        ends[-1] += [state["momentum_buffer"] for state in trainer.optimizers[0].state.values()]
        ends[-1] += [torch.tensor(np.random.get_state()[1].astype(np.int64))]
    assert all(torch.equal(one, other) for one, other in zip(*ends, strict=True))
