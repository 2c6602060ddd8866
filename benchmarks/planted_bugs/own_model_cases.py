"""More bugs of data, augmentation, model and loss, each of a mechanism of its own."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset
from torchvision.transforms import v2

from planted_bugs.datasets import Rows, Transformed, cancer, digits
from planted_bugs.modules import Binary, ImageModel, LitClassifier, RowReader, cnn, mlp
from planted_bugs.own_loop_cases import on_digits
from planted_bugs.program import Program, collection

OWN_DATA, data = collection("data")
OWN_MODEL, model = collection("model")
OWN_LOSS, loss = collection("loss")


def augmented(module: Any, seed: int, transform: Any, epochs: int = 4) -> Program:
    train, held_out, test = digits(seed)
    loaders = DataLoader(Transformed(train, transform), 32, shuffle=True), held_out.loader(100)
    return Program(module, *loaders, test, {"max_epochs": epochs})


@data("accuracy", "label-in-input no-leak", ("leak", "label.*(feature|column|input)", "(feature|column).*label"))
def label_in_a_feature(seed: int, buggy: bool) -> Program:
    train, held_out, test = (Rows(torch.cat([x, torch.randn(len(x), 1)], 1), y) for x, y in cancer(seed))
    for rows in (train, held_out):
        rows.x[:, -1] = 2 * rows.y - 1 if buggy else rows.x[:, -1]
    return Program(Binary(31, 1e-2), train.loader(32, True), held_out.loader(), test, {"max_epochs": 12})


@data(
    "accuracy",
    "validation-passes",
    ("in place", "changes? (with|from|every|between)", "drift", "same (item|example).*differ"),
)
def normalised_in_place(seed: int, buggy: bool) -> Program:
    class Images(Dataset):
        def __init__(self, rows: Rows) -> None:
            self.x, self.y = rows.x.clone(), rows.y

        def __len__(self) -> int:
            return len(self.x)

        def __getitem__(self, index: int) -> Any:
            image = self.x[index] if buggy else self.x[index].clone()
            return image.sub_(mean).div_(spread), self.y[index]

    train, held_out, test = digits(seed, scale="raw")
    mean, spread = train.x.mean(), train.x.std()
    loaders = DataLoader(Images(train), 32, shuffle=True), DataLoader(Images(held_out), 100)
    return Program(LitClassifier(cnn()), *loaders, ((test.x - mean) / spread, test.y), {"max_epochs": 5})


@data("accuracy", "same-distribution", ("nois", "augment", "training.*validation.*(differ|scale|distribution)"))
def noise_drowns_the_image(seed: int, buggy: bool) -> Program:
    return augmented(ImageModel(cnn()), seed, v2.GaussianNoise(sigma=3.0 if buggy else 0.1, clip=False))


@data("accuracy", "same-distribution", ("flip", "augment", "training.*validation.*(differ|scale|distribution)"))
def flips_that_change_the_digit(seed: int, buggy: bool) -> Program:
    flips = v2.Compose([v2.RandomHorizontalFlip(), v2.RandomVerticalFlip()])
    return augmented(LitClassifier(mlp()), seed, flips if buggy else v2.Identity(), epochs=6)


@data("accuracy", "label-suspects", ("mix", "labels?.*(signal|noise|unrelated)"))
def images_mixed_and_labels_not(seed: int, buggy: bool) -> Program:
    class Model(LitClassifier):
        def training_step(self, batch: Any, batch_idx: int) -> Tensor:
            x, y = batch
            share, other = torch.rand(()).item(), torch.randperm(len(x))
            logits = self.net(share * x + (1 - share) * x[other])
            kept = 1.0 if buggy else share
            return kept * F.cross_entropy(logits, y) + (1 - kept) * F.cross_entropy(logits, y[other])

    return on_digits(Model(mlp()), seed, epochs=6)


@model("accuracy", "dropout", ("dropout", "drops?"))
def dropout_given_what_to_keep(seed: int, buggy: bool) -> Program:
    net = nn.Sequential(nn.Flatten(), nn.Linear(64, 64), nn.ReLU(), nn.Dropout(0.95 if buggy else 0.05))
    return on_digits(LitClassifier(net.append(nn.Linear(64, 10))), seed)


@model("accuracy", "still-batch-norm", ("batch ?norm", "running (mean|statistic)"))
def batch_norm_momentum_of_zero(seed: int, buggy: bool) -> Program:
    net = nn.Sequential(nn.BatchNorm2d(1, momentum=0.0 if buggy else 0.1), *cnn())
    return on_digits(LitClassifier(net), seed, splits=digits(seed, scale="raw"))


@model("accuracy", "last-batch-norm", ("batch ?norm", "running (mean|statistic)"))
def batch_norm_of_the_last_batch(seed: int, buggy: bool) -> Program:
    layers = [nn.Flatten(), nn.Linear(64, 64), nn.BatchNorm1d(64, momentum=1.0 if buggy else 0.05), nn.ReLU()]
    train, held_out, test = digits(seed, 902)  # the last of the batches of 4 has 2 rows
    module = ImageModel(nn.Sequential(*layers, nn.Linear(64, 10)), 0.005)
    return Program(module, train.loader(4, True), held_out.loader(100), test, {"max_epochs": 3})


@model(
    "accuracy",
    "detached-layers no-gradient weights-never-move",
    ("detach", "no gradient", "gradient.*(never|not) reach", "never move"),
)
def detached_while_training(seed: int, buggy: bool) -> Program:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem, self.body, self.head = nn.Linear(64, 8), nn.Linear(8, 32), nn.Linear(32, 10)

        def forward(self, x: Tensor) -> Tensor:
            h = self.stem(x.flatten(1)).relu()
            h = h.detach() if buggy and self.training else h
            return self.head(self.body(h).relu())

    return on_digits(LitClassifier(Net(), 3e-3), seed, epochs=6)


class _Rounded(torch.autograd.Function):
    """Rounds to eighths; its derivative is that of a straight line."""

    sign = 1.0

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return (x * 8).round() / 8

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return gradient


class _Reversed(_Rounded):
    """The same, but for the sign of the derivative."""

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return -gradient


@model("accuracy", "gradient-check", ("gradient.*(sign|wrong|differ|disagree|finite difference)", "derivative"))
def derivative_with_the_wrong_sign(seed: int, buggy: bool) -> Program:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body, self.head = nn.Linear(64, 24), nn.Linear(24, 10)

        def forward(self, x: Tensor) -> Tensor:
            return self.head((_Reversed if buggy else _Rounded).apply(self.body(x.flatten(1)).tanh()))

    return on_digits(LitClassifier(Net(), 3e-3), seed)


@model("accuracy", "unused-parameters untrained-parameters", ("position", "order", "no gradient", "not used", "unused"))
def positions_never_added(seed: int, buggy: bool) -> Program:
    class Net(nn.Module):
        def __init__(self, width: int = 32) -> None:
            super().__init__()
            self.embed, self.position = nn.Linear(8, width), nn.Parameter(torch.randn(1, 8, width))
            layer = nn.TransformerEncoderLayer(width, 4, 64, dropout=0.0, batch_first=True, norm_first=True)
            self.encoder, self.head = nn.TransformerEncoder(layer, 1, enable_nested_tensor=False), nn.Linear(width, 10)

        def forward(self, x: Tensor) -> Tensor:
            tokens = self.embed(x.squeeze(1))
            return self.head(self.encoder(tokens if buggy else tokens + self.position).mean(1))

    return on_digits(LitClassifier(Net(), 3e-3), seed, epochs=6)


@model(
    "accuracy",
    "carried-state batch-independence",
    ("state.*(batch|kept|carried)", "depends? .*(other|another)", "mix", "repeat"),
)
def state_carried_to_the_next_batch(seed: int, buggy: bool) -> Program:
    class Net(RowReader):
        kept: Any = None

        def forward(self, x: Tensor) -> Tensor:
            fits = self.kept is not None and self.kept[0].shape[1] == len(x)
            out, state = self.lstm(x.squeeze(1), self.kept if fits and buggy else None)
            self.kept = tuple(part.detach() for part in state)
            return self.fc(out[:, -1])

    return on_digits(LitClassifier(Net(), 5e-3), seed, epochs=6)


@loss("accuracy", "", ("dominat", "outweigh", "loss.*(scale|term|share|weight)", "auxiliary"))
def one_loss_dwarfs_the_other(seed: int, buggy: bool) -> Program:
    class Model(LitClassifier):
        def __init__(self) -> None:
            super().__init__(nn.Sequential(nn.Flatten(), nn.Linear(64, 8), nn.ReLU(), nn.Linear(8, 10)))

        def training_step(self, batch: Any, batch_idx: int) -> Tensor:
            code = self.net[:3](batch[0])
            size = code.square().mean()
            return F.cross_entropy(self.net[3](code), batch[1]) + (10.0 if buggy else 1e-3) * size

    return on_digits(Model(), seed, epochs=6)


@loss("accuracy", "right-loss missing-class", ("ignore_index", "class.*(ignored|never|no (loss|gradient))"))
def padding_index_is_a_class(seed: int, buggy: bool) -> Program:
    module = ImageModel(mlp())
    module.criterion = nn.CrossEntropyLoss(ignore_index=0 if buggy else -100)
    return on_digits(module, seed)
