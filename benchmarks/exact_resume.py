"""What ExactResume costs, and what a resume gives with it, with Lightning alone, and with torchdata's loader.

    python benchmarks/exact_resume.py             print tables
    python benchmarks/exact_resume.py --record    also write them to benchmarks/RESULTS.md

A perceptron on vectors with random augmentation, batches of 32. Cost: milliseconds a step, ours and with a callback
that does nothing in turns, the median of the ratios. Resume: a run saved in the middle of an epoch of 20,000 batches,
in on_train_batch_end, and resumed; whether it then sees the examples that the unbroken run sees, and the same bits of
them after augmentation, how long it takes until the first step, and how large the checkpoint is. Without torchdata on
the path its rows are left out (`pip install --target DIR --no-deps torchdata`, and `PYTHONPATH=DIR`).
"""

import argparse
import importlib.util
import statistics
import time
from pathlib import Path
from typing import Any

import lightning as L
import results
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from lightning_rules import ExactResume

BATCH, EPOCH, SAVED_AT, SEEN_AFTER = 32, 20_000, 10_000, 20


class Augmented(Dataset[Any]):
    """A number, and a vector of it with noise."""

    def __len__(self) -> int:
        return BATCH * EPOCH

    def __getitem__(self, index: int) -> tuple[int, Tensor]:
        return index, torch.full((64,), index / len(self)) + torch.randn(64)


class Network(L.LightningModule):
    """Remembers the sums of the batches it has seen."""

    def __init__(self, loader: DataLoader[Any]) -> None:
        super().__init__()
        self.loader = loader
        self.net = nn.Sequential(nn.Linear(64, 256), nn.ReLU(), nn.Dropout(0.1), nn.Linear(256, 1))
        self.seen: list[tuple[int, float]] = []
        self.first_step = 0.0

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        if not self.seen:
            self.first_step = time.perf_counter()
        numbers, vectors = batch
        self.seen.append((int(numbers.sum()), float(vectors.sum())))
        return F.mse_loss(self.net(vectors), vectors.sum(1, keepdim=True))

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.AdamW(self.parameters())

    def train_dataloader(self) -> DataLoader[Any]:
        return self.loader


class SaveAt(L.Callback):
    """Saves after a batch."""

    def __init__(self, path: Path | None = None) -> None:
        self.path = path

    def on_train_batch_end(self, trainer: L.Trainer, *_: Any) -> None:
        if self.path is not None and trainer.global_step == SAVED_AT:
            trainer.save_checkpoint(self.path)


def fit(loader: DataLoader[Any], rules: list[Any], steps: int, ckpt_path: Path | None = None) -> tuple[Network, float]:
    """The network after so many steps, and the seconds that the fit took."""
    L.seed_everything(1, verbose=False)
    network = Network(loader)
    options = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False}
    trainer = L.Trainer(accelerator="cpu", max_steps=steps, enable_checkpointing=False, callbacks=rules, **options)
    started = time.perf_counter()
    trainer.fit(network, ckpt_path=ckpt_path)
    network.first_step -= started
    return network, time.perf_counter() - started


def loader_of(kind: type, workers: int) -> DataLoader[Any]:
    return kind(Augmented(), batch_size=BATCH, shuffle=True, num_workers=workers)


def cost(workers: int, steps: int = 2000, rounds: int = 5) -> str:
    """Milliseconds a step with the rule and with one that does nothing, in turns."""
    fit(loader_of(DataLoader, workers), [], steps)  # to warm up
    pairs = []
    for _ in range(rounds):
        ours, plain = (
            fit(loader_of(DataLoader, workers), rules, steps)[1] for rules in ([ExactResume()], [L.Callback()])
        )
        pairs.append((ours, plain))
    ratio = statistics.median(ours / plain for ours, plain in pairs)
    ours, plain = (statistics.median(seconds) / steps * 1e3 for seconds in zip(*pairs, strict=True))
    return f"| {workers} | {ours:.3f} | {plain:.3f} | {ratio:.3f} |"


def resume(kind: type, workers: int, rules: Any) -> list[str]:
    """Same bits, seconds to the first step, bytes of the checkpoint."""
    path = Path("saved.ckpt").absolute()
    whole, _ = fit(loader_of(kind, workers), [*rules(), SaveAt(path)], SAVED_AT + SEEN_AFTER)
    rest, _ = fit(loader_of(kind, workers), [*rules(), SaveAt()], SAVED_AT + SEEN_AFTER, path)
    pairs = list(zip(whole.seen[SAVED_AT:], rest.seen, strict=True))
    examples, bits = sum(one[0] == other[0] for one, other in pairs), sum(one == other for one, other in pairs)
    return [
        f"{examples} of {SEEN_AFTER}",
        f"{bits} of {SEEN_AFTER}",
        f"{rest.first_step:.2f}",
        f"{path.stat().st_size:,}",
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--record", action="store_true")
    given = parser.parse_args()
    torch.set_num_threads(1)
    ways: dict[str, tuple[type, Any]] = {
        "Lightning": (DataLoader, list),
        "`ExactResume`": (DataLoader, lambda: [ExactResume()]),
    }
    packages = ["torch", "lightning"]
    if importlib.util.find_spec("torchdata"):
        from torchdata.stateful_dataloader import StatefulDataLoader

        ways["Lightning, StatefulDataLoader"] = (StatefulDataLoader, list)
        packages.append("torchdata")
    lines = ["| workers | ms a step, ours | empty callback | ratio |", "| --- | --- | --- | --- |"]
    with results.quietly():
        lines += [cost(workers) for workers in (0, 2)]
        lines += ["", "| resume | workers | same examples | same bits | seconds to the first step | bytes |"]
        lines += ["|" + " --- |" * 6]
        for workers in (0, 2):
            for name, (kind, rules) in ways.items():
                lines.append(f"| {name} | {workers} | {' | '.join(resume(kind, workers, rules))} |")
    text = f"{results.origin(*packages)}.\n\n" + "\n".join(lines)
    print(text)
    if given.record:
        results.record("Exact resume", text)


if __name__ == "__main__":
    main()
