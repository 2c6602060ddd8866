"""What each way of ensembling gains over one model, what it costs, and what distillation keeps of it.

    python benchmarks/ensemble_gain.py             print tables
    python benchmarks/ensemble_gain.py --record    also write them to benchmarks/RESULTS.md

Three tasks: digits (a small convolutional network), breast cancer (a perceptron), and digits as PNG files in folders
(timm's test_resnet); a fifth of the examples to train on, for where there is no error there is no gain. A round is
another split of the data and other seeds. In each, five members by each way, every member the checkpoint with the least
validation loss of its fit; "top-5" are the five best of one fit, "snapshots" five cosine cycles in the time of one fit
and, as the paper has it, of five. Gains are on the test set, over the member that validation says is best and over the
mean of the members, in points of accuracy and in nats, as means over rounds with the 95% interval of Student's t.
The student has the network of a member; it learns from the ensemble of seeds.
"""

import statistics
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
import results
import torch
import torch.nn.functional as F
from digit_networks import convolutional
from lightning.pytorch.callbacks import ModelCheckpoint
from PIL import Image
from scipy.stats import t as student_t
from sklearn.datasets import load_breast_cancer, load_digits
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset
from torchmetrics import MeanMetric

from lightning_recipe.data import ImageFolderDataModule
from lightning_recipe.data.labelled import LabelledDataModule
from lightning_recipe.data.normalisation import Normalisation
from lightning_recipe.data.splits import stratified_split
from lightning_recipe.models import ImageClassifier
from lightning_recipe.runs.bootstrap import use_bootstrap
from lightning_rules import Distillation, Ensemble

MEMBERS = 5
VALIDATED, TESTED = 0.15, 0.65  # shares of the examples; the rest is trained on
SOUPS = ("seeds", "top-5 of one fit", "snapshots in one fit")  # whose soups are shown


class Network(L.LightningModule):
    """A small network by its name."""

    def __init__(self, name: str, lr: float = 3e-3) -> None:
        super().__init__()
        self.save_hyperparameters()
        self.net = NETWORKS[name]()
        self.loss = MeanMetric()

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x)

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        return F.cross_entropy(self(batch[0]), batch[1])

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self.loss(F.cross_entropy(self(batch[0]), batch[1]))
        self.log("val/loss", self.loss, on_step=False, on_epoch=True)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.AdamW(self.parameters(), self.hparams["lr"])


NETWORKS: dict[str, Callable[[], nn.Module]] = {
    "convolutional": convolutional,
    "perceptron": lambda: nn.Sequential(nn.Linear(30, 32), nn.ReLU(), nn.Linear(32, 2)),
}


class Examples(LabelledDataModule):
    """Standardised examples, few to train and to validate on, many to test on, so that differences can be seen."""

    def __init__(self, x: np.ndarray, y: np.ndarray, split_seed: int) -> None:
        super().__init__(batch_size=32, num_workers=0)
        self.x, self.y, self.split_seed = x, y, split_seed
        self.class_names = [str(label) for label in np.unique(y)]

    def setup(self, stage: str) -> None:
        if self.datasets:
            return
        parts = stratified_split(self.y, {"val": VALIDATED, "test": TESTED}, self.split_seed)
        train = self.x[parts["train"]]
        axis = 0 if train.ndim == 2 else None  # each measurement by itself, all pixels alike
        mean, std = np.atleast_1d(train.mean(axis)), np.atleast_1d(train.std(axis))
        self.normalisation = Normalisation(tuple(mean.ravel().tolist()), tuple(std.ravel().tolist()))
        x = torch.as_tensor((self.x - mean) / std, dtype=torch.float32)
        if self.fold is not None:
            kept, out = self.fold.split(self.y[parts["train"]])
            parts["train"], parts["val"] = parts["train"][kept], parts["train"][out]
        y = torch.as_tensor(self.y)
        self.datasets = {name: TensorDataset(x[part], y[part]) for name, part in parts.items()}

    def train_dataloader(self) -> Any:
        return DataLoader(self.datasets["train"], batch_size=self.batch_size, shuffle=True, drop_last=True)

    def val_dataloader(self) -> Any:
        return DataLoader(self.datasets["val"], batch_size=256)

    def test_dataloader(self) -> Any:
        return DataLoader(self.datasets["test"], batch_size=256)


def digits(split_seed: int) -> Examples:
    bunch = load_digits()
    return Examples(bunch.images[:, None], bunch.target, split_seed)


def breast_cancer(split_seed: int) -> Examples:
    bunch = load_breast_cancer()
    return Examples(bunch.data, bunch.target, split_seed)


