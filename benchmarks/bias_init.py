"""What a last bias from the labels is worth: the first steps with the rule and without.

    python benchmarks/bias_init.py             print a table
    python benchmarks/bias_init.py --record    also write it to benchmarks/RESULTS.md

Two layers and a baseline rate, Adam at 3e-4. Three tasks: digits, one against the rest at 14:1; the same with classes
weighted, so that both count alike; and diabetes progression in its own units (mean 152). Runs of one seed start from
the same weights, but for the bias, and see the same batches.
"""

import argparse
import math
import time
from collections.abc import Callable
from dataclasses import dataclass

import lightning as L
import numpy as np
import torch
import torch.nn.functional as F
from results import origin, quietly, record
from sklearn.datasets import load_diabetes, load_digits
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from lightning_rules import LastLayerBiasInit

HEADING = "Bias from the labels"
SHOWN_STEPS = (1, 10, 50, 200)
LONGEST = 2000
SMOOTH = 10  # steps that a shown loss is the mean of
RULE, BY_HAND, DEFAULT = "`LastLayerBiasInit`", "log prior by hand", "torch's default"


@dataclass(frozen=True)
class Task:
    """Data, the loss, and what is known of it.

    Attributes:
        inputs: Standardised, ``[N, F]``.
        targets: Classes or values, ``[N]``.
        outputs: Of the network.
        loss: From outputs ``[B, outputs]`` and targets ``[B]``.
        prior_loss: What the best constant output reaches on all targets.
        log_prior: Logarithms of the shares of the classes; none for values.
        digits: How losses are shown.
    """

    inputs: Tensor
    targets: Tensor
    outputs: int
    loss: Callable[[Tensor, Tensor], Tensor]
    prior_loss: float
    log_prior: Tensor | None
    digits: str


def imbalanced_digits(weighted: bool) -> Task:
    """Class 1 is a three, of which so many are kept that there are 14 others to each."""
    bunch = load_digits()
    others, threes = np.flatnonzero(bunch.target != 3), np.flatnonzero(bunch.target == 3)
    kept = np.sort(np.concatenate([others, threes[: len(others) // 14]]))
    pixels = torch.tensor(bunch.data[kept], dtype=torch.float32)
    labels = torch.tensor(bunch.target[kept] == 3).long()
    shares = labels.bincount() / len(labels)
    weight = 0.5 / shares if weighted else None
    entropy = math.log(2) if weighted else -float((shares * shares.log()).sum())
    inputs = (pixels - pixels.mean()) / pixels.std()
    return Task(inputs, labels, 2, lambda z, y: F.cross_entropy(z, y, weight), entropy, shares.log(), ".3f")


def diabetes() -> Task:
    """Disease progression after a year, 25 to 346, from ten measurements."""
    bunch = load_diabetes()
    inputs, targets = (torch.tensor(part, dtype=torch.float32) for part in (bunch.data, bunch.target))
    variance = float(targets.var(correction=0))
    inputs = (inputs - inputs.mean(0)) / inputs.std(0)
    return Task(inputs, targets, 1, lambda output, y: F.mse_loss(output[:, 0], y), variance, None, ",.0f")


class Network(L.LightningModule):
    """Two layers; keeps the loss of each step."""

    def __init__(self, task: Task) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Linear(task.inputs.shape[1], 64), nn.ReLU(), nn.Linear(64, task.outputs))
        self.loss, self.losses = task.loss, []

    def training_step(self, batch: list[Tensor], batch_idx: int) -> Tensor:
        """The loss of a batch of 32."""
        loss = self.loss(self.net(batch[0]), batch[1])
        self.losses.append(loss.detach())
        return loss

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """A constant rate."""
        return torch.optim.Adam(self.parameters(), 3e-4)


def curve(task: Task, seed: int, arm: str) -> np.ndarray:
    """The loss of each step, a running mean over the last `SMOOTH` steps, the first repeated before it."""
    L.seed_everything(seed, verbose=False)
    model = Network(task)
    if arm == BY_HAND:
        model.net[2].bias.data.copy_(task.log_prior)
    quiet = dict.fromkeys(("logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary"), False)
    callbacks = [LastLayerBiasInit()] if arm == RULE else []
    trainer = L.Trainer(accelerator="cpu", max_steps=LONGEST, callbacks=callbacks, **quiet)
    trainer.fit(model, DataLoader(TensorDataset(task.inputs, task.targets), 32, shuffle=True, drop_last=True))
    # The rule runs the training step once, before the first: its probe leaves no loss behind.
    losses = torch.stack(model.losses).numpy()
    assert len(losses) == LONGEST
    padded = np.concatenate([np.full(SMOOTH - 1, losses[0]), losses])
    return np.convolve(padded, np.full(SMOOTH, 1 / SMOOTH), mode="valid")


def steps_to(curves: np.ndarray, target: float) -> np.ndarray:
    """The first step of each run [seeds] whose loss is at most the target; `LONGEST` if there is none."""
    reached = curves <= target
    return np.where(reached.any(1), reached.argmax(1) + 1, curves.shape[1])


def interval(values: np.ndarray, digits: str = ",.0f") -> str:
    """The mean over seeds with its 95% interval (bootstrap)."""
    draws = np.random.default_rng(0).choice(values, (5000, len(values))).mean(1)
    low, high = np.quantile(draws, (0.025, 0.975))
    return f"{values.mean():{digits}} ({low:{digits}} to {high:{digits}})"


def report(seeds: int) -> str:
    """Train all, and lay the curves out as Markdown."""
    start = time.perf_counter()
    tasks = {
        "14:1 digits": imbalanced_digits(weighted=False),
        "14:1 digits, classes weighted": imbalanced_digits(weighted=True),
        "diabetes, squared error": diabetes(),
    }
    shown = [f"loss at step {step}" for step in SHOWN_STEPS]
    columns = ["task (its prior's loss)", "bias", *shown, "steps to the prior's loss", "to half of it"]
    rows = []
    for name, task in tasks.items():
        for arm in (RULE, BY_HAND, DEFAULT) if task.log_prior is not None else (RULE, DEFAULT):
            curves = np.stack([curve(task, seed, arm) for seed in range(seeds)])
            losses = [interval(curves[:, step - 1], task.digits) for step in SHOWN_STEPS]
            steps = [interval(steps_to(curves, task.prior_loss * part)) for part in (1, 0.5)]
            rows.append([f"{name} ({task.prior_loss:{task.digits}})", arm, *losses, *steps])
    lines = [
        f"{origin('torch', 'lightning')}; {seeds} seeds, Adam at 3e-4, batches of 32, losses on training batches as "
        f"means over {SMOOTH} steps; {time.perf_counter() - start:.0f} s.",
        "",
        *(f"| {' | '.join(cells)} |" for cells in (columns, ["---", "---", *["---:"] * (len(columns) - 2)], *rows)),
        "",
        "Means over seeds with 95% intervals (bootstrap). The prior's loss is what the best constant output reaches. "
        f"A run that does not get to a loss within {LONGEST:,} steps counts as {LONGEST:,}.",
    ]
    return "\n".join(lines)


def main() -> None:
    """Measure and print; record if asked to."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=10, help="runs of each kind (default: %(default)s)")
    parser.add_argument("--record", action="store_true", help="write the table to benchmarks/RESULTS.md")
    options = parser.parse_args()
    with quietly():
        text = report(options.seeds)
    print(text)
    if options.record:
        record(HEADING, text)


if __name__ == "__main__":
    main()
