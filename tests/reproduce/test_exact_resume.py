from __future__ import annotations

import functools
import os
import pickle
import random
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
import pytest
import torch
import torch.nn.functional as F
import torchmetrics
from lightning.pytorch.callbacks import Checkpoint, EarlyStopping, EMAWeightAveraging, ModelCheckpoint
from lightning.pytorch.plugins.environments import SLURMEnvironment
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, IterableDataset, RandomSampler, Sampler

from lightning_rules import (
    ExactResume,
    GradientClipping,
    LargestBatchSize,
    LastLayerBiasInit,
    LRFinder,
    MomentumSchedule,
    SeedEverything,
)
from lightning_rules.reproduce.seeded_batches import Sent
from lightning_rules.untouched import untouched


class Augmented(Dataset[Any]):
    """Examples with noise from each of the generators that programs share."""

    def __init__(self, count: int = 48) -> None:
        draw = torch.Generator().manual_seed(count)
        self.inputs = torch.randn(count, 4, generator=draw)
        self.targets = (self.inputs[:, 0] > 0).long()

    def __len__(self) -> int:
        return len(self.inputs)

    def __getitem__(self, index: Any) -> tuple[Tensor, Tensor]:
        noise = random.gauss(0, 0.1) + float(np.random.normal(0, 0.1))
        return self.inputs[index] + noise + 0.1 * torch.randn(4), self.targets[index]


class Lazy(Sampler[int]):
    """Draws a number for each example, from the generators that programs share."""

    def __init__(self, data: Any) -> None:
        self.data = data

    def __len__(self) -> int:
        return len(self.data)

    def __iter__(self) -> Iterator[int]:
        for _ in self.data:
            yield (random.randrange(len(self)) + np.random.randint(len(self))) % len(self)


class Batches(Lazy):
    """Lists of four."""

    def __len__(self) -> int:
        return len(self.data) // 4

    def __iter__(self) -> Iterator[Any]:
        order = torch.randperm(len(self.data)).tolist()
        yield from (order[start : start + 4] for start in range(0, len(order), 4))


SAMPLERS: dict[str, Any] = {
    "replacement": lambda data: RandomSampler(data, replacement=True),
    "lazy": Lazy,
    "batches": Batches,
}


class Classifier(L.LightningModule):
    """Batch norm, dropout, a torchmetric of the epoch, and schedulers by step, epoch and metric."""

    def __init__(self, workers: int = 0, monitor: str = "val_loss", strict: bool = True, **loader: Any) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Dropout(0.3), nn.Linear(8, 2))
        self.accuracy = torchmetrics.classification.MulticlassAccuracy(2)
        self.workers, self.loader = workers, loader
        self.watch = {"monitor": monitor, "strict": strict}
        self.seen: list[Any] = []

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        inputs, targets = batch
        self.seen.append([self.current_epoch, batch_idx, float(inputs.sum())])
        logits = self.net(inputs)
        loss = F.cross_entropy(logits, targets)
        self.accuracy(logits, targets)
        self.log("train_loss", loss, on_step=True, on_epoch=True)
        self.log("train_accuracy", self.accuracy, on_step=False, on_epoch=True)
        return loss

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self.log("val_loss", F.cross_entropy(self.net(batch[0]), batch[1]))

    def configure_optimizers(self) -> Any:
        optimizer = torch.optim.AdamW(self.parameters(), lr=0.01)
        scheduler = torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer, patience=0, factor=0.7)
        return {
            "optimizer": optimizer,
            "lr_scheduler": {"scheduler": scheduler, **self.watch},
        }

    def train_dataloader(self) -> DataLoader[Any]:
        options = {"batch_size": 4, "shuffle": True, "num_workers": self.workers} | self.loader
        if "generator" in options:
            options["generator"] = options["generator"]().manual_seed(5)
        if "sampler" in options:
            options["sampler"] = SAMPLERS[options["sampler"]](range(48))
        return DataLoader(Augmented(), **options)

    def val_dataloader(self) -> DataLoader[Any]:
        return DataLoader(Augmented(16), batch_size=8)