def folder_of_digits(split_seed: int) -> ImageFolderDataModule:
    """Digits as PNG files, one folder a class."""
    bunch, root = load_digits(), Path(f"png-{split_seed}").absolute()
    if not root.exists():
        parts = stratified_split(bunch.target, {"val": VALIDATED, "test": TESTED}, split_seed)
        for split, part in parts.items():
            for number in part:
                folder = root / split / str(bunch.target[number])
                folder.mkdir(parents=True, exist_ok=True)
                Image.fromarray((bunch.images[number] * 255 / 16).astype(np.uint8)).save(folder / f"{number}.png")
    return ImageFolderDataModule(str(root), image_size=16, in_chans=1, num_workers=0)


@dataclass(frozen=True)
class Task:
    """Data by the seed of its split, a fresh model, and the epochs of one fit."""

    data: Callable[[int], Any]
    model: Callable[[], L.LightningModule]
    epochs: int


TASKS = {
    "digits": Task(digits, lambda: Network("convolutional"), epochs=30),
    "breast cancer": Task(breast_cancer, lambda: Network("perceptron"), epochs=60),
    "image folder": Task(folder_of_digits, lambda: ImageClassifier("test_resnet", 10, in_chans=1, lr=1e-3), epochs=10),
}


def trainer(*callbacks: Any, epochs: int = 1) -> L.Trainer:
    quiet = dict.fromkeys(("logger", "enable_progress_bar", "enable_model_summary"), False)
    kept = any(isinstance(one, ModelCheckpoint) for one in callbacks)
    return L.Trainer(
        accelerator="cpu", max_epochs=epochs, callbacks=list(callbacks), enable_checkpointing=kept, **quiet
    )


def fit(task: Task, split: int, seed: int, place: Path, *callbacks: Any, **options: Any) -> list[str]:
    """The checkpoints of one fit, the best first."""
    data = task.data(split)
    epochs = options.pop("epochs", task.epochs)
    keep = ModelCheckpoint(place, monitor="val/loss", save_top_k=options.pop("keep", 1), filename="{epoch}")
    L.seed_everything(seed, verbose=False)
    model = task.model()
    if "fold" in options:
        data.setup_fold(options["fold"], MEMBERS, split)
    if "bootstrap" in options:
        use_bootstrap(options["bootstrap"], data, model)
    trainer(keep, *callbacks, epochs=epochs).fit(model, datamodule=data)
    return sorted(keep.best_k_models, key=lambda path: float(keep.best_k_models[path]))


def compared(task: Task, split: int, members: list[str], place: Path, weighting: Any = "equal") -> Any:
    rule = Ensemble(members, weighting=weighting, folder=str(place))
    trainer(rule).validate(task.model(), datamodule=task.data(split), verbose=False)
    assert rule.comparison is not None, rule.findings
    return rule.comparison


def snapshots(task: Task, split: int, place: Path, fits: int) -> Any:
    rule = Ensemble("snapshots", cycles=MEMBERS, folder=str(place))
    fit(task, split, 1000 * split, place / "kept", rule, epochs=task.epochs * fits)
    assert rule.comparison is not None, rule.findings
    return rule.comparison


def ways(task: Task, split: int, place: Path) -> Iterator[tuple[str, Any, int]]:
    """Each way of a round with its comparison and its cost in fits."""
    seeds = [fit(task, split, 1000 * split + k, place / f"seed{k}", keep=MEMBERS) for k in range(MEMBERS)]
    best = [paths[0] for paths in seeds]
    yield "seeds", compared(task, split, best, place / "seeds"), MEMBERS
    yield "seeds, fitted weights", compared(task, split, best, place / "fitted", "fitted"), MEMBERS
    yield "seeds, greedy selection", compared(task, split, best, place / "greedy", "greedy"), MEMBERS
    folds = [fit(task, split, 1000 * split + k, place / f"fold{k}", fold=k)[0] for k in range(MEMBERS)]
    yield "folds", compared(task, split, folds, place / "folds"), MEMBERS
    drawn = [fit(task, split, 1000 * split + k, place / f"drawn{k}", bootstrap=k)[0] for k in range(MEMBERS)]
    yield "bagging", compared(task, split, drawn, place / "bagging"), MEMBERS
    yield "top-5 of one fit", compared(task, split, seeds[0], place / "top"), 1
    yield "snapshots in one fit", snapshots(task, split, place / "snap1", 1), 1
    yield "snapshots in five fits", snapshots(task, split, place / "snap5", MEMBERS), MEMBERS


def student(task: Task, split: int, place: Path) -> Any:
    """Students of the ensemble of seeds, one for each member's seed: their scores beside the members' own."""
    paths = []
    for k in range(2):
        taught = Distillation(str(place / "seeds" / "ensemble.ckpt"), temperature=4.0, mixing=0.9)
        paths.append(fit(task, split, 1000 * split + k, place / f"student{k}", taught)[0])
    return compared(task, split, paths, place / "students")


Numbers = dict[str, list[float]]


