"""Bugs of the model and of its initialisation."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from planted_bugs.datasets import digits
from planted_bugs.modules import DigitsData, ImageModel, LitClassifier, RowReader, cnn, mlp
from planted_bugs.program import Program, collection

MODEL, model = collection("model")
INITIALISATION, initialisation = collection("initialisation")

MIXED = ("mix", "depends? .*(other|another)", "other (example|row)s?", "across the batch", "batch dimension")


def program(net: nn.Module, seed: int, epochs: int = 4, rate: float = 2e-3) -> Program:
    """The network in the module without a forward."""
    train, held_out, test = digits(seed)
    loaders = train.loader(32, True), held_out.loader(100)
    return Program(LitClassifier(net, rate), *loaders, test, {"max_epochs": epochs})


def image_program(net: nn.Module, seed: int, epochs: int = 4, rate: float = 0.02) -> Program:
    """The network in the module that has a forward and SGD; the data from a data module."""
    splits = digits(seed)
    return Program(ImageModel(net, rate), DigitsData(splits), None, splits.test, {"max_epochs": epochs})


@model("accuracy", "batch-independence", MIXED)
def reshape_mixes_the_batch(seed: int, buggy: bool) -> Program:
    class Columns(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embed = nn.Linear(8, 16)
            self.head = nn.Sequential(nn.ReLU(), nn.Linear(128, 10))

        def forward(self, x: Tensor) -> Tensor:
            h = self.embed(x.squeeze(1))  # [N, 8, 16]
            h = h.permute(1, 0, 2) if buggy else h
            return self.head(h.reshape(len(x), -1))

    return program(Columns(), seed)


@model("accuracy", "right-loss", ("softmax", "probabilities"))
def softmax_before_cross_entropy(seed: int, buggy: bool) -> Program:
    net = mlp()
    net.append(nn.Softmax(dim=1) if buggy else nn.Identity())
    return image_program(net, seed)


@model("accuracy", "batch-independence", (*MIXED, r"softmax.*(batch|dim)"))
def softmax_over_the_batch(seed: int, buggy: bool) -> Program:
    class AttentionPool(nn.Module):
        """A weighted mean over the rows of the image, the weights from a softmax."""

        def __init__(self) -> None:
            super().__init__()
            self.embed, self.score, self.head = nn.LSTM(8, 32, batch_first=True), nn.Linear(32, 1), nn.Linear(32, 10)

        def forward(self, x: Tensor) -> Tensor:
            rows, _ = self.embed(x.squeeze(1))  # [N, 8, 32]
            weights = self.score(rows).softmax(dim=0 if buggy else 1)
            return self.head((weights * rows).sum(1))

    return program(AttentionPool(), seed, epochs=6, rate=1e-2)


@model("accuracy", "detached-layers no-gradient", ("detach", "no gradient", "gradient.*(never|not) reach"))
def detached_before_the_head(seed: int, buggy: bool) -> Program:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.features = nn.Sequential(cnn()[:6], nn.Linear(256, 8), nn.Tanh())
            self.classifier = nn.Linear(8, 10)

        def forward(self, x: Tensor) -> Tensor:
            features = self.features(x)
            return self.classifier(features.detach() if buggy else features)

    return program(Net(), seed, epochs=6)


@model("accuracy", "hidden-layers", ("python list", "not registered", "modulelist"))
def layers_in_a_python_list(seed: int, buggy: bool) -> Program:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            layers = [nn.Linear(64, 24), nn.Linear(24, 12), nn.Linear(12, 12)]
            self.layers = layers if buggy else nn.ModuleList(layers)
            self.out = nn.Linear(12, 10)

        def forward(self, x: Tensor) -> Tensor:
            x = x.flatten(1)
            for layer in self.layers:
                x = torch.tanh(layer(x))
            return self.out(x)

    return program(Net(), seed, epochs=6, rate=4e-3)


@model("accuracy", "batch-independence", (*MIXED, "batch_first"))
def wrong_batch_first(seed: int, buggy: bool) -> Program:
    return program(RowReader(batch_first=not buggy), seed, epochs=6, rate=5e-3)


@model("accuracy", "stochastic-evaluation", ("dropout.*(evaluation|always|never)", "evaluation.*(random|differ)"))
def dropout_never_off(seed: int, buggy: bool) -> Program:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc1, self.fc2 = nn.Linear(64, 64), nn.Linear(64, 10)

        def forward(self, x: Tensor) -> Tensor:
            h = F.relu(self.fc1(x.flatten(1)))
            h = F.dropout(h, 0.5, training=True if buggy else self.training)
            return self.fc2(h)

    return program(Net(), seed, epochs=5)


IDENTICAL = ("identical", "symmetr", "all[- ]zero", "constant weight", "same (weight|value)")


@initialisation("accuracy", "symmetric-init flat-start", IDENTICAL)
def zero_weights(seed: int, buggy: bool) -> Program:
    net = mlp()
    for layer in net:
        if isinstance(layer, nn.Linear):
            nn.init.zeros_(layer.weight) if buggy else nn.init.xavier_uniform_(layer.weight)
            nn.init.zeros_(layer.bias)
    return image_program(net, seed)


@initialisation("accuracy", "symmetric-init flat-start", IDENTICAL)
def constant_weights(seed: int, buggy: bool) -> Program:
    net = cnn()

    def init_weights(layer: nn.Module) -> None:
        if isinstance(layer, (nn.Linear, nn.Conv2d)):
            nn.init.constant_(layer.weight, 0.1) if buggy else nn.init.kaiming_normal_(layer.weight)

    net.apply(init_weights)
    return program(net, seed)


@initialisation("accuracy", "dead-units", (r"\bdead\b", "never (active|fire)", "biases?.*(large|negative|-10)"))
def bias_minus_ten(seed: int, buggy: bool) -> Program:
    net = mlp()
    nn.init.constant_(net[1].bias, -10.0 if buggy else 0.0)
    return program(net, seed)
