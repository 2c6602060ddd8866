"""How good are the rates that finders suggest? Ours, Lightning's, fastai's valley and a fixed 3e-4, against a grid.

    python benchmarks/lr_finder.py             print a table
    python benchmarks/lr_finder.py --record    also write it to benchmarks/RESULTS.md

Eight networks on scikit-learn's digits, two of them timm's and three recurrent, with Adam, AdamW and SGD with momentum
0.9, three seeds each, trained for 5 and for 20 epochs at a constant rate. Each finder sees the same network, weights
and data. A suggestion is good if the network trained with it is, after the last epoch, within 2% of the accuracy of the
best of ten rates half a decade apart; that best is picked on the same test images, so that luck is on the grid's side.

About an hour of one core. Rows are kept in a file (`--rows`) as they come, and a run goes on where one was broken off;
`--part 0/2` and `--part 1/2` share the work. Without fastai on the path its column is left out: fastai asks for an
older torch than this project; `pip install --target DIR --no-deps fastai`, what else it asks for, and `PYTHONPATH=DIR`
does it.
"""

import argparse
import functools
import json
import math
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
import results
import torch
import torch.nn.functional as F
from digit_networks import NETWORKS, digits
from lightning.pytorch.tuner import Tuner
from torch import Tensor
from torch.utils.data import DataLoader, TensorDataset

from lightning_rules import LRFinder

EPOCHS = (5, 20)
BATCH = 32  # 34 steps an epoch
GOOD, POOR = 0.98, 0.90
Row = dict[str, Any]


OPTIMIZERS = {
    "Adam": torch.optim.Adam,
    "AdamW": torch.optim.AdamW,
    "SGD": functools.partial(torch.optim.SGD, momentum=0.9),
}
EXPONENTS = {"Adam": (-5.0, -0.5), "AdamW": (-5.0, -0.5), "SGD": (-4.0, 0.5)}


class Classifier(L.LightningModule):
    """A network and its optimiser."""

    def __init__(self, network: str, optimizer: str, lr: float = 1e-3) -> None:
        super().__init__()
        self.network = NETWORKS[network][1]()
        self.optimizer = optimizer
        self.lr = lr

    def training_step(self, batch: list[Tensor], batch_idx: int) -> Tensor:
        """Cross-entropy."""
        return F.cross_entropy(self.network(batch[0]), batch[1])

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """A constant rate."""
        return OPTIMIZERS[self.optimizer](self.parameters(), self.lr)


def fresh(network: str, optimizer: str, seed: int) -> tuple[Classifier, DataLoader[Any]]:
    """The network with this seed's weights, and its data."""
    torch.manual_seed(seed)
    images, labels, _, _ = digits(NETWORKS[network][0])
    return Classifier(network, optimizer), DataLoader(TensorDataset(images, labels), BATCH, shuffle=True)


def accuracies(network: str, optimizer: str, seed: int, rate: float) -> dict[int, float]:
    """Train at a constant rate, and test after 5 and after 20 epochs; a run that is not finite keeps guessing."""
    model, _ = fresh(network, optimizer, seed)
    model.lr = rate
    train, labels, test, truth = digits(NETWORKS[network][0])
    steps = model.configure_optimizers()
    order = torch.Generator().manual_seed(seed)
    found = dict.fromkeys(EPOCHS, 0.1)
    for epoch in range(1, max(EPOCHS) + 1):
        model.train()
        for chosen in torch.randperm(len(train), generator=order).split(BATCH):
            loss = F.cross_entropy(model.network(train[chosen]), labels[chosen])
            steps.zero_grad()
            loss.backward()
            steps.step()
        if not math.isfinite(loss.item()):
            break
        if epoch in EPOCHS:
            model.eval()
            with torch.no_grad():
                found[epoch] = (model.network(test).argmax(1) == truth).float().mean().item()
    return found


def trainer(epochs: int, *callbacks: L.Callback) -> L.Trainer:
    """A Trainer that leaves nothing behind."""
    silent = dict.fromkeys(("logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary"), False)
    folder = tempfile.mkdtemp()
    return L.Trainer(max_epochs=epochs, accelerator="cpu", default_root_dir=folder, callbacks=list(callbacks), **silent)


class StopBeforeTraining(L.Callback):
    """Ends the fit before its first batch."""

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Stop."""
        trainer.should_stop, trainer.fit_loop.min_epochs = True, 0


def ours(model: Classifier, loader: DataLoader[Any], epochs: int) -> float | None:
    """lightning-rules."""
    finder = LRFinder()
    trainer(epochs, finder, StopBeforeTraining()).fit(model, loader)
    return finder.suggestion


def lightnings(model: Classifier, loader: DataLoader[Any], epochs: int) -> float | None:
    """Lightning's tuner with its defaults."""
    found = Tuner(trainer(epochs)).lr_find(model, loader)
    return found.suggestion() if found is not None else None


def valley(model: Classifier, loader: DataLoader[Any], epochs: int) -> float | None:
    """Fastai's default suggestion."""
    from fastai.callback.schedule import valley
    from fastai.data.core import DataLoaders
    from fastai.learner import Learner
    from fastai.optimizer import OptimWrapper

    wrapped = functools.partial(OptimWrapper, opt=OPTIMIZERS[model.optimizer])
    learner = Learner(DataLoaders(loader, loader), model.network, loss_func=F.cross_entropy, opt_func=wrapped)
    with learner.no_bar(), learner.no_logging():
        return float(learner.lr_find(suggest_funcs=valley, show_plot=False).valley)


def fixed(model: Classifier, loader: DataLoader[Any], epochs: int) -> float | None:
    """Karpathy's 3e-4."""
    return 3e-4