class SaveIn(Checkpoint):
    """Saves once, in the given hook, after the given number of batches."""

    def __init__(self, hook: str, batches: int, path: Path) -> None:
        self.hook, self.batches, self.path = hook, batches, path

    def _save(self, hook: str, trainer: L.Trainer) -> None:
        if hook == self.hook and trainer.fit_loop.total_batch_idx + 1 >= self.batches and not self.path.exists():
            trainer.save_checkpoint(self.path)

    def on_train_batch_end(self, trainer: L.Trainer, *_: Any) -> None:
        self._save("train_batch_end", trainer)

    def on_validation_end(self, trainer: L.Trainer, *_: Any) -> None:
        if not trainer.sanity_checking:
            self._save("validation_end", trainer)

    def on_train_epoch_end(self, trainer: L.Trainer, *_: Any) -> None:
        self._save("train_epoch_end", trainer)


def fit(module: L.LightningModule, callbacks: list[Any], ckpt_path: Path | None = None, **options: Any) -> L.Trainer:
    """Three epochs of twelve batches."""
    trainer = L.Trainer(
        **{
            "accelerator": "cpu",
            "max_epochs": 3,
            "logger": False,
            "enable_progress_bar": False,
            "enable_model_summary": False,
            "enable_checkpointing": any(isinstance(one, Checkpoint) for one in callbacks),
            **options,
        },
        callbacks=callbacks,
    )
    trainer.fit(module, ckpt_path=ckpt_path, weights_only=True if ckpt_path else None)
    return trainer


def left_by(trainer: L.Trainer) -> dict[str, Any]:
    """All that a run leaves behind, to be compared bit for bit."""
    return {
        "weights": {name: value.clone() for name, value in trainer.lightning_module.state_dict().items()},
        "optimiser": trainer.optimizers[0].state_dict(),
        "schedulers": [config.scheduler.state_dict() for config in trainer.lr_scheduler_configs],
        "metrics": {name: float(value) for name, value in trainer.callback_metrics.items()},
        "random": [torch.rand(1).item(), np.random.rand(), random.random()],
        "steps": [trainer.global_step, trainer.current_epoch, trainer.fit_loop.epoch_loop._batches_that_stepped],
    }


def just_exact() -> list[Any]:
    return [ExactResume()]


@pytest.fixture
def unbroken_and_resumed(tmp_path: Path) -> Callable[..., tuple[dict[str, Any], dict[str, Any], list[Any], list[Any]]]:
    """What an unbroken run leaves, what one leaves that was resumed, and the batches that each has seen."""

    def run(
        hook: str, batches: int, make: Any = Classifier, rules: Any = lambda: [ExactResume()], **options: Any
    ) -> Any:
        path = tmp_path / "saved.ckpt"
        L.seed_everything(1, verbose=False)
        whole = make()
        unbroken = left_by(fit(whole, [*rules(), SaveIn(hook, batches, path)], **options))
        assert path.exists()
        L.seed_everything(2, verbose=False)
        rest = make()
        resumed = left_by(fit(rest, [*rules(), SaveIn("never", 0, path)], path, **options))
        return unbroken, resumed, whole.seen, rest.seen

    return run


HOOKS = ("train_batch_end", "validation_end", "train_epoch_end")


def differences(one: Any, other: Any, where: str = "") -> list[str]:
    """Names of all that is not the same, bit for bit."""
    if isinstance(one, torch.Tensor):
        return [] if torch.equal(one, other) else [where]
    if isinstance(one, dict):
        names = sorted({*one, *other}, key=str)
        return [d for name in names for d in differences(one.get(name), other.get(name), f"{where}/{name}")]
    if isinstance(one, list | tuple) and len(one) == len(other):
        return [d for i, pair in enumerate(zip(one, other, strict=True)) for d in differences(*pair, f"{where}/{i}")]
    return [] if one == other else [f"{where}: {other} instead of {one}"]


@pytest.mark.parametrize("hook", HOOKS)
@pytest.mark.parametrize("batches", [5, 12, 17, 24])
@pytest.mark.parametrize(
    "options", [{}, {"val_check_interval": 5, "accumulate_grad_batches": 3}], ids=["plain", "parts"]
)
def test_same_bits_whatever_the_hook(
    unbroken_and_resumed: Callable[..., Any], hook: str, batches: int, options: dict[str, Any]
) -> None:
    unbroken, resumed, whole, rest = unbroken_and_resumed(hook, batches, **options)
    assert rest == whole[len(whole) - len(rest) :]
    assert differences(unbroken, resumed) == []


