"""Small networks for scikit-learn's digits, of several kinds, and the digits."""

import functools
from collections.abc import Callable

import numpy as np
import timm
import torch
import torch.nn.functional as F
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from torch import Tensor, nn

TRAIN = 1088  # and 709 to test on


class Recurrent(nn.Module):
    """Reads an image in so many steps; a linear layer on the last output."""

    def __init__(self, cell: type[nn.RNNBase], steps: int) -> None:
        super().__init__()
        self.steps = steps
        self.recurrent = cell(64 // steps, 64, batch_first=True)
        self.head = nn.Linear(64, 10)

    def forward(self, images: Tensor) -> Tensor:
        """Images [N, 1, 8, 8] to logits [N, 10]."""
        return self.head(self.recurrent(images.view(len(images), self.steps, -1))[0][:, -1])


def perceptron() -> nn.Module:
    """One hidden layer of rectified units."""
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 10))


def deep_tanh() -> nn.Module:
    """Four hidden layers of tanh units."""
    hidden = [layer for _ in range(4) for layer in (nn.Linear(64, 64), nn.Tanh())]
    return nn.Sequential(nn.Flatten(), *hidden, nn.Linear(64, 10))


def convolutional() -> nn.Module:
    """Two convolutions with batch norm, and a linear layer."""
    first = [nn.Conv2d(1, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU(), nn.MaxPool2d(2)]
    second = [nn.Conv2d(16, 32, 3, padding=1), nn.BatchNorm2d(32), nn.ReLU(), nn.Flatten()]
    return nn.Sequential(*first, *second, nn.Linear(512, 10))


NETWORKS: dict[str, tuple[int, Callable[[], nn.Module]]] = {
    "perceptron": (8, perceptron),
    "deep tanh": (8, deep_tanh),
    "convolutional": (8, convolutional),
    "LSTM, 8 steps": (8, lambda: Recurrent(nn.LSTM, 8)),
    "GRU, 16 steps": (8, lambda: Recurrent(nn.GRU, 16)),
    "RNN, 8 steps": (8, lambda: Recurrent(nn.RNN, 8)),
    "timm test_resnet": (16, lambda: timm.create_model("test_resnet", in_chans=1, num_classes=10)),
    "timm test_efficientnet": (16, lambda: timm.create_model("test_efficientnet", in_chans=1, num_classes=10)),
}


@functools.cache
def digits(size: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Images [N, 1, size, size], standardised, and labels [N], to train on and to test on."""
    bunch = load_digits()
    images = torch.tensor(bunch.images, dtype=torch.float32)[:, None]
    train, test = train_test_split(np.arange(len(images)), train_size=TRAIN, stratify=bunch.target, random_state=0)
    images = F.interpolate((images - images[train].mean()) / images[train].std(), (size, size), mode="bilinear")
    labels = torch.tensor(bunch.target)
    return images[train], labels[train], images[test], labels[test]
