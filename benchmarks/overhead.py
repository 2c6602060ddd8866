"""What watching costs: the time of a training step with all monitors of ``recommended()``, beside a bare one.

    python benchmarks/overhead.py                       print the table (about five minutes)
    python benchmarks/overhead.py --record              also write it to benchmarks/RESULTS.md
    python benchmarks/overhead.py --networks mlp        one network alone

All contestants train in one process, each in a thread of its own that trains a block of steps and hands over to the
next: what else the machine does falls on all of them alike. Shown are medians over blocks, and the interval of the
median by bootstrap. The blocks in which the network warms up and the monitors sample densely are told apart.
"""

import argparse
import itertools
import os
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import lightning as L
import numpy as np
import timm
import torch
import torch.nn.functional as F
from results import origin, quietly, record
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from lightning_rules import recommended
from lightning_rules.monitor import Monitor

HEADING = "Overhead of the monitors"
BEGINNING = 2  # blocks that are told apart
WATCH_EVERY = 16  # steps between two samples of W&B, as seldom as ours sample at the most


@dataclass(frozen=True)
class Setting:
    """A network, its batches, and how many steps make a block."""

    network: Callable[[], nn.Module]
    shape: tuple[int, ...]
    batch: int
    block: int
    blocks: int
    contestants: tuple[str, ...]


SETTINGS = {
    "mlp": Setting(
        lambda: nn.Sequential(nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 10)),
        (64,),
        32,
        256,
        30,
        ("bare", "monitors"),
    ),
    "resnet18": Setting(
        lambda: timm.create_model("resnet18", num_classes=10), (3, 64, 64), 16, 16, 14, ("bare", "monitors", "watch")
    ),
}


class Classifier(L.LightningModule):
    """Cross-entropy and SGD."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def training_step(self, batch: list[torch.Tensor], batch_idx: int) -> torch.Tensor:
        """The loss of a batch."""
        return F.cross_entropy(self.network(batch[0]), batch[1])

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """A rate that does no harm to labels of noise."""
        return torch.optim.SGD(self.parameters(), 1e-3)


@dataclass
class Baton:
    """Whose turn it is."""

    runners: int
    turn: int = 0
    changed: threading.Condition = field(default_factory=threading.Condition)

    def wait(self, runner: int) -> None:
        """Until it is this runner's turn."""
        with self.changed:
            self.changed.wait_for(lambda: self.turn == runner)

    def hand_over(self) -> None:
        """To the next."""
        with self.changed:
            self.turn = (self.turn + 1) % self.runners
            self.changed.notify_all()


class Blocks(L.Callback):
    """Times blocks of steps, and hands over after each."""

    def __init__(self, baton: Baton, runner: int, block: int) -> None:
        self.baton, self.runner, self.block = baton, runner, block
        self.seconds: list[float] = []
        self.began = 0.0

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """The first block begins."""
        self.began = time.perf_counter()

    def on_train_batch_end(self, trainer: L.Trainer, pl_module: L.LightningModule, *args: object) -> None:
        """End a block."""
        if trainer.global_step % self.block == 0:
            self.seconds.append((time.perf_counter() - self.began) / self.block)
            self.baton.hand_over()
            self.baton.wait(self.runner)
            self.began = time.perf_counter()


class Watch(L.Callback):
    """Parameters and gradients to W&B, offline, as ``wandb.watch(log="all")`` does it."""

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Begin to watch."""
        import wandb

        self.run = wandb.init(mode="offline", settings=wandb.Settings(silent=True))
        self.run.watch(pl_module.network, log="all", log_freq=WATCH_EVERY)

    def on_train_batch_end(self, trainer: L.Trainer, pl_module: L.LightningModule, *args: object) -> None:
        """Send what was watched."""
        if trainer.global_step % WATCH_EVERY == 0:
            self.run.log({"step": trainer.global_step})

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Close the files."""
        self.run.finish()