CASES: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "two workers": ({"workers": 2}, {}),
    "workers that stay": ({"workers": 2, "persistent_workers": True}, {}),
    "generator of one's own": ({"generator": torch.Generator}, {}),
    "generator and workers": ({"generator": torch.Generator, "workers": 2}, {}),
    "with replacement": ({"sampler": "replacement", "shuffle": False}, {}),
    "lazy sampler": ({"sampler": "lazy", "shuffle": False}, {}),
    "lazy sampler, workers": ({"sampler": "lazy", "shuffle": False, "workers": 2}, {}),
    "no batches": ({"batch_size": None, "sampler": "batches", "shuffle": False, "workers": 2}, {}),
    "steps instead of epochs": ({}, {"max_epochs": -1, "max_steps": 33}),
    "schedule by training loss": ({"monitor": "train_loss_epoch"}, {}),
    "no validation": ({"monitor": "train_loss_epoch"}, {"limit_val_batches": 0}),
    "validation by steps": ({}, {"val_check_interval": 7, "check_val_every_n_epoch": None}),
    "every second epoch": ({"strict": False}, {"check_val_every_n_epoch": 2}),
    "fewer batches": ({}, {"limit_train_batches": 9}),
    "loaders anew": ({}, {"reload_dataloaders_every_n_epochs": 1}),
    "accumulation": ({}, {"accumulate_grad_batches": 5}),
    "bfloat16": ({}, {"precision": "bf16-mixed"}),
    "clipping": ({}, {"gradient_clip_val": 0.1}),
}


@pytest.mark.parametrize("hook", HOOKS)
@pytest.mark.parametrize("case", CASES)
def test_same_bits_whatever_the_run(unbroken_and_resumed: Callable[..., Any], hook: str, case: str) -> None:
    module, options = CASES[case]
    if hook == "validation_end" and options.get("limit_val_batches") == 0:
        pytest.skip("There is no validation.")
    make = functools.partial(Classifier, **module)
    unbroken, resumed, whole, rest = unbroken_and_resumed(hook, 15, make, **options)
    assert rest == whole[len(whole) - len(rest) :]
    assert differences(unbroken, resumed) == []


def test_indices_bring_their_random_numbers_along() -> None:
    """What a worker does when it receives them, forked or spawned."""
    sent = pickle.dumps(Sent([3, 1], seed=7, number=2))
    drawn = []
    for _ in range(2):
        with untouched():
            assert pickle.loads(sent) == [3, 1]
            drawn.append([torch.rand(1).item(), float(np.random.rand()), random.random()])
    assert drawn[0] == drawn[1]
    assert len(set(drawn[0])) == 3


def run_of_all_rules() -> list[Any]:
    return [SeedEverything(3), LastLayerBiasInit(), GradientClipping(percentile=50), MomentumSchedule(), ExactResume()]


def with_average() -> list[Any]:
    return [ExactResume(), EMAWeightAveraging(decay=0.9)]


@pytest.mark.parametrize("hook", HOOKS)
@pytest.mark.parametrize("rules", [run_of_all_rules, with_average, lambda: just_exact()[::-1]])
def test_same_bits_with_other_callbacks(unbroken_and_resumed: Callable[..., Any], hook: str, rules: Any) -> None:
    unbroken, resumed, whole, rest = unbroken_and_resumed(hook, 15, rules=rules)
    assert rest == whole[len(whole) - len(rest) :]
    assert differences(unbroken, resumed) == []


@pytest.mark.parametrize("hook", HOOKS)
@pytest.mark.parametrize("workers", [0, 2])
def test_same_bits_with_a_generator_of_the_loader_that_is_seeded(
    unbroken_and_resumed: Callable[..., Any], hook: str, workers: int
) -> None:
    def make() -> Classifier:
        return Classifier(generator=torch.Generator, workers=workers)

    unbroken, resumed, whole, rest = unbroken_and_resumed(hook, 15, make, run_of_all_rules)
    assert rest == whole[len(whole) - len(rest) :]
    assert differences(unbroken, resumed) == []


class Larger(Classifier):
    """Long enough a run to search a learning rate for."""

    def train_dataloader(self) -> DataLoader[Any]:
        return DataLoader(Augmented(480), batch_size=4, shuffle=True)


def searching() -> list[Any]:
    return [SeedEverything(3), LargestBatchSize(ceiling=32), LRFinder(), ExactResume()]


@pytest.mark.parametrize("hook", HOOKS)
def test_same_bits_after_searches(unbroken_and_resumed: Callable[..., Any], hook: str) -> None:
    """Trials draw from the loaders, and the loader that they end with is another."""
    unbroken, resumed, whole, rest = unbroken_and_resumed(hook, 17, Larger, searching)
    assert len(whole) == 45
    assert rest == whole[len(whole) - len(rest) :]
    assert differences(unbroken, resumed) == []


