"""What a proven save costs: `GitTagCheckpoint` beside Lightning's `ModelCheckpoint`.

    python benchmarks/checkpointing.py            print a table
    python benchmarks/checkpointing.py --record   also write it to benchmarks/RESULTS.md

Networks of 25 and 100 million parameters with the state of AdamW are trained for a step and then saved, by each in
turns that rotate, so that caches and a change in the machine's load hit all alike; the median of `--rounds` turns
counts. Lightning's save does not wait for the disk; "Lightning's, flushed" waits for `os.fsync`, which is what
surviving a power cut takes.
There is no git repository in the folder: what a tag costs is in benchmarks/git_tagging.py.
"""

import os
import statistics
import time
from pathlib import Path
from typing import Any

import lightning.pytorch as L
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from results import command_line, origin, quietly
from torch import Tensor, nn
from torch.utils.data import DataLoader

from lightning_rules import GitTagCheckpoint

HEADING = "Saving checkpoints"
MILLIONS = (25, 100)
ALONE, FLUSHED, OURS = "Lightning's `ModelCheckpoint`", "Lightning's, flushed", "`GitTagCheckpoint`"


class Wide(L.LightningModule):
    """Square layers without bias, one million parameters each."""

    def __init__(self, millions: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(*(nn.Linear(1000, 1000, bias=False) for _ in range(millions)))

    def training_step(self, batch: Tensor, batch_idx: int) -> Tensor:
        """Any loss that moves all weights."""
        return self.layers(batch).square().mean()

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Two moments a weight."""
        return torch.optim.AdamW(self.parameters())


class SavesInTurns(L.Callback):
    """After the last step, saves with each of the callbacks, again and again.

    Attributes:
        seconds: Of each save, by callback.
        bytes: Of its file, records beside it included.
    """

    def __init__(self, savers: dict[str, tuple[Any, bool]], rounds: int) -> None:
        self.savers, self.rounds = savers, rounds
        self.seconds: dict[str, list[float]] = {name: [] for name in savers}
        self.bytes: dict[str, int] = {}

    def on_train_end(self, trainer: Any, pl_module: Any) -> None:
        """Save in turns; the first, which fills caches, does not count."""
        order = list(self.savers.items())
        for turn in range(self.rounds + 1):
            order.append(order.pop(0))  # who comes first finds other caches than who comes last
            for name, (saver, flush) in order:
                seconds = self._timed(saver, trainer, flush)
                if turn:
                    self.seconds[name].append(seconds)
                self.bytes[name] = sum(file.stat().st_size for file in Path(saver.dirpath).iterdir())

    @staticmethod
    def _timed(saver: Any, trainer: Any, flush: bool) -> float:
        os.sync()  # what others have left to write is not ours
        path = f"{saver.dirpath}/a.ckpt"
        start = time.perf_counter()
        saver._save_checkpoint(trainer, path)
        if flush:
            with open(path, "rb") as file:
                os.fsync(file.fileno())
        return time.perf_counter() - start


def measure(millions: int, rounds: int) -> SavesInTurns:
    """Train one step, then save in turns."""
    never = 10**9
    plain = ModelCheckpoint(dirpath="plain", every_n_train_steps=never)
    flushed = ModelCheckpoint(dirpath="flushed", every_n_train_steps=never - 1)
    ours = GitTagCheckpoint(dirpath="ours", every_n_train_steps=never)
    turns = SavesInTurns({ALONE: (plain, False), FLUSHED: (flushed, True), OURS: (ours, False)}, rounds)
    trainer = L.Trainer(
        accelerator="cpu",
        max_steps=1,
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=[plain, flushed, ours, turns],
    )
    trainer.fit(Wide(millions), DataLoader(torch.randn(1, 1000), batch_size=1))
    return turns


def rows(millions: int, rounds: int) -> list[str]:
    """The table of one network."""
    with quietly():
        turns = measure(millions, rounds)
    medians = {name: statistics.median(values) for name, values in turns.seconds.items()}
    return [
        f"| {millions} million | {name} | {seconds:.2f} | {seconds / medians[ALONE]:.2f} | "
        f"{seconds / medians[FLUSHED]:.2f} | {turns.bytes[name]:,} | {turns.bytes[name] - turns.bytes[ALONE]:+,} |"
        for name, seconds in medians.items()
    ]


def report(rounds: int) -> str:
    """Measure, and lay the medians out as Markdown."""
    lines = [
        f"{origin('torch', 'lightning')}; AdamW, medians of {rounds} saves each, taken in turns.",
        "",
        "| parameters | saved by | seconds | / Lightning's | / flushed | bytes | more |",
        "| --- | --- | ---: | ---: | ---: | ---: | ---: |",
    ]
    for millions in MILLIONS:
        lines += rows(millions, rounds)
    return "\n".join(lines)


if __name__ == "__main__":
    command_line(__doc__, HEADING, report, rounds=6)
