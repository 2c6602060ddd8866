"""Which of torch's functions and modules are activations, and where each of them passes no gradient on."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn


@dataclass(frozen=True)
class Activation:
    """An activation function, and the inputs at which its slope is next to nothing.

    Attributes:
        label: Its name in prose: ``"ReLU"``.
        floor: A unit whose inputs all lie at or below it is off; None for functions that have no such side.
        ends: A value further than this from zero, on either side, is saturated; None for functions that are not
            flat on both sides.
    """

    label: str
    floor: float | None = None
    ends: float | None = None


RELU = Activation("ReLU", floor=0.0)
SIGMOID = Activation("sigmoid", ends=4.595)  # within 0.01 of 0 or 1
TANH = Activation("tanh", ends=2.298)  # within 0.02 of -1 or 1

FUNCTIONS: dict[Any, Activation] = {
    **dict.fromkeys((F.relu, F.relu_, torch.relu, torch.relu_, Tensor.relu, Tensor.relu_), RELU),
    F.relu6: Activation("ReLU6", floor=0.0),
    **dict.fromkeys((torch.sigmoid, torch.sigmoid_, F.sigmoid, Tensor.sigmoid, Tensor.sigmoid_), SIGMOID),
    **dict.fromkeys((torch.tanh, torch.tanh_, F.tanh, Tensor.tanh, Tensor.tanh_), TANH),
    F.gelu: Activation("GELU", floor=-4.0),  # below these, less than a thousandth of the gradient comes through
    F.silu: Activation("SiLU", floor=-10.0),
    F.mish: Activation("Mish", floor=-10.0),
    F.hardswish: Activation("hardswish", floor=-3.0),
    F.elu: Activation("ELU", floor=-7.0),
    F.celu: Activation("CELU", floor=-7.0),
    F.selu: Activation("SELU", floor=-7.0),
    F.softplus: Activation("softplus", floor=-7.0),
}
MODULES: dict[type[nn.Module], Activation] = {
    nn.ReLU: RELU,
    nn.ReLU6: FUNCTIONS[F.relu6],
    nn.Sigmoid: SIGMOID,
    nn.Tanh: TANH,
    nn.GELU: FUNCTIONS[F.gelu],
    nn.SiLU: FUNCTIONS[F.silu],
    nn.Mish: FUNCTIONS[F.mish],
    nn.Hardswish: FUNCTIONS[F.hardswish],
    nn.ELU: FUNCTIONS[F.elu],
    nn.CELU: FUNCTIONS[F.celu],
    nn.SELU: FUNCTIONS[F.selu],
    nn.Softplus: FUNCTIONS[F.softplus],
}
SOFTMAXES = {F.softmax, torch.softmax, Tensor.softmax}