class TwoLoaders(Classifier):
    """The shorter loader begins again while the longer one goes on."""

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        return super().training_step(batch["long"], batch_idx) + self.net(batch["short"][0]).square().mean()

    def train_dataloader(self) -> Any:
        short = DataLoader(Augmented(20), batch_size=4, shuffle=True)
        return {"long": super().train_dataloader(), "short": short}


class ByHand(Classifier):
    """Two optimisers, and gradients that are used at every third batch only."""

    def __init__(self) -> None:
        super().__init__()
        self.automatic_optimization = False

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        loss = super().training_step(batch, batch_idx)
        self.manual_backward(loss)
        if batch_idx % 3 == 2:
            for optimizer in self.optimizers():
                optimizer.step()
                optimizer.zero_grad()

    def configure_optimizers(self) -> Any:
        return [torch.optim.AdamW(self.net[0].parameters()), torch.optim.SGD(self.net[4].parameters(), 0.1, 0.9)]


@pytest.mark.parametrize("hook", HOOKS)
@pytest.mark.parametrize("make", [TwoLoaders, ByHand])
def test_same_bits_whatever_the_module(unbroken_and_resumed: Callable[..., Any], hook: str, make: Any) -> None:
    unbroken, resumed, whole, rest = unbroken_and_resumed(hook, 16, make)
    assert rest == whole[len(whole) - len(rest) :]
    assert differences(unbroken, resumed) == []


def test_the_number_of_workers_may_change(tmp_path: Path) -> None:
    path = tmp_path / "saved.ckpt"
    whole, rest = Classifier(workers=2), Classifier(workers=1)
    first = fit(whole, [ExactResume(), SaveIn("train_batch_end", 15, path)])
    second = fit(rest, [ExactResume()], path)
    assert rest.seen == whole.seen[15:]
    assert differences(first.lightning_module.state_dict(), second.lightning_module.state_dict()) == []


def test_without_the_rule_lightning_goes_another_way(tmp_path: Path) -> None:
    """The reason for the rule; where this fails, Lightning has become exact itself."""
    path = tmp_path / "saved.ckpt"
    L.seed_everything(1, verbose=False)
    whole, rest = Classifier(), Classifier()
    fit(whole, [SaveIn("train_batch_end", 15, path)])
    fit(rest, [SaveIn("never", 0, path)], path)
    assert rest.seen != whole.seen[15:]


def test_a_run_that_was_stopped_early_stays_stopped(tmp_path: Path) -> None:
    path = tmp_path / "saved.ckpt"
    stop = EarlyStopping("val_loss", patience=1, min_delta=10.0)
    whole, rest = Classifier(), Classifier()
    fit(whole, [ExactResume(), stop, SaveIn("validation_end", 24, path)], max_epochs=9)
    fit(rest, [ExactResume(), EarlyStopping("val_loss", patience=1, min_delta=10.0)], path, max_epochs=9)
    assert [epoch for epoch, _, _ in whole.seen][-1] == 1
    assert rest.seen == []


class KnowsTheLastBatch(Classifier):
    """Remembers which batches the Trainer calls the last of their epoch."""

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        self.seen.append(["last", batch_idx, self.trainer.is_last_batch])


def test_the_last_batch_of_an_epoch_is_known(unbroken_and_resumed: Callable[..., Any]) -> None:
    _, _, whole, rest = unbroken_and_resumed("train_batch_end", 15, KnowsTheLastBatch)
    assert rest == whole[30:]
    assert [one for one in rest if one[0] == "last" and one[2]] == [["last", 11, True]] * 2


class AsksToStop(Classifier):
    """Asks for the end once, before the run has the steps that it must have."""

    def on_train_batch_end(self, outputs: Any, batch: Any, batch_idx: int) -> None:
        if self.trainer.fit_loop.total_batch_idx == 12:
            self.trainer.should_stop = True


def test_a_run_that_was_asked_to_stop_stops_when_it_would_have(unbroken_and_resumed: Callable[..., Any]) -> None:
    unbroken, resumed, whole, rest = unbroken_and_resumed("train_batch_end", 15, AsksToStop, min_steps=20)
    assert len(whole) == 20
    assert rest == whole[15:]
    assert differences(unbroken, resumed) == []


def findings_of(trainer: L.Trainer) -> list[str]:
    (rule,) = [callback for callback in trainer.callbacks if isinstance(callback, ExactResume)]
    return [f"{finding.severity} {finding.message}" for finding in rule.findings]


