"""Healthy configurations: no detector may raise an alarm on any of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from lightning.pytorch.callbacks import StochasticWeightAveraging
from torch import nn

from planted_bugs import healthy_networks as networks
from planted_bugs.datasets import Splits, cancer, diabetes, digits, scaled_target
from planted_bugs.modules import Binary, DigitsData, ImageModel, LitClassifier, Regressor, RowReader, cnn, mlp
from planted_bugs.program import Program, seeded

SEEDS = range(5)


@dataclass(frozen=True)
class Healthy:
    """A configuration that is as it should be.

    Attributes:
        name: What it is, in kebab case.
        make: Builds the program of a seed.
        ranks: Processes that the program needs.
    """

    name: str
    make: Callable[[int], Program]
    ranks: int = 1

    def build(self, seed: int) -> Program:
        return seeded(self.make, seed)


def on_digits(
    module: Any, seed: int, epochs: int = 3, batch: int = 32, splits: Splits | None = None, **options: Any
) -> Program:
    train, held_out, test = splits or digits(seed)
    loaders = train.loader(batch, True), held_out.loader(100)
    return Program(module, *loaders, test, {"max_epochs": epochs, **options})


def diabetes_regression(seed: int) -> Program:
    train, held_out, test = scaled_target(diabetes(seed))
    return Program(Regressor(lr=1e-3), train.loader(32, True), held_out.loader(), test, {"max_epochs": 6})


def breast_cancer(seed: int) -> Program:
    train, held_out, test = cancer(seed)
    return Program(Binary(30, 1e-3), train.loader(32, True), held_out.loader(), test, {"max_epochs": 5})


def frozen_backbone(seed: int) -> Program:
    splits = digits(seed)
    backbone = networks.pretrained_backbone(*splits.validation)
    return on_digits(networks.HeadOnly(backbone, 256), seed, splits=splits)


def imbalance(seed: int) -> Program:
    """Two classes with a fourteenth of the others' rows, in training as in validation."""
    parts = []
    for rows in digits(seed):
        rare = rows.y < 2
        parts.append(rows.keep(~rare | (rare.cumsum(0) % 14 == 1)))
    counts = parts[0].y.bincount(minlength=10).float()
    return on_digits(networks.Weighted(cnn(), counts), seed, 5, splits=Splits(*parts))


def raw_behind_batch_norm(seed: int) -> Program:
    net = nn.Sequential(nn.BatchNorm2d(1), *cnn())
    return on_digits(LitClassifier(net), seed, splits=digits(seed, scale="raw"))


def weight_averaging(seed: int) -> Program:
    return on_digits(ImageModel(mlp()), seed, 5, callbacks=[StochasticWeightAveraging(swa_lrs=0.01, swa_epoch_start=3)])


def residual(seed: int) -> Program:
    return on_digits(LitClassifier(networks.ZeroBranches(), 1e-3), seed)


def two_ranks(seed: int) -> Program:
    splits = digits(seed)
    return Program(LitClassifier(cnn()), DigitsData(splits, 16), None, splits.test, {"max_epochs": 3})


def clipped_lstm(seed: int) -> Program:
    return on_digits(LitClassifier(RowReader(), 5e-3), seed, 5, gradient_clip_val=1.0)


def small_transformer(seed: int) -> Program:
    return on_digits(networks.WarmedUp(networks.RowTransformer(), 3e-3), seed, 6)


def logistic_regression(seed: int) -> Program:
    net = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
    return on_digits(ImageModel(net, 0.5, momentum=0.0), seed, 6, splits=digits(seed, scale="unit"))


def converged(seed: int) -> Program:
    splits = digits(seed, train=400, validation=100)
    return on_digits(LitClassifier(mlp(), 1e-3), seed, 120, batch=128, splits=splits)


HEALTHY: dict[str, Healthy] = {
    config.name: config
    for config in (
        Healthy("mlp-adam", lambda seed: on_digits(LitClassifier(mlp(), 1e-3), seed)),
        Healthy("mlp-sgd-momentum", lambda seed: on_digits(ImageModel(mlp(), 0.1), seed, batch=64)),
        Healthy("cnn-adam", lambda seed: on_digits(LitClassifier(cnn(), 2e-3), seed)),
        Healthy("cnn-batch-norm-cosine", lambda seed: on_digits(networks.Annealed(networks.normed_cnn(), 5e-3), seed)),
        Healthy("deep-batch-norm-sgd", lambda seed: on_digits(ImageModel(networks.deep_mlp(), 0.02), seed, 8)),
        Healthy("tanh-sgd", lambda seed: on_digits(ImageModel(networks.tanh_mlp(), 0.05), seed)),
        Healthy("gelu-layer-norm-dropout", lambda seed: on_digits(LitClassifier(networks.gelu_mlp()), seed)),
        Healthy("residual-zero-branches", residual),
        Healthy("lstm-clipped", clipped_lstm),
        Healthy("transformer-warm-up", small_transformer),
        Healthy("diabetes-regression", diabetes_regression),
        Healthy("breast-cancer-bce", breast_cancer),
        Healthy("logistic-regression", logistic_regression),
        Healthy("label-smoothing-noise", lambda seed: on_digits(networks.Smoothed(mlp()), seed)),
        Healthy("frozen-backbone", frozen_backbone),
        Healthy("autoencoder", lambda seed: on_digits(networks.AutoEncoder(), seed)),
        Healthy("imbalance-weighted", imbalance),
        Healthy("raw-behind-batch-norm", raw_behind_batch_norm),
        Healthy("batch-256-sgd", lambda seed: on_digits(ImageModel(mlp(), 0.2, 0.0), seed, 12, batch=256)),
        Healthy("120-epochs", converged),
        Healthy("weight-averaging", weight_averaging),
        Healthy(
            "accumulation-of-4",
            lambda seed: on_digits(ImageModel(mlp(), 0.05), seed, 6, batch=16, accumulate_grad_batches=4),
        ),
        Healthy("two-optimisers", lambda seed: on_digits(networks.TwoOptimizers(mlp()), seed)),
        Healthy("two-ranks", two_ranks, ranks=2),
    )
}


def one_process(names: Sequence[str] = tuple(HEALTHY)) -> list[Healthy]:
    """Those that run in this process."""
    return [HEALTHY[name] for name in names if HEALTHY[name].ranks == 1]
