"""Healthy programs that are drawn: data, network, optimiser, rate, schedule and the rest from one seed.

A drawn program counts as healthy if, trained without any rule, its clean metric reaches that of a tuned reference of
its data and split: within 0.02 of the accuracy, within 0.05 of the explained variance. The reference is the best of a
small grid of networks and rates (``random_search.py``).
"""

from __future__ import annotations

import functools
import math
import random
from dataclasses import dataclass, replace
from typing import Any

import lightning as L
import torch
from sklearn.datasets import load_wine, make_classification, make_friedman1

from planted_bugs import datasets
from planted_bugs.datasets import Rows, Splits
from planted_bugs.program import Program, seeded
from planted_bugs.random_networks import Drawn, network

PREFIX, REFERENCE = "random-", "reference-"
SPLITS = 2  # of each data set
IMAGES, VECTORS = ("digits", "digits-unit", "digits-few"), ("vectors", "wine", "cancer", "classes")
NUMBERS = ("diabetes", "friedman")
ADAPTIVE = ("adam", "adamw", "nadam", "radam", "rmsprop", "lamb", "adabelief")
RATES = {
    "sgd": (0.03, 0.5),
    "momentum": (5e-3, 0.1),
    "nesterov": (5e-3, 0.1),
    "lion": (1e-4, 2e-3),
    "lamb": (3e-3, 3e-2),
    "rmsprop": (3e-4, 5e-3),
}
GRID = tuple((width, rate) for width in (64, 128) for rate in (2e-3, 8e-3))
MOST_BATCHES, MOST_EPOCHS = 800, 40


@dataclass(frozen=True)
class Recipe:
    """What was drawn; names and figures as the libraries have them.

    Attributes:
        data: The data set.
        split: Which of its splits.
        steps: Optimiser steps to train for, about.
        smoothing: Of labels, in [0, 1); for numbers Huber's loss in place of the mean square.
        weighted: Whether the loss weighs classes by their inverse frequency.
        noise: Deviation of what is added to training inputs.
    """

    data: str
    split: int
    family: str = "mlp"
    width: int = 64
    depth: int = 2
    activation: str = "relu"
    norm: str = "none"
    dropout: float = 0.0
    start: str = "default"
    optimiser: str = "adam"
    rate: float = 1e-3
    decay: float = 0.0
    schedule: str = "none"
    batch: int = 32
    steps: int = 300
    clip: float = 0.0
    accumulate: int = 1
    smoothing: float = 0.0
    weighted: bool = False
    noise: float = 0.0
    manual: bool = False
    torchmetrics: bool = False
    data_module: bool = False
    validates: bool = True

    @property
    def image(self) -> bool:
        return self.data in IMAGES

    @property
    def metric(self) -> str:
        return "r2" if self.data in NUMBERS else "accuracy"


def draw(seed: int) -> Recipe:
    """The recipe of a seed; a few of the frequent choices more often than the rare ones."""
    pick = random.Random(seed)
    data = pick.choice([*IMAGES, *VECTORS, *NUMBERS, "digits"])
    families = ("mlp", "cnn", "residual", "rnn", "transformer") if data in IMAGES else ("mlp", "mlp", "residual")
    optimiser = pick.choice(["sgd", "momentum", "nesterov", "adam", "adam", "adamw", "adamw", *ADAPTIVE[2:], "lion"])
    low, high = RATES.get(optimiser, (5e-4, 1e-2))
    family, manual = pick.choice(families), pick.random() < 0.15
    if family in ("rnn", "transformer") and optimiser in ("sgd", "momentum", "nesterov"):
        low = high / 5
    if family == "transformer" and optimiser not in ("sgd", "momentum", "nesterov"):
        high /= 2
    return Recipe(
        data,
        pick.randrange(SPLITS),
        family,
        pick.choice([32, 48, 64, 96, 128]),
        pick.choice([1, 2, 2, 3, 4]),
        pick.choice(["relu", "relu", "gelu", "tanh", "silu", "elu", "leaky"]),
        pick.choice(["none", "batch", "layer"]),
        pick.choice([0.0, 0.0, 0.1, 0.2, 0.4]),
        pick.choice(["default", "default", "default", "kaiming", "zero head"]),
        optimiser,
        math.exp(pick.uniform(math.log(low), math.log(high))),
        pick.choice([0.0, 0.0, 1e-4, 1e-2]) if optimiser != "rmsprop" else 0.0,
        pick.choice(["none", "none", "cosine", "step", "one cycle", "warm-up", "warm-up cosine"]),
        pick.choice([16, 32, 32, 64, 100]),
        pick.randint(150, 500),
        pick.choice([0.0, 0.0, 0.0, 0.5, 1.0, 5.0]),
        1 if manual else pick.choice([1, 1, 1, 2, 4]),
        pick.choice([0.0, 0.0, 0.05, 0.1]),
        pick.random() < 0.2,
        pick.choice([0.0, 0.0, 0.05, 0.2]),
        manual,
        pick.random() < 0.5,
        pick.random() < 0.3,
        pick.random() < 0.9,
    )