FINDERS = {"LRFinder": ours, "Lightning": lightnings, "fastai valley": valley, "fixed 3e-4": fixed}


def finders() -> dict[str, Callable[..., float | None]]:
    """Those that can be imported."""
    try:
        import fastai.learner  # noqa: F401
    except ImportError:
        return {name: finder for name, finder in FINDERS.items() if "fastai" not in name}
    return FINDERS


def settings(seeds: list[int]) -> Iterator[tuple[str, str, int]]:
    """Every network with every optimiser and seed."""
    return ((network, optimizer, seed) for seed in seeds for network in NETWORKS for optimizer in OPTIMIZERS)


def measure(network: str, optimizer: str, seed: int, names: list[str]) -> list[Row]:
    """Train over the grid, ask these finders, train with their suggestions."""
    key = {"network": network, "optimizer": optimizer, "seed": seed}
    trained = functools.cache(lambda rate: accuracies(network, optimizer, seed, rate))
    rows = []
    for rate in np.logspace(*EXPONENTS[optimizer], 10).tolist() if "grid" in names else []:
        rows += [
            {**key, "finder": "grid", "epochs": epochs, "rate": rate, "accuracy": accuracy}
            for epochs, accuracy in trained(rate).items()
        ]
    for name, finder in finders().items():
        for epochs in EPOCHS if name in names else []:
            rate = finder(*fresh(network, optimizer, seed), epochs)
            # Without a suggestion the run keeps the rate it has.
            accuracy = trained(1e-3 if rate is None else rate)[epochs]
            rows.append({**key, "finder": name, "epochs": epochs, "rate": rate, "accuracy": accuracy})
    return rows


def collect(path: Path, seeds: list[int], part: tuple[int, int]) -> list[Row]:
    """The rows of all settings of this part; those in the file are not measured again."""
    rows = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
    done = {(row["network"], row["optimizer"], row["seed"], row["finder"]) for row in rows}
    for number, setting in enumerate(settings(seeds)):
        missing = [name for name in ("grid", *finders()) if (*setting, name) not in done]
        if missing and number % part[1] == part[0]:
            new = measure(*setting, missing)
            with path.open("a") as file:
                file.write("".join(json.dumps(row) + "\n" for row in new))
            rows += new
            print(*setting, {row["finder"]: row["rate"] for row in new if row["finder"] != "grid"}, flush=True)
    return rows


def ratios(rows: list[Row], finder: str, **only: Any) -> np.ndarray:
    """Accuracy with the finder's rate over the best of the grid, for each setting."""
    best: dict[tuple[Any, ...], float] = {}
    for row in rows:
        key = row["network"], row["optimizer"], row["seed"], row["epochs"]
        if row["finder"] == "grid":
            best[key] = max(best.get(key, 0.0), row["accuracy"])
    chosen = [row for row in rows if row["finder"] == finder and all(row[key] == only[key] for key in only)]
    return np.array(
        [row["accuracy"] / best[row["network"], row["optimizer"], row["seed"], row["epochs"]] for row in chosen]
    )


def share(values: np.ndarray) -> str:
    """How many are good, and how poor the worst is."""
    return f"{(values >= GOOD).sum()}/{len(values)} = {(values >= GOOD).mean():.0%}, worst {values.min():.0%}"


def report(rows: list[Row]) -> str:
    """The table."""
    names = [name for name in FINDERS if any(row["finder"] == name for row in rows)]
    lines = [f"| runs | {' | '.join(f'`{name}`' if name == 'LRFinder' else name for name in names)} |"]
    lines.append(f"| --- |{' --- |' * len(names)}")
    groups: list[tuple[str, dict[str, Any]]] = [("**all**", {})]
    groups += [(f"{epochs} epochs", {"epochs": epochs}) for epochs in EPOCHS]
    groups += [(optimizer, {"optimizer": optimizer}) for optimizer in OPTIMIZERS]
    groups += [(network, {"network": network}) for network in NETWORKS]
    for title, only in groups:
        lines.append(f"| {title} | {' | '.join(share(ratios(rows, name, **only)) for name in names)} |")
    refused = {name: sum(row["finder"] == name and row["rate"] is None for row in rows) for name in names}
    poor = {name: int((ratios(rows, name) < POOR).sum()) for name in names}
    lines += ["", "In each cell: suggestions that train to within 2% of the best accuracy of the grid, and the worst."]
    lines += [f"Below 90% of the best: {', '.join(f'{name} {count}' for name, count in poor.items())}."]
    lines += [f"No suggestion (1e-3 was kept): {', '.join(f'{name} {count}' for name, count in refused.items())}."]
    return "\n".join(lines)


def main() -> None:
    """Measure and print; record if asked to."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--record", action="store_true", help="write the table to benchmarks/RESULTS.md")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--rows", type=Path, default=Path(tempfile.gettempdir(), "lr_finder_rows.jsonl"))
    parser.add_argument("--part", default="0/1", help="which share of the work, as 0/2 and 1/2")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    part, parts = map(int, arguments.part.split("/"))
    path = arguments.rows.resolve()
    with results.quietly():
        rows = collect(path, arguments.seeds, (part, parts))
    peer = ["fastai"] if any("fastai" in row["finder"] for row in rows) else []
    packages = ["torch", "lightning", "timm", *peer]
    text = f"{results.origin(*packages)}; seeds {arguments.seeds}, batches of {BATCH}.\n\n{report(rows)}"
    print(text)
    if arguments.record:
        results.record("Learning-rate finder", text)


if __name__ == "__main__":
    main()
