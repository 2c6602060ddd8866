"""largest-batch-size: the largest that full steps have proven, and otherwise no trace."""

from __future__ import annotations

import resource
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import lightning.pytorch as L
import pytest
import pytorch_lightning
import torch
import torch.nn.functional as F
from lightning.pytorch.callbacks import BatchSizeFinder
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from torch import Tensor, nn
from torch.utils.data import BatchSampler, DataLoader, IterableDataset, SequentialSampler, TensorDataset

from lightning_rules import LargestBatchSize, Severity
from lightning_rules.optimise.batch_trial import is_out_of_memory
from lightning_rules.optimise.largest_batch_size import refuse_synchronised
from lightning_rules.rule import NotApplicable

QUIET = dict.fromkeys(("logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary"), False)


def data(count: int = 300) -> TensorDataset:
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(count, 10, generator=generator)
    return TensorDataset(inputs, inputs[:, :4].argmax(1))


class Network(L.LightningModule):
    """Runs out of memory above ``room`` examples, or where ``fails`` says so."""

    def __init__(self, room: int = 10**6, optimizer: Any = torch.optim.SGD, lr: float = 0.1, **options: Any) -> None:
        super().__init__()
        self.network = nn.Sequential(nn.Linear(10, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Dropout(0.1), nn.Linear(8, 4))
        self.room, self.optimizer, self.lr, self.options = room, optimizer, lr, options
        self.sizes: list[int] = []
        self.tried = Tried()

    def fails(self, size: int) -> bool:
        return size > self.room

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        self.sizes.append(len(batch[0]))
        self.tried.note(len(batch[0]))
        if self.fails(len(batch[0])):
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB.")
        return F.cross_entropy(self.network(batch[0]), batch[1])

    def configure_optimizers(self) -> Any:
        return self.optimizer(self.parameters(), lr=self.lr, **self.options)


class Tried:
    """Remembers what was tried, though the module's own attributes are put back."""

    def __init__(self) -> None:
        self.all: list[int] = []

    def note(self, size: int) -> None:
        self.all.append(size)


def network(kind: Any = Network, **options: Any) -> Any:
    torch.manual_seed(2)
    return kind(**options)


def fit(model: Any, *callbacks: Any, loader: Any = None, package: Any = L, **options: Any) -> Any:
    torch.manual_seed(1)
    options = {"max_epochs": 2, "accelerator": "cpu", **QUIET, **options}
    trainer = package.Trainer(callbacks=[*callbacks], **options)
    source = {"train_dataloaders": DataLoader(data(), 8, shuffle=True) if loader is None else loader}
    trainer.fit(model, **(loader if isinstance(loader, dict) else source))
    return trainer


def said(rule: LargestBatchSize) -> str:
    (finding,) = rule.findings
    return finding.message


@pytest.mark.parametrize(
    ("room", "size", "tried"),
    [(10**6, 256, [16, 32, 64, 128, 256]), (100, 64, [16, 32, 64, 128]), (16, 16, [16, 32]), (5, 4, [16, 8, 4])],
)
def test_takes_the_largest_power_of_two_that_fits(room: int, size: int, tried: list[int]) -> None:
    rule, model = LargestBatchSize(), network(room=room)
    fit(model, rule)
    assert rule.batch_size == size
    assert model.sizes == [*[size] * (300 // size), *[300 % size] * (300 % size > 0)] * 2
    message = f"Batches of {size} examples a rank (it was 8); tried {', '.join(map(str, tried))}"
    assert said(rule).startswith(message)
    # Every size is proven by three steps and the last, short batch of an epoch; one that fails, fails in the first.
    seen = model.tried.all[: -len(model.sizes)]
    proven = [entry for one in tried if one <= room for entry in ([one] * 3 + [300 % one] * (300 % one > 0))]
    assert sorted(seen) == sorted(proven + [one for one in tried if one > room])


def test_never_takes_a_size_it_has_not_tried() -> None:
    """Lightning's finder ends with its `max_val` without having run it (2.6.6)."""

    class Settable(Network):
        batch_size = 8

        def train_dataloader(self) -> Any:
            return DataLoader(data(), self.batch_size)

    theirs = network(Settable)
    finder = BatchSizeFinder(init_val=16, steps_per_trial=1, max_val=64)
    fit(theirs, finder, loader={}, max_epochs=1)
    assert finder.optimal_batch_size == 64
    assert 64 not in theirs.tried.all[:2]
    assert theirs.tried.all[2:] == [64, 64, 64, 64, 44]  # the run itself

    ours, rule = network(Settable), LargestBatchSize(ceiling=128)
    fit(ours, rule, loader={})
    assert ours.tried.all.count(128) >= 3
    assert ours.batch_size == rule.batch_size == 128


def test_memory_for_the_optimisers_state_is_proven_too() -> None:
    class Hungry(torch.optim.Adam):
        def step(self, closure: Any = None) -> Any:
            loss = super().step(closure)
            if len(self.state) and model.tried.all[-1] > 32 and model.tried.all.count(model.tried.all[-1]) == 2:
                raise RuntimeError("[enforce fail at alloc_cpu.cpp] DefaultCPUAllocator: can't allocate memory")
            return loss

    rule, model = LargestBatchSize(), network(optimizer=Hungry, lr=1e-3)
    fit(model, rule)
    assert rule.batch_size == 32
    assert "64 does not fit: out of memory" in said(rule)


@pytest.mark.parametrize(
    ("optimizer", "factor"),
    [(torch.optim.SGD, 4.0), (torch.optim.AdamW, 2.0), (torch.optim.Adagrad, 2.0), (torch.optim.RMSprop, 4.0)],
)
def test_rates_follow_as_in_timm(optimizer: Any, factor: float) -> None:
    rule, model = LargestBatchSize(ceiling=32), network(optimizer=optimizer, lr=0.01)
    trainer = fit(model, rule)
    assert trainer.optimizers[0].param_groups[0]["lr"] == pytest.approx(0.01 * factor)
    plain = network(optimizer=optimizer, lr=0.01)
    kept = fit(plain, LargestBatchSize(ceiling=32, scale_rate=False))
    assert kept.optimizers[0].param_groups[0]["lr"] == 0.01


def test_after_the_choice_the_run_is_one_with_that_size() -> None:
    """Weights, buffers, random numbers and order of batches: as if the size had been written down."""
    ours, rule = network(optimizer=torch.optim.Adam, lr=1e-3), LargestBatchSize(ceiling=64, scale_rate=False)
    our_trainer = fit(ours, rule)
    plain = network(optimizer=torch.optim.Adam, lr=1e-3)
    trainer = fit(plain, loader=DataLoader(data(), 64, shuffle=True))
    for (name, mine), theirs in zip(ours.state_dict().items(), plain.state_dict().values(), strict=True):
        assert torch.equal(mine, theirs), name
    assert our_trainer.global_step == trainer.global_step == 10
    assert str(our_trainer.optimizers[0].state_dict()) == str(trainer.optimizers[0].state_dict())


def test_schedules_counted_in_steps_have_the_right_length() -> None:
    class Scheduled(Network):
        def configure_optimizers(self) -> Any:
            optimizer: Any = super().configure_optimizers()
            steps = int(self.trainer.estimated_stepping_batches)
            fall = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.0, steps)
            return {"optimizer": optimizer, "lr_scheduler": {"scheduler": fall, "interval": "step"}}

    trainer = fit(network(Scheduled), LargestBatchSize(ceiling=64))
    assert trainer.global_step == 10
    assert trainer.lr_scheduler_configs[0].scheduler.total_iters == 10
    assert trainer.optimizers[0].param_groups[0]["lr"] == pytest.approx(0, abs=1e-9)


def test_data_modules_and_loader_functions() -> None:
    class Data(L.LightningDataModule):
        def __init__(self) -> None:
            super().__init__()
            self.save_hyperparameters({"batch_size": 8})

        def train_dataloader(self) -> Any:
            return DataLoader(data(), self.hparams["batch_size"], shuffle=True)

    class Stubborn(L.LightningDataModule):
        def train_dataloader(self) -> Any:
            return DataLoader(data(), 8, shuffle=True, drop_last=True)

    for module in (Data(), Stubborn()):
        rule, model = LargestBatchSize(ceiling=32), network()
        fit(model, rule, loader={"datamodule": module})
        assert model.sizes[:9] == [32] * 9
        assert module.hparams.get("batch_size", 32) == 32
    assert set(model.sizes) == {32}  # drop_last is kept


def test_the_users_loader_is_as_it_was() -> None:
    loader = DataLoader(data(), 8, shuffle=True)
    trainer = fit(network(), LargestBatchSize(), loader=loader)
    assert loader.batch_size == 8
    assert len(next(iter(loader))[0]) == 8
    assert "process_dataloader" not in vars(trainer.strategy)


def test_the_whole_data_set() -> None:
    rule, model = LargestBatchSize(ceiling="dataset"), network()
    fit(model, rule)
    assert rule.batch_size == 300
    assert model.sizes == [300] * 2


def test_a_small_data_set() -> None:
    rule = LargestBatchSize()
    fit(network(), rule, loader=DataLoader(data(20), 4))
    assert rule.batch_size == 16
    rule = LargestBatchSize()
    fit(network(), rule, loader=DataLoader(data(12), 4))
    assert rule.batch_size == 8


def test_a_stream_of_examples() -> None:
    class Stream(IterableDataset[Any]):
        def __iter__(self) -> Any:
            return iter(data(100))

    rule, model = LargestBatchSize(ceiling=32), network()
    fit(model, rule, loader=DataLoader(Stream(), 4))
    assert model.sizes == [32, 32, 32, 4] * 2


def test_accumulates_up_to_a_global_batch() -> None:
    rule, model = LargestBatchSize(global_batch_size=128), network(room=40)
    trainer = fit(model, rule, max_epochs=1)
    assert rule.batch_size == 32
    assert trainer.global_step == 3  # 300 examples: 128, 128, 44
    assert rule.findings[0].evidence["accumulate"] == 4
    assert rule.findings[0].evidence["rate_factor"] == 16
    assert trainer.accumulate_grad_batches == 1  # put back after the fit


def test_sequences_are_tried_at_their_longest() -> None:
    lengths = [3] * 200 + [50] * 40 + [3] * 200

    def collate(examples: list[Tensor]) -> Tensor:
        return nn.utils.rnn.pad_sequence(examples, batch_first=True)

    class Reader(L.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(1, 1)
            self.tried = Tried()

        def training_step(self, batch: Tensor, batch_idx: int) -> Tensor:
            self.tried.note(batch.shape[1])
            if batch.numel() > 1700:
                raise torch.OutOfMemoryError("too long")
            return self.layer(batch[..., None]).square().mean()

        def configure_optimizers(self) -> Any:
            return torch.optim.SGD(self.parameters(), 0.1)

    examples: Any = [torch.ones(length) for length in lengths]
    rule, model = LargestBatchSize(), Reader()
    fit(model, rule, loader=DataLoader(examples, 4, collate_fn=collate))
    assert rule.batch_size == 32  # 32 x 50 elements fit; a batch of 3s alone would have let 256 pass
    assert model.tried.all[0] == 50


def test_nothing_fits() -> None:
    rule = LargestBatchSize(on_error="raise")
    with pytest.raises(RuntimeError, match="Not even a batch of 1 example fits into memory"):
        fit(network(room=0), rule)
    assert rule.findings[0].severity is Severity.ERROR
    assert rule.batch_size is None


def refusal(model: Any, **options: Any) -> str:
    rule = LargestBatchSize()
    fit(model, rule, **options)
    assert rule.batch_size is None
    return said(rule)


def test_says_why_it_does_not_apply() -> None:
    class Manual(Network):
        automatic_optimization = False

        def training_step(self, batch: Any, batch_idx: int) -> None:
            pass

    class Several(Network):
        def training_step(self, batch: Any, batch_idx: int) -> Tensor:
            return super().training_step(batch[0], batch_idx)

    mine = type("Mine", (BatchSampler,), {})(SequentialSampler(data()), 8, False)
    assert "optimises manually" in refusal(network(Manual))
    assert "Mine makes the batches" in refusal(network(), loader=DataLoader(data(), batch_sampler=mine))
    assert "the data set makes the batches" in refusal(
        network(), loader=DataLoader([data()[:8] for _ in range(20)], batch_size=None)
    )
    assert "one DataLoader for training, and the run has list" in refusal(
        network(Several), loader=[DataLoader(data(), 8)]
    )


def test_batch_norm_synchronised_over_ranks_is_left_alone() -> None:
    """It runs on GPUs only, so that no two processes can show it here."""
    module = nn.Sequential(nn.Linear(4, 4), nn.SyncBatchNorm(4))
    refuse_synchronised(SimpleNamespace(world_size=1), module)
    with pytest.raises(NotApplicable, match="synchronised over ranks"):
        refuse_synchronised(SimpleNamespace(world_size=2), module)


def test_a_module_that_fails_fails_in_its_own_words() -> None:
    class Broken(Network):
        def training_step(self, batch: Any, batch_idx: int) -> Tensor:
            raise KeyError("nothing here")

    rule = LargestBatchSize()
    with pytest.raises(KeyError, match="nothing here"):
        fit(network(Broken), rule)
    assert "a step with 16 examples failed: KeyError: 'nothing here'" in said(rule)


def test_a_resumed_run_keeps_its_size(tmp_path: Path) -> None:
    first = fit(network(room=100), LargestBatchSize(), max_epochs=1)
    first.save_checkpoint(tmp_path / "first.ckpt")
    again, model = LargestBatchSize(), network(room=100)
    trainer = L.Trainer(max_epochs=2, accelerator="cpu", callbacks=[again], **QUIET)
    trainer.fit(model, DataLoader(data(), 8, shuffle=True), ckpt_path=tmp_path / "first.ckpt")
    assert model.sizes == [64, 64, 64, 64, 44]
    assert model.tried.all == model.sizes
    assert trainer.optimizers[0].param_groups[0]["lr"] == pytest.approx(0.8)


def test_pytorch_lightning() -> None:
    class Small(pytorch_lightning.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.network = nn.Linear(10, 4)

        def training_step(self, batch: Any, batch_idx: int) -> Tensor:
            if len(batch[0]) > 70:
                raise MemoryError
            return F.cross_entropy(self.network(batch[0]), batch[1])

        def configure_optimizers(self) -> Any:
            return torch.optim.SGD(self.parameters(), 0.1)

    rule = LargestBatchSize()
    fit(Small(), rule, package=pytorch_lightning)
    assert rule.batch_size == 64


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"ceiling": 0}, "Expected `ceiling` to be a whole number of examples or 'dataset', but got 0"),
        ({"ceiling": "all"}, "but got 'all'"),
        ({"margin": 1.0}, "Expected `margin` to be at least 0 and below 1, but got 1.0"),
        ({"global_batch_size": 1.5}, "Expected `global_batch_size` to be a whole number, but got 1.5"),
    ],
)
def test_refuses_arguments_out_of_range(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        LargestBatchSize(**options)


def test_refuses_to_accumulate_twice() -> None:
    with pytest.raises(MisconfigurationException, match=r"accumulate_grad_batches=4\) does too: remove one of them"):
        fit(network(), LargestBatchSize(global_batch_size=64), accumulate_grad_batches=4)


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (torch.OutOfMemoryError("CUDA out of memory."), True),
        (MemoryError(), True),
        (
            RuntimeError("[enforce fail at alloc_cpu.cpp:119] err == 0. DefaultCPUAllocator: can't allocate memory"),
            True,
        ),
        (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"), True),
        (RuntimeError("mat1 and mat2 shapes cannot be multiplied"), False),
        (ValueError("out of memory"), False),
    ],
)
def test_what_counts_as_out_of_memory(error: Exception, expected: bool) -> None:
    assert is_out_of_memory(error) is expected


