"""Bugs of the loss, and of numerics."""

from __future__ import annotations

import os
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from planted_bugs.datasets import Rows, diabetes, digits, scaled_target
from planted_bugs.modules import Binary, ImageModel, LitClassifier, Regressor, cnn, mlp
from planted_bugs.program import Program, collection

LOSS, loss = collection("loss")
NUMERICS, numerics = collection("numerics")


def on_digits(module: Any, seed: int, epochs: int = 4, **options: Any) -> Program:
    train, held_out, test = digits(seed)
    loaders = train.loader(32, True), held_out.loader(100)
    return Program(module, *loaders, test, {"max_epochs": epochs, **options})


@loss("accuracy", "loss-sign", (r"\bsign\b", "negated", "minus", "maximis"))
def flipped_sign(seed: int, buggy: bool) -> Program:
    class Model(LitClassifier):
        def training_step(self, batch: Any, batch_idx: int) -> Tensor:
            x, y = batch
            log_likelihood = F.log_softmax(self.net(x), 1).gather(1, y[:, None]).mean()
            return log_likelihood if buggy else -log_likelihood

    return on_digits(Model(mlp()), seed)


@loss("accuracy", "no-gradient", ("clamp", "without (a )?gradient", "no gradient", "gradient.*zero"))
def loss_clamped(seed: int, buggy: bool) -> Program:
    class Model(ImageModel):
        def training_step(self, batch: Any, batch_idx: int) -> Tensor:
            loss, _, _ = self._step(batch)
            return loss.clamp(max=1.0 if buggy else 100.0)

    return on_digits(Model(cnn()), seed)


@loss("accuracy", "loss-scale", (r"times (the )?\w*(entropy|loss)", "loss.*(scale|factor|times)", "unscaled"))
def loss_times_a_millionth(seed: int, buggy: bool) -> Program:
    class Model(ImageModel):
        def training_step(self, batch: Any, batch_idx: int) -> Tensor:
            loss, _, _ = self._step(batch)
            return loss * (1e-6 if buggy else 1.0)

    return on_digits(Model(mlp()), seed)


@loss("r2", "silent-broadcast", ("broadcast",))
def silent_broadcast(seed: int, buggy: bool) -> Program:
    class Model(Regressor):
        def training_step(self, batch: Any, batch_idx: int) -> Tensor:
            x, y = batch
            y_hat = self(x) if buggy else self(x).squeeze(1)
            return F.mse_loss(y_hat, y)

    train, held_out, test = scaled_target(diabetes(seed))
    return Program(Model(), train.loader(32, True), held_out.loader(), test, {"max_epochs": 10})


@loss("accuracy", "right-loss", ("sigmoid", "probabilities"))
def sigmoid_before_bce_with_logits(seed: int, buggy: bool) -> Program:
    class Model(Binary):
        def __init__(self) -> None:
            super().__init__(64)
            self.bce = nn.BCEWithLogitsLoss()

        def training_step(self, batch: Any, batch_idx: int) -> Tensor:
            x, y = batch
            out = self(x).squeeze(1)
            return self.bce(torch.sigmoid(out) if buggy else out, y)

    train, held_out, test = (Rows(rows.x.flatten(1), (rows.y % 2).float()) for rows in digits(seed))  # odd or even
    return Program(Model(), train.loader(32, True), held_out.loader(100), test, {"max_epochs": 4})


@loss("accuracy", "summed-loss", (r"\bsum(med|s)?\b", "reduction"))
def summed_with_sgd(seed: int, buggy: bool) -> Program:
    model = ImageModel(mlp(), learning_rate=0.05)
    model.criterion = nn.CrossEntropyLoss(reduction="sum" if buggy else "mean")
    return on_digits(model, seed)


@numerics("accuracy", "gradient-check non-finite-start", (r"\bnan\b", "not finite", "non-finite", "infinite"))
def square_root_of_zero(seed: int, buggy: bool) -> Program:
    class Strokes(nn.Module):
        """Length of the gradient of the image, beside the image."""

        def __init__(self) -> None:
            super().__init__()
            self.edges = nn.Conv2d(1, 8, 3, padding=1, bias=False)
            self.head = nn.Sequential(nn.Flatten(), nn.Linear(256, 64), nn.ReLU(), nn.Linear(64, 10))

        def forward(self, images: Tensor) -> Tensor:
            edges = self.edges(images)
            energy = edges[:, ::2] ** 2 + edges[:, 1::2] ** 2
            return self.head(torch.sqrt(energy if buggy else energy + 1e-6))

    train, held_out, test = digits(seed, scale="unit")
    loaders = train.loader(32, True), held_out.loader(100)
    return Program(LitClassifier(Strokes()), *loaders, test, {"max_epochs": 4})


@numerics("accuracy", "seed-everything", (r"\bseed",))
def unseeded(seed: int, buggy: bool) -> Program:
    if buggy:
        os.environ.pop("PL_GLOBAL_SEED", None), torch.seed()
    return on_digits(LitClassifier(mlp()), seed)