@functools.cache
def _wine() -> tuple[torch.Tensor, torch.Tensor]:
    x, y = load_wine(return_X_y=True)
    return torch.tensor(x, dtype=torch.float32), torch.tensor(y)


def splits_of(data: str, seed: int) -> Splits:
    """The rows of a data set, split by the seed; labels [N], floats where there are two classes or a number."""
    if data in IMAGES:
        sizes = {"train": 300, "validation": 200} if data == "digits-few" else {}
        return datasets.digits(seed, **sizes, scale="unit" if data == "digits-unit" else "standard")
    if data == "vectors":
        return Splits(*(Rows(x.flatten(1), y) for x, y in datasets.digits(seed)))
    if data == "cancer":
        return datasets.cancer(seed)
    if data == "diabetes":
        return datasets.scaled_target(datasets.diabetes(seed))
    if data == "wine":
        return datasets.standardise(datasets.split(*_wine(), seed, 100, 30, stratify=True))
    if data == "friedman":
        x, y = (torch.tensor(part, dtype=torch.float32) for part in make_friedman1(1300, noise=1.0, random_state=seed))
        return datasets.scaled_target(datasets.standardise(datasets.split(x, y, seed, 600, 200, stratify=False)))
    x, y = make_classification(1300, 20, n_informative=8, n_classes=4, class_sep=1.5, random_state=seed)
    rows = torch.tensor(x, dtype=torch.float32), torch.tensor(y)
    return datasets.standardise(datasets.split(*rows, seed, 600, 200, stratify=True))


class Loaders(L.LightningDataModule):
    """The two loaders of a recipe."""

    def __init__(self, recipe: Recipe, splits: Splits) -> None:
        super().__init__()
        self.recipe, self.splits = recipe, splits

    def train_dataloader(self) -> Any:
        return self.splits.train.loader(self.recipe.batch, True, drop_last=True)

    def val_dataloader(self) -> Any:
        return self.splits.validation.loader(64) if self.recipe.validates else []


def build(recipe: Recipe) -> Program:
    """The program of a recipe, its weights from the seed of now."""
    splits = splits_of(recipe.data, recipe.split)
    y = splits.train.y
    classes = 0 if recipe.data in NUMBERS else 1 if y.is_floating_point() else int(y.max()) + 1
    weight = len(y) / (classes * y.bincount().float()) if recipe.weighted and classes > 1 else None
    net = network(recipe, tuple(splits.train.x.shape[1:]), max(1, classes))
    batches = max(1, len(y) // recipe.batch)
    epochs = round(min(MOST_BATCHES, recipe.steps * recipe.accumulate) / batches)
    options: dict[str, Any] = {"max_epochs": max(2, min(MOST_EPOCHS, epochs))}
    if not recipe.manual:
        options |= {"accumulate_grad_batches": recipe.accumulate}
        options |= {"gradient_clip_val": recipe.clip} if recipe.clip else {}
    module, data = Drawn(recipe, net, classes, weight), Loaders(recipe, splits)
    if recipe.data_module and recipe.validates:
        return Program(module, data, None, splits.test, options)
    return Program(module, data.train_dataloader(), data.val_dataloader() or None, splits.test, options)


@dataclass(frozen=True)
class RandomHealthy:
    """A drawn program, or a reference; the same attributes as of a healthy configuration, and its metric."""

    name: str
    recipe: Recipe
    drawn: int = 0
    ranks: int = 1

    @property
    def metric(self) -> str:
        return self.recipe.metric

    def build(self, seed: int) -> Program:
        return seeded(lambda seed: build(self.recipe), self.drawn + seed)


def by_name(name: str) -> RandomHealthy:
    """``random-17`` is the program of seed 17, ``reference-wine-1-3`` the fourth of the grid on split 1 of wine."""
    if name.startswith(PREFIX):
        drawn = int(name.removeprefix(PREFIX))
        return RandomHealthy(name, draw(drawn), drawn)
    data, split, place = name.removeprefix(REFERENCE).rsplit("-", 2)
    width, rate = GRID[int(place)]
    reference = Recipe(data, int(split), "cnn" if data in IMAGES else "mlp", width, rate=rate, schedule="cosine")
    return RandomHealthy(name, replace(reference, steps=400, dropout=0.1))
