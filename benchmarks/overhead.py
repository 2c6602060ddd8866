"""What watching costs: the time of a training step with all monitors of ``recommended()``, beside a bare one.

    python benchmarks/overhead.py                       print the table (about ten minutes)
    python benchmarks/overhead.py --record              also write it to benchmarks/RESULTS.md
    python benchmarks/overhead.py --networks mlp        one network alone

The contestants take turns within one fit of one network: of two instances of the same network one may well be several
percent faster, by where its tensors lie in memory. A round is as many steps of each, in short turns in random order;
shown are medians over rounds, and the interval of the median by bootstrap. Time is that of the training thread on the
CPU, so that other programs count little. Told apart are the first round, in which the monitors sample densely, and what
they take when training starts and ends and at the end of its one epoch, with pictures.
"""

import argparse
import itertools
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import lightning as L
import numpy as np
import timm
import torch
import torch.nn.functional as F
import wandb
from results import origin, quietly, record
from torch import nn
from torch.utils.data import DataLoader, RandomSampler, TensorDataset

from lightning_rules import recommended
from lightning_rules.idle_hooks import EVERY_BATCH, rest, wake
from lightning_rules.monitor import Monitor

HEADING = "Overhead of the monitors"
WATCH_EVERY = 16  # steps between two samples of W&B; ours are 17 apart


@dataclass(frozen=True)
class Setting:
    """A network, its batches, and how many steps make a turn, turns a round, and rounds the fit."""

    network: Callable[[], nn.Module]
    shape: tuple[int, ...]
    batch: int
    turn: int
    turns: int
    rounds: int
    contestants: tuple[str, ...]