def resumed_with(path: Path, change: Callable[[Any], None]) -> L.Trainer:
    fit(Classifier(), [ExactResume(), SaveIn("train_batch_end", 15, path)])
    checkpoint = torch.load(path, weights_only=True)
    change(checkpoint)
    torch.save(checkpoint, path)
    return fit(Classifier(), [ExactResume()], path)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda checkpoint: checkpoint.pop("exact_resume"), "saved without this rule"),
        (lambda checkpoint: checkpoint["exact_resume"].update(hook=None), "in the middle of a batch"),
        (lambda checkpoint: checkpoint["exact_resume"].update(world_size=3), "saved by 3 ranks"),
        (lambda checkpoint: checkpoint["exact_resume"]["ranks"][0].update(loaders=[]), "loaders are not those"),
    ],
)
def test_warns_where_a_resume_is_not_exact(tmp_path: Path, change: Any, said: str) -> None:
    trainer = resumed_with(tmp_path / "saved.ckpt", change)
    assert any(message.startswith("warning") and said in message for message in findings_of(trainer))
    assert trainer.global_step == 36


class InTheMiddle(Classifier):
    """Saves where no hook of a checkpoint's is."""

    path: Path

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        if self.global_step == 14 and not self.path.exists():
            self.trainer.save_checkpoint(self.path)
        return super().training_step(batch, batch_idx)


def test_warns_of_a_checkpoint_from_the_middle_of_a_batch(tmp_path: Path) -> None:
    module = InTheMiddle()
    module.path = tmp_path / "saved.ckpt"
    fit(module, [ExactResume()])
    trainer = fit(Classifier(), [ExactResume()], module.path)
    assert any(message.startswith("warning") and "middle of a batch" in message for message in findings_of(trainer))


class Streamed(IterableDataset[Any]):
    def __iter__(self) -> Iterator[Any]:
        yield from (Augmented()[index] for index in range(48))


class Drawing(Augmented):
    """Its noise comes from a generator that each worker has a copy of."""

    def __init__(self) -> None:
        super().__init__()
        self.generator = np.random.default_rng(0)

    def __getitem__(self, index: Any) -> tuple[Tensor, Tensor]:
        return self.inputs[index] + float(self.generator.normal()), self.targets[index]


class OneBatch:
    def __iter__(self) -> Iterator[Any]:
        yield Augmented()[slice(0, 4)]


class From(Classifier):
    """Trains on a given loader."""

    def __init__(self, loader: Any) -> None:
        super().__init__()
        self.given = loader

    def train_dataloader(self) -> Any:
        return self.given


class Late(Classifier):
    def on_train_batch_end(self, outputs: Any, batch: Any, batch_idx: int) -> None:
        self.last = batch_idx


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: From(DataLoader(Streamed(), batch_size=4)), "Streamed is an IterableDataset"),
        (lambda: From(DataLoader(Drawing(), batch_size=4, num_workers=1)), "a random number generator of its own"),
        (lambda: From(OneBatch()), "has neither a sampler nor"),
        (Late, "Late.on_train_batch_end runs after"),
    ],
)
def test_says_at_the_start_what_cannot_be_exact(make: Any, said: str) -> None:
    trainer = fit(make(), [ExactResume()], max_epochs=1)
    (message,) = findings_of(trainer)
    assert message.startswith("info If this run is killed, a resume cannot give the same bits")
    assert said in message


def test_a_loader_that_is_handed_out_again_each_epoch(tmp_path: Path) -> None:
    path = tmp_path / "saved.ckpt"
    whole, rest = (From(DataLoader(Augmented(), batch_size=4, shuffle=True)) for _ in range(2))
    fit(whole, [ExactResume(), SaveIn("train_batch_end", 15, path)], reload_dataloaders_every_n_epochs=1)
    trainer = fit(rest, [ExactResume()], path, reload_dataloaders_every_n_epochs=1)
    assert rest.seen == whole.seen[15:]
    assert not any(message.startswith("warning") for message in findings_of(trainer))


def test_a_generator_that_the_data_set_owns_is_restored_where_the_main_process_reads(tmp_path: Path) -> None:
    path = tmp_path / "saved.ckpt"
    whole, rest = (From(DataLoader(Drawing(), batch_size=4, shuffle=True)) for _ in range(2))
    trainer = fit(whole, [ExactResume(), SaveIn("train_batch_end", 15, path)])
    fit(rest, [ExactResume()], path)
    assert rest.seen == whole.seen[15:]
    assert findings_of(trainer) == ["ok A resume of this run gives the same bits."]


