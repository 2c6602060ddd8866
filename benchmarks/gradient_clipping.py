"""What gradient clipping is worth: recurrent networks over a grid of rates, with the rule and without.

    python benchmarks/gradient_clipping.py             print a table
    python benchmarks/gradient_clipping.py --record    also write it to benchmarks/RESULTS.md

Digits are read row by row (8 steps of 8 pixels) or pixel by pixel (64 steps). A run has diverged if its loss on the
training digits, after the last epoch, is not finite or above ln(10), that of guessing. Runs with and without the rule
share seeds, so that both start from the same weights and see the same batches.
"""

import argparse
import itertools
import math
import time
from dataclasses import dataclass

import lightning as L
import numpy as np
import torch
import torch.nn.functional as F
from results import origin, quietly, record
from scipy.stats import binomtest
from torch import nn

from lightning_recipe.data import DigitsDataModule
from lightning_rules import GradientClipping

HEADING = "Gradient clipping"
RATES = (0.01, 0.03, 0.1, 0.3, 1.0, 3.0)
CELLS = {"tanh": nn.RNN, "relu": nn.RNN, "lstm": nn.LSTM}
STEPS = (8, 64)  # rows, pixels
GUESSING = math.log(10)


@dataclass(frozen=True)
class Run:
    """One trained network: its setting, and how it ended."""

    cell: str
    steps: int
    rate: float
    clipped: bool
    loss: float
    accuracy: float

    @property
    def diverged(self) -> bool:
        """Worse than guessing, or not a number."""
        return not self.loss <= GUESSING


class RowReader(L.LightningModule):
    """A recurrent layer of 32 units and a linear one, by SGD with momentum."""

    def __init__(self, cell: str, steps: int, rate: float) -> None:
        super().__init__()
        options = {} if cell == "lstm" else {"nonlinearity": cell}
        self.rnn = CELLS[cell](64 // steps, 32, batch_first=True, **options)
        self.head = nn.Linear(32, 10)
        self.steps, self.rate = steps, rate

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Logits [N, 10] of digits [N, 8, 8]."""
        return self.head(self.rnn(x.reshape(len(x), self.steps, -1))[0][:, -1])

    def training_step(self, batch: dict[str, torch.Tensor], batch_idx: int) -> torch.Tensor:
        """Cross-entropy."""
        return F.cross_entropy(self(batch["x"]), batch["y"])

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """A constant rate."""
        return torch.optim.SGD(self.parameters(), self.rate, momentum=0.9)


def train(cell: str, steps: int, rate: float, seed: int, clipped: bool, epochs: int) -> Run:
    """Train once and look at the whole training and test set."""
    L.seed_everything(seed, verbose=False)
    data = DigitsDataModule(form="rows", batch_size=64)
    model = RowReader(cell, steps, rate)
    quiet = dict.fromkeys(("logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary"), False)
    # `max_skipped` is out of reach: a network that diverges should be seen to diverge, in both arms to the end.
    callbacks = [GradientClipping(max_skipped=10**9)] if clipped else []
    trainer = L.Trainer(accelerator="cpu", max_epochs=epochs, limit_val_batches=0, callbacks=callbacks, **quiet)
    trainer.fit(model, datamodule=data)
    train_set, test_set = data.datasets["train"], data.datasets["test"]
    with torch.no_grad():
        loss = F.cross_entropy(model(train_set.x), torch.tensor(train_set.targets)).item()
        accuracy = (model(test_set.x).argmax(1) == torch.tensor(test_set.targets)).float().mean().item()
    return Run(cell, steps, rate, clipped, loss, accuracy)


def interval(part: list[Run]) -> str:
    """Share of diverged runs with its 95% interval (Wilson)."""
    count = sum(run.diverged for run in part)
    low, high = binomtest(count, len(part)).proportion_ci(method="wilson")
    return f"{count}/{len(part)} = {count / len(part):.0%} ({low:.0%} to {high:.0%})"


def ratio(with_rule: list[Run], without: list[Run]) -> str:
    """Diverged runs with the rule over those without: 95% interval by bootstrap over the pairs of runs."""
    if not any(run.diverged for run in without):
        return "none without"
    pairs = np.array([(a.diverged, b.diverged) for a, b in zip(with_rule, without, strict=True)], dtype=float)
    draws = np.random.default_rng(0).integers(len(pairs), size=(5000, len(pairs)))
    ours, theirs = pairs[draws].sum(1).T
    shares = ours[theirs > 0] / theirs[theirs > 0]
    low, high = np.quantile(shares, (0.025, 0.975))
    return f"{pairs[:, 0].sum() / pairs[:, 1].sum():.2f} ({low:.2f} to {high:.2f})"


def best_accuracy(runs: list[Run]) -> float:
    """Mean test accuracy at the best rate of each network and length, over networks and lengths."""
    best = []
    for cell, steps in sorted({(run.cell, run.steps) for run in runs}):
        part = [run for run in runs if (run.cell, run.steps) == (cell, steps)]
        means = [np.mean([run.accuracy for run in part if run.rate == rate]) for rate in RATES]
        best.append(max(means))
    return float(np.mean(best))


def report(seeds: int, epochs: int) -> str:
    """Train all, and lay the shares out as Markdown."""
    start = time.perf_counter()
    settings = list(itertools.product(CELLS, STEPS, RATES, range(seeds)))
    arms = {clipped: [train(*setting, clipped, epochs) for setting in settings] for clipped in (True, False)}
    lines = [
        f"{origin('torch', 'lightning')}; "
        f"{len(CELLS)} networks x {len(STEPS)} lengths x {len(RATES)} rates x {seeds} seeds, {epochs} epochs of SGD "
        f"with momentum, `GradientClipping()` against none; {time.perf_counter() - start:.0f} s.",
        "",
        "| runs | diverged with the rule | without | ratio |",
        "| --- | --- | --- | --- |",
    ]
    parts = [("all", lambda run: True)]
    parts += [(f"{cell}, {steps} steps", lambda run, c=cell, s=steps: (run.cell, run.steps) == (c, s))
              for cell in CELLS for steps in STEPS]  # fmt: skip
    parts += [(f"rate {rate:g}", lambda run, r=rate: run.rate == r) for rate in RATES]
    for name, chosen in parts:
        with_rule, without = ([run for run in arms[clipped] if chosen(run)] for clipped in (True, False))
        lines.append(f"| {name} | {interval(with_rule)} | {interval(without)} | {ratio(with_rule, without)} |")
    accuracies = [best_accuracy(arms[clipped]) for clipped in (True, False)]
    lines += [
        "",
        "Intervals at 95%. Test accuracy at each network's best rate, on average: "
        f"{accuracies[0]:.1%} with the rule, {accuracies[1]:.1%} without.",
    ]
    return "\n".join(lines)


def main() -> None:
    """Read the options, measure, print, and record if asked to."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=4, help="runs of each setting (default: 4)")
    parser.add_argument("--epochs", type=int, default=5, help="epochs of each run (default: 5)")
    parser.add_argument("--record", action="store_true", help="write the table to benchmarks/RESULTS.md")
    options = parser.parse_args()
    with quietly():
        text = report(options.seeds, options.epochs)
    print(text)
    if options.record:
        record(HEADING, text)


if __name__ == "__main__":
    main()