LIMITED = """
import resource, sys, warnings
import lightning.pytorch as L, torch
from torch.utils.data import DataLoader
from lightning_rules import LargestBatchSize
warnings.simplefilter("ignore")
class Wide(L.LightningModule):
    def __init__(self):
        super().__init__()
        self.layer = torch.nn.Linear(1, 1_000_000)
    def training_step(self, batch, batch_idx):
        return self.layer(batch).sin().mean()
    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), 0.1)
rule = LargestBatchSize()
trainer = L.Trainer(max_steps=1, accelerator="cpu", callbacks=[rule], logger=False, enable_checkpointing=False,
                    enable_progress_bar=False, enable_model_summary=False)
used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
limit = used + 1_250_000_000
resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
trainer.fit(Wide(), DataLoader(torch.ones(512, 1), 4))
print("SIZE", rule.batch_size, rule.findings[0].message)
"""


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(resource, "RLIMIT_AS") or sys.platform != "linux", reason="limits memory as Linux does")
def test_memory_that_is_really_spent() -> None:
    """A batch of 16 takes 64 MB for each of its tensors, one of 256 takes 1 GB."""
    run = subprocess.run([sys.executable, "-c", LIMITED], capture_output=True, text=True, timeout=240, check=False)
    assert run.returncode == 0, run.stderr[-3000:]
    size = int(run.stdout.partition("SIZE ")[2].split()[0])
    assert size in (16, 32, 64)
    assert f"{2 * size} does not fit: out of memory" in run.stdout