class WithState:
    """A loader that keeps its own position, as torchdata's StatefulDataLoader does."""

    def __init__(self) -> None:
        self.taken, self.from_there = 0, 0

    def __len__(self) -> int:
        return 12

    def __iter__(self) -> Iterator[Any]:
        start, self.from_there = self.from_there, 0
        for number in range(start, len(self)):
            self.taken = number + 1
            yield Augmented()[slice(4 * number, 4 * number + 4)]
        self.taken = 0

    def state_dict(self) -> dict[str, int]:
        return {"taken": self.taken}

    def load_state_dict(self, state: dict[str, int]) -> None:
        self.from_there = state["taken"]


def test_a_loader_with_a_state_of_its_own_goes_on(tmp_path: Path) -> None:
    path = tmp_path / "saved.ckpt"
    whole, rest = From(WithState()), From(WithState())
    first = fit(whole, [ExactResume(), SaveIn("train_batch_end", 15, path)])
    second = fit(rest, [ExactResume()], path)
    assert rest.seen == whole.seen[15:]
    assert differences(first.lightning_module.state_dict(), second.lightning_module.state_dict()) == []


def test_gives_back_all_that_it_has_replaced() -> None:
    module = Classifier(generator=torch.Generator)
    loader = module.train_dataloader()
    sampler = loader.batch_sampler
    trainer = fit(From(loader), [ExactResume()], max_epochs=1)
    assert loader.batch_sampler is sampler
    assert "advance" not in vars(trainer.fit_loop.epoch_loop)
    assert "on_advance_start" not in vars(trainer.fit_loop)
    assert "process_dataloader" not in vars(trainer.strategy)
    assert "_sigterm_notifier_fn" not in vars(trainer._signal_connector)


class Requeued(Classifier):
    """Is told by SLURM to make room, in the middle of a batch."""

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        if self.global_step == 14 and not self.trainer.ckpt_path:
            signal.raise_signal(signal.SIGUSR1)
        return super().training_step(batch, batch_idx)


def test_slurm_requeues_between_two_batches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The scheduler alone is not real: a program of its name that writes down how it was called."""
    called = tmp_path / "called"
    scontrol = tmp_path / "bin" / "scontrol"
    scontrol.parent.mkdir()
    scontrol.write_text(f'#!/bin/sh\necho "$@" >> {called}\n')
    scontrol.chmod(0o755)
    monkeypatch.setenv("PATH", f"{scontrol.parent}:{os.environ['PATH']}")
    for name, value in {"SLURM_JOB_ID": "7", "SLURM_NTASKS": "1", "SLURM_JOB_NAME": "train"}.items():
        monkeypatch.setenv(name, value)
    whole, rest = Requeued(), Requeued()
    options = {"plugins": SLURMEnvironment(), "default_root_dir": tmp_path}
    first = fit(whole, [ExactResume()], **options)
    assert called.read_text() == "requeue 7\n"
    second = fit(rest, [ExactResume()], **options)  # SLURM starts the same program again
    assert rest.seen == whole.seen[15:]
    assert differences(first.lightning_module.state_dict(), second.lightning_module.state_dict()) == []


class ToldInABatch(Classifier):
    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        if self.global_step == 14:
            signal.raise_signal(signal.SIGTERM)


class ToldAtTheEndOfAnEpoch(Classifier):
    def on_train_epoch_end(self) -> None:
        if self.current_epoch == 1:
            signal.raise_signal(signal.SIGTERM)


@pytest.mark.parametrize("make", [ToldInABatch, ToldAtTheEndOfAnEpoch])
def test_sigterm_saves_and_ends_with_a_status_of_its_own(tmp_path: Path, make: Any) -> None:
    L.seed_everything(1, verbose=False)
    whole = Classifier()
    first = fit(whole, [ExactResume()])
    L.seed_everything(1, verbose=False)
    told, rest = make(), Classifier()
    keeper = ModelCheckpoint(tmp_path, save_top_k=0)
    L.seed_everything(1, verbose=False)
    told.load_state_dict(Classifier().state_dict())
    with pytest.raises(SystemExit) as ended:
        fit(told, [ExactResume(), keeper])
    assert ended.value.code == 75
    assert not keeper.save_last
    second = fit(rest, [ExactResume()], Path(keeper.last_model_path))
    assert told.seen + rest.seen == whole.seen
    assert differences(first.lightning_module.state_dict(), second.lightning_module.state_dict()) == []
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL
