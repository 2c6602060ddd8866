"""Which of torch's functions a step calls, from where, and what they do to the values: dropout, activations, draws."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode

from lightning_rules.activation_functions import FUNCTIONS

DROPOUTS: dict[Any, str] = {
    getattr(F, name): name
    for name in ("dropout", "dropout1d", "dropout2d", "dropout3d", "alpha_dropout", "feature_alpha_dropout")
}
RELUS: dict[Any, str] = {func: "ReLU" for func, kind in FUNCTIONS.items() if kind.label in ("ReLU", "ReLU6")}
SQUASHES: dict[Any, str] = {func: kind.label for func, kind in FUNCTIONS.items() if kind.ends is not None}
NORMAL_DRAWS: dict[Any, str] = {
    torch.randn: "randn",
    torch.randn_like: "randn_like",
    torch.normal: "normal",
    Tensor.normal_: "normal_",
}
OTHER_DRAWS: dict[Any, str] = {
    torch.rand: "rand",
    torch.rand_like: "rand_like",
    torch.bernoulli: "bernoulli",
    Tensor.bernoulli: "bernoulli",
    Tensor.bernoulli_: "bernoulli_",
    Tensor.uniform_: "uniform_",
    F.gumbel_softmax: "gumbel_softmax",
    torch.multinomial: "multinomial",
    torch.randint: "randint",
    torch.randperm: "randperm",
}
DRAWS = {**NORMAL_DRAWS, **OTHER_DRAWS}
DIFFERENCES = {torch.sub, torch.subtract, Tensor.sub, Tensor.subtract, Tensor.__sub__, Tensor.__rsub__}
DEAD = 1e-12
SATURATED = 0.01  # from the end of a sigmoid's range; twice that of a tanh's


@dataclass(frozen=True)
class DropoutCall:
    """One call of a dropout function.

    Attributes:
        name: The module in whose ``forward`` it was called; "" for the LightningModule's own, None outside of any.
        function: The function's name.
        rate: The share of values that it drops, 0 to 1.
        active: Whether it was told to drop: ``training=True``.
    """

    name: str | None
    function: str
    rate: float
    active: bool


@dataclass(frozen=True)
class ActivationCall:
    """What one call of a ReLU, sigmoid or tanh did to a batch.

    Attributes:
        name: As in :class:`DropoutCall`.
        kind: "ReLU", "sigmoid" or "tanh".
        units: How many units (channels) it has.
        stuck: The share of units that are off (ReLU) or at the end of their range for every example of the batch.
        shape: Of its values.
    """

    name: str | None
    kind: str
    units: int
    stuck: float
    shape: tuple[int, ...]


@dataclass(frozen=True)
class Draw:
    """One draw of random numbers.

    Attributes:
        name: As in :class:`DropoutCall`.
        function: The function's name.
        normal: Whether the numbers are normal, as those of a variational autoencoder or of noise are.
    """

    name: str | None
    function: str
    normal: bool


@dataclass(frozen=True)
class Difference:
    """A subtraction whose two sides, of unlike rank, are both stretched: ``(n, 1) - (n,)`` makes ``(n, n)``.

    Attributes:
        name: As in :class:`DropoutCall`.
        output: Shape of the side that has a gradient.
        target: Shape of the side that has none.
    """

    name: str | None
    output: tuple[int, ...]
    target: tuple[int, ...]


@dataclass
class CallsSeen:
    """What a step called, in order."""

    dropouts: list[DropoutCall] = field(default_factory=list)
    activations: list[Callable[[], ActivationCall]] = field(default_factory=list)
    draws: list[Draw] = field(default_factory=list)
    differences: list[Difference] = field(default_factory=list)


class WatchFunctions(TorchFunctionMode):
    """Records calls of the functions above; keeps no tensor of more than a few numbers.

    Args:
        keep_all: Whether dropout is off while it watches, so that a step has the gradients of the whole network.

    Attributes:
        inside: Names of the modules whose ``forward`` is running, outermost first; kept by hooks.
        dropped: The autograd nodes of what dropouts returned.
        seen: What was called.
    """

    def __init__(self, keep_all: bool) -> None:
        super().__init__()
        self.keep_all = keep_all
        self.inside: list[str] = []
        self.dropped: set[Any] = set()
        self.seen = CallsSeen()

    @property
    def _where(self) -> str | None:
        return self.inside[-1] if self.inside else None

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func in DROPOUTS or func is F.scaled_dot_product_attention or func is F.multi_head_attention_forward:
            return self._dropout(func, args, kwargs)
        kind = RELUS.get(func) or SQUASHES.get(func)
        given = args[0] if args else kwargs.get("input")
        if kind == "ReLU" and _is_layer(given):  # before it runs: it may write in place
            self._activation(kind, given)
        value = func(*args, **kwargs)
        if kind in ("sigmoid", "tanh") and _is_layer(value):
            self._activation(kind, value)
        elif func in DRAWS:
            self.seen.draws.append(Draw(self._where, DRAWS[func], func in NORMAL_DRAWS))
        elif func in DIFFERENCES:
            self._difference(args)
        return value

    def _dropout(self, func: Any, args: Any, kwargs: Any) -> Any:
        if func in DROPOUTS:
            names: tuple[str, ...] = ("input", "p", "training", "inplace")
            given = {**dict(zip(names, args, strict=False)), **kwargs}
            rate, active = float(given.get("p", 0.5)), bool(given.get("training", func not in _OFF_BY_DEFAULT))
            if self.keep_all:
                given["training"] = False
            value, label = func(**given), DROPOUTS[func]
            if isinstance(value, Tensor) and value.grad_fn is not None:
                self.dropped.add(value.grad_fn)
        elif func is F.scaled_dot_product_attention:
            given = {**dict(zip(("query", "key", "value", "attn_mask", "dropout_p"), args, strict=False)), **kwargs}
            rate, active = float(given.get("dropout_p", 0.0)), True
            if self.keep_all:
                given["dropout_p"] = 0.0
            value, label = func(*args[5:], **given) if len(args) <= 5 else func(*args, **kwargs), "attention dropout"
        else:
            rate = float(args[10] if len(args) > 10 else kwargs.get("dropout_p", 0.0))
            active = bool(kwargs.get("training", args[13] if len(args) > 13 else True))
            if self.keep_all and len(args) <= 13:
                kwargs = {**kwargs, "training": False}
            value, label = func(*args, **kwargs), "attention dropout"
        self.seen.dropouts.append(DropoutCall(self._where, label, rate, active and rate > 0))
        return value

    def _activation(self, kind: str, value: Tensor) -> None:
        where = self._where
        with torch.no_grad():
            stuck = _stuck(kind, value.detach())
        shape = tuple(value.shape)
        self.seen.activations.append(
            lambda: ActivationCall(where, kind, stuck.numel(), float(stuck.float().mean()), shape)
        )

    def _difference(self, args: Any) -> None:
        if len(args) < 2 or not all(isinstance(side, Tensor) for side in args[:2]):
            return
        sides = sorted(args[:2], key=lambda side: not side.requires_grad)
        output, target = (tuple(side.shape) for side in sides)
        if sides[0].requires_grad and not sides[1].requires_grad and stretched(output, target):
            self.seen.differences.append(Difference(self._where, output, target))


_OFF_BY_DEFAULT = (F.alpha_dropout, F.feature_alpha_dropout)


def _is_layer(value: Any) -> bool:
    return isinstance(value, Tensor) and value.dim() >= 2 and value.is_floating_point() and value.numel() > 0


def _stuck(kind: str, value: Tensor) -> Tensor:
    """For each unit, whether it is at the end of its range for all examples and places.

    A ReLU is judged by its input: below zero it is off; at zero, as in a branch that is closed at the start, it waits.
    """
    if kind == "ReLU":
        at_end = value < -DEAD
    elif kind == "sigmoid":
        at_end = (value < SATURATED) | (value > 1 - SATURATED)
    else:
        at_end = value.abs() > 1 - 2 * SATURATED
    if value.dim() == 3:  # units are last, as after Linear, or second, as after Conv1d: what is more alive counts
        last, second = at_end.all(dim=(0, 1)), at_end.all(dim=(0, 2))
        return last if last.float().mean() <= second.float().mean() else second
    dims = tuple(dim for dim in range(value.dim()) if dim != 1)
    return at_end.all(dim=dims)


def stretched(one: tuple[int, ...], other: tuple[int, ...]) -> bool:
    """Whether broadcasting stretches both of two shapes of unlike rank: ``(n, 1)`` and ``(n,)``."""
    if len(one) == len(other):
        return False
    longest = max(len(one), len(other))
    pairs = list(zip(*((1,) * (longest - len(shape)) + shape for shape in (one, other)), strict=True))
    fits = all(a == b or 1 in (a, b) for a, b in pairs)
    return fits and math.prod(max(pair) for pair in pairs) > max(math.prod(one), math.prod(other))