SETTINGS = {
    "mlp": Setting(
        lambda: nn.Sequential(nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 10)),
        (64,),
        32,
        64,
        8,
        40,
        ("bare", "monitors"),
    ),
    "resnet18": Setting(
        lambda: timm.create_model("resnet18", num_classes=10),
        (3, 64, 64),
        16,
        WATCH_EVERY,
        4,
        14,
        ("bare", "monitors", "watch"),
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


class Watched:
    """All monitors of ``recommended()``, which rest in turns."""

    def __init__(self) -> None:
        self.rules = [rule for rule in recommended() if isinstance(rule, Monitor)]
        self.awake: list[tuple[Monitor, list[str]]] = []

    def begin(self) -> None:
        """Watch from now on."""
        for rule, hooks in self.awake:
            wake(rule, *hooks)

    def end(self) -> None:
        """Rest from now on."""
        self.awake = [(rule, [name for name in EVERY_BATCH if getattr(rule, name) is not None]) for rule in self.rules]
        for rule, hooks in self.awake:
            rest(rule, *hooks)


@dataclass
class Watch:
    """Parameters and gradients to W&B, offline, by ``wandb.watch(log="all")``."""

    network: nn.Module
    run: Any = None

    def begin(self) -> None:
        """Watch from now on."""
        self.run = self.run or wandb.init(mode="offline", settings=wandb.Settings(silent=True))
        self.run.watch(self.network, log="all", log_freq=WATCH_EVERY)

    def end(self) -> None:
        """Rest from now on; what was watched is sent before."""
        self.run.log({"turn": 1})
        self.run.unwatch(self.network)


class Bare:
    """Nothing."""

    def begin(self) -> None:
        """Nothing."""

    def end(self) -> None:
        """Nothing."""


@dataclass
class Turns(L.Callback):
    """Lets the contestants take turns, and adds up what the steps of each take in a round."""

    setting: Setting
    contestants: dict[str, Any]
    seconds: dict[str, list[float]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.random = np.random.default_rng(0)
        self.steps = 0
        self.order: list[str] = []
        self.began = 0.0

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """A turn to warm up begins; the monitors, which are awake, rest until theirs."""
        self.contestants["monitors"].end()

    def on_train_batch_end(self, trainer: L.Trainer, pl_module: L.LightningModule, *args: object) -> None:
        """End a turn."""
        self.steps += 1
        if self.steps % self.setting.turn:
            return
        if self.order:
            name = self.order.pop()
            self.contestants[name].end()
            seconds = self.seconds.setdefault(name, [])
            seconds.append((time.thread_time() - self.began) / self.setting.turn)
        if not self.order:
            self.order = list(self.random.permutation(list(self.contestants)))
        self.began = time.thread_time()
        self.contestants[self.order[-1]].begin()


class Bracket(L.Callback):
    """Two of these time the hooks of what stands between them: when training starts, an epoch ends, training ends."""

    began = 0.0
    seconds = 0.0

    def __init__(self, is_first: bool) -> None:
        self.is_first = is_first

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Take the time."""
        if self.is_first:
            Bracket.began = time.perf_counter()
        else:
            Bracket.seconds += time.perf_counter() - Bracket.began

    on_train_epoch_end = on_train_end = on_train_start


def measure(setting: Setting) -> tuple[dict[str, np.ndarray], float]:
    """Seconds a step in each round ``[rounds]``, by contestant; and seconds of the monitors beside steps."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    inputs = torch.randn(setting.batch * 64, *setting.shape)
    labels = torch.randint(0, 10, (len(inputs),))
    module = Classifier(setting.network())
    everyone = {"bare": Bare(), "monitors": (watched := Watched()), "watch": Watch(module.network)}
    turns = Turns(setting, {name: everyone[name] for name in setting.contestants})
    quiet = dict.fromkeys(("logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary"), False)
    steps = setting.turn * (1 + setting.turns * setting.rounds * len(setting.contestants))
    data = TensorDataset(inputs, labels)
    trainer = L.Trainer(
        accelerator="cpu",
        max_epochs=1,
        callbacks=[Bracket(True), *watched.rules, Bracket(False), turns],
        **quiet,
    )
    Bracket.seconds = 0.0
    trainer.fit(module, DataLoader(data, setting.batch, sampler=RandomSampler(data, True, steps * setting.batch)))
    rounds = {name: np.array(seconds).reshape(setting.rounds, -1).mean(1) for name, seconds in turns.seconds.items()}
    return rounds, Bracket.seconds


def added(seconds: np.ndarray, bare: np.ndarray) -> tuple[float, float, float]:
    """The median over rounds of what a step takes more than a bare one, as a share of that; and its 95% interval."""
    shares = seconds / bare - 1
    draws = np.random.default_rng(0).choice(shares, (4000, len(shares)))
    low, high = np.quantile(np.median(draws, axis=1), (0.025, 0.975))
    return float(np.median(shares)), float(low), float(high)


def lines_of(name: str, seconds: dict[str, np.ndarray], beside: float) -> list[str]:
    """A table row for each contestant that adds something."""
    rows = []
    bare = seconds["bare"]
    for contestant in [one for one in seconds if one != "bare"]:
        middle, low, high = added(seconds[contestant][1:], bare[1:])
        others = f"{beside:.2g}" if contestant == "monitors" else ""
        without, with_it = (np.median(one[1:]) * 1e3 for one in (bare, seconds[contestant]))
        rows.append(
            f"| {name} | {contestant} | {without:.3g} | {with_it:.3g} "
            f"| {middle:+.1%} ({low:+.1%} to {high:+.1%}) | {seconds[contestant][0] / bare[0] - 1:+.1%} | {others} |"
        )
    return rows


def report(networks: Sequence[str]) -> str:
    """The table."""
    rows = itertools.chain.from_iterable(lines_of(name, *measure(SETTINGS[name])) for name in networks)
    lengths = ", ".join(f"{SETTINGS[name].turn * SETTINGS[name].turns} of {name}" for name in networks)
    return "\n".join(
        [
            f'{origin("torch", "lightning", "timm", "wandb")}, one thread. `watch` is `wandb.watch(log="all")`, '
            f"offline, every {WATCH_EVERY} steps. A round is so many steps of each: {lengths}.",
            "",
            "| network | added | bare step (ms) | with it (ms) | more a step (95%) | in the first round "
            "| at start and end (s) |",
            "| --- | --- | ---: | ---: | ---: | ---: | ---: |",
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