def measure(rounds: int) -> tuple[dict[str, dict[str, Numbers]], dict[str, Numbers], dict[str, float]]:
    """Differences by task, way and kind; what students keep; seconds by task."""
    gains: dict[str, dict[str, Numbers]] = {name: defaultdict(lambda: defaultdict(list)) for name in TASKS}
    kept: dict[str, Numbers] = {name: defaultdict(list) for name in TASKS}
    seconds = {}
    for name, task in TASKS.items():
        began = time.perf_counter()
        for split in range(rounds):
            place = Path(f"{name.replace(' ', '-')}-{split}").absolute()
            for way, comparison, cost in ways(task, split, place):
                for row in comparison.rows[1:]:
                    if row.name == "ensemble" or way in SOUPS:
                        label = way if row.name == "ensemble" else f"{way}: {row.name}"
                        add(gains[name][label], comparison, row, cost)
                if way == "seeds":
                    whole = comparison
            taught = student(task, split, place)
            of_ensemble = whole.row("ensemble").scores["test"]
            plain = whole.mean["test"]
            kept[name]["plain"].append(100 * plain["value"])
            kept[name]["student"].append(100 * taught.mean["test"]["value"])
            kept[name]["ensemble"].append(100 * of_ensemble.accuracy)
            kept[name]["plain nll"].append(plain["nll"])
            kept[name]["student nll"].append(taught.mean["test"]["nll"])
            kept[name]["ensemble nll"].append(of_ensemble.nll)
        seconds[name] = time.perf_counter() - began
    return gains, kept, seconds


def add(numbers: Numbers, comparison: Any, row: Any, cost: int) -> None:
    best, mean, scores = comparison.rows[0].scores["test"], comparison.mean["test"], row.scores["test"]
    numbers["best"].append(100 * (scores.accuracy - best.accuracy))
    numbers["mean"].append(100 * (scores.accuracy - mean["value"]))
    numbers["nll"].append(scores.nll - best.nll)
    numbers["ece"].append(scores.ece - best.ece)
    numbers["accuracy"].append(100 * scores.accuracy)
    numbers["fits"].append(cost)
    numbers["networks"].append(row.passes)


def interval(values: list[float], decimals: int = 2) -> str:
    """Mean and half the 95% interval of Student's t."""
    mean = statistics.fmean(values)
    if len(values) < 2:
        return f"{mean:+.{decimals}f}"
    half = student_t.ppf(0.975, len(values) - 1) * statistics.stdev(values) / len(values) ** 0.5
    return f"{mean:+.{decimals}f} ± {half:.{decimals}f}"


def report(rounds: int) -> str:
    began = time.perf_counter()
    with results.quietly():
        gains, kept, seconds = measure(rounds)
    lines = [
        f"{results.origin('torch', 'lightning', 'timm')}; {rounds} rounds, {MEMBERS} members each; "
        f"{time.perf_counter() - began:.0f} s.",
    ]
    for name, by_way in gains.items():
        lines += [
            f"\n**{name}** ({seconds[name] / rounds:.0f} s a round)\n",
            "| way | test accuracy | gain over the best | over the mean | NLL | ECE | fits | networks |",
            "| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: |",
        ]
        for way, numbers in by_way.items():
            accuracy, fits = statistics.fmean(numbers["accuracy"]), numbers["fits"][0]
            networks = statistics.fmean(numbers["networks"])
            cells = [f"{accuracy:.2f}%", interval(numbers["best"]), interval(numbers["mean"])]
            cells += [interval(numbers["nll"], 3), interval(numbers["ece"], 3), str(fits), f"{networks:.2g}"]
            lines.append(f"| {way} | {' | '.join(cells)} |")
    lines += ["\n" + DISTILLED, "| task | plain | student | ensemble | student over plain | share of the gain kept |"]
    lines.append("| --- | ---: | ---: | ---: | ---: | ---: |")
    for name, numbers in kept.items():
        lines += [_kept(name, numbers, ""), _kept(f"{name}, NLL", numbers, " nll")]
    lines.append(f"\n{WHERE_NOT}")
    return "\n".join(lines)


def _kept(name: str, numbers: Numbers, suffix: str) -> str:
    plain, taught, whole = (numbers[f"{which}{suffix}"] for which in ("plain", "student", "ensemble"))
    decimals = 3 if suffix else 2
    shown = [f"{statistics.fmean(values):.{decimals}f}" for values in (plain, taught, whole)]
    differences = [after - before for after, before in zip(taught, plain, strict=True)]
    gain = statistics.fmean(whole) - statistics.fmean(plain)
    share = f"{100 * statistics.fmean(differences) / gain:.0f}%" if abs(gain) > 1e-6 else "no gain"
    return f"| {name} | {' | '.join(shown)} | {interval(differences, decimals)} | {share} |"


DISTILLED = "Distillation: one network that learned from the ensemble of seeds, beside the mean of its members.\n"
WHERE_NOT = (
    "NLL and ECE are differences to the single best: negative is better. Where the interval of a gain holds 0, the "
    "way does not help, or not measurably on so few test examples."
)


if __name__ == "__main__":
    results.command_line(__doc__, "Gain of ensembles", report, rounds=10)