def callbacks_of(contestant: str) -> list[L.Callback]:
    """What a contestant adds to a bare fit."""
    monitors: list[L.Callback] = [rule for rule in recommended() if isinstance(rule, Monitor)]
    return {"bare": [], "monitors": monitors, "watch": [Watch()]}[contestant]


def train(setting: Setting, contestant: str, blocks: Blocks) -> None:
    """One contestant's fit."""
    torch.set_num_threads(1)
    blocks.baton.wait(blocks.runner)
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(setting.batch * 64, *setting.shape, generator=generator)
    labels = torch.randint(0, 10, (len(inputs),), generator=generator)
    quiet = dict.fromkeys(("logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary"), False)
    trainer = L.Trainer(
        accelerator="cpu",
        max_steps=setting.block * setting.blocks,
        callbacks=[*callbacks_of(contestant), blocks],
        **quiet,
    )
    try:
        trainer.fit(Classifier(setting.network()), DataLoader(TensorDataset(inputs, labels), setting.batch))
    finally:
        blocks.baton.hand_over()


def measure(setting: Setting) -> dict[str, np.ndarray]:
    """Seconds a step in each block ``[blocks]``, by contestant."""
    baton = Baton(len(setting.contestants))
    timed = [Blocks(baton, number, setting.block) for number in range(baton.runners)]
    threads = [
        threading.Thread(target=train, args=(setting, name, blocks))
        for name, blocks in zip(setting.contestants, timed, strict=True)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return {name: np.array(blocks.seconds) for name, blocks in zip(setting.contestants, timed, strict=True)}


def added(seconds: np.ndarray, bare: np.ndarray) -> tuple[float, float, float]:
    """The median over blocks of what a step takes more than a bare one, as a share of that; and its 95% interval."""
    shares = seconds / bare - 1
    draws = np.random.default_rng(0).choice(shares, (4000, len(shares)))
    low, high = np.quantile(np.median(draws, axis=1), (0.025, 0.975))
    return float(np.median(shares)), float(low), float(high)


def lines_of(name: str, setting: Setting, seconds: dict[str, np.ndarray]) -> list[str]:
    """A table row for each contestant that adds something."""
    rows = []
    for contestant in setting.contestants[1:]:
        early, bare = seconds[contestant][:BEGINNING].mean(), seconds["bare"][:BEGINNING].mean()
        middle, low, high = added(seconds[contestant][BEGINNING:], seconds["bare"][BEGINNING:])
        rows.append(
            f"| {name} | {contestant} | {np.median(seconds['bare'][BEGINNING:]) * 1e3:.3g} "
            f"| {np.median(seconds[contestant][BEGINNING:]) * 1e3:.3g} | {middle:+.1%} ({low:+.1%} to {high:+.1%}) "
            f"| {early / bare - 1:+.1%} |"
        )
    return rows


def report(networks: Sequence[str]) -> str:
    """The table."""
    measured = {name: measure(SETTINGS[name]) for name in networks}
    rows = itertools.chain.from_iterable(lines_of(name, SETTINGS[name], found) for name, found in measured.items())
    return "\n".join(
        [
            f'{origin("torch", "lightning", "timm", "wandb")}, one thread. `watch` is `wandb.watch(log="all")`, '
            f"offline, every {WATCH_EVERY} steps.",
            "",
            "| network | added | bare step (ms) | with it (ms) | more a step (95%) | in the first "
            f"{BEGINNING} blocks |",
            "| --- | --- | ---: | ---: | ---: | ---: |",
            *rows,
        ]
    )


def main() -> None:
    """Measure, print, and record if asked to."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--networks", nargs="+", choices=SETTINGS, default=list(SETTINGS))
    parser.add_argument("--record", action="store_true", help="write the table to benchmarks/RESULTS.md")
    options = parser.parse_args()
    os.environ.setdefault("WANDB_SILENT", "true")
    with quietly():
        text = report(options.networks)
    print(text)
    if options.record:
        record(HEADING, text)


if __name__ == "__main__":
    main()
