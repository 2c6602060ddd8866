"""How far the steps of an optimiser move its weights: samples of them before and after, on their device."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from lightning_rules.watch.strided import is_plain, stride_of, strided

SAMPLED = 4096  # elements of each weight
REMEMBERED = 256  # elements of each parameter, from the beginning
PAIRS = 24  # measured steps after which one looks what is left of them when the next step begins
EMBEDDINGS = (nn.Embedding, nn.EmbeddingBag)


@dataclass(frozen=True)
class Watched:
    """A parameter that is watched.

    Attributes:
        name: As in ``module.named_parameters()``.
        group: The place of its parameter group.
        judged: Whether it is the weight of a layer; biases, norms and embeddings move at paces of their own.
        length: Elements in its sample.
        usual: A tenth of the scale that a layer with as many inputs usually begins with, ``0.1 / sqrt(inputs)``.
            Weights that began as zeros are measured against it.
    """

    name: str
    group: int
    judged: bool
    length: int
    usual: float


def trainable(optimizer: Any) -> list[tuple[int, Tensor]]:
    """The floating-point parameters that an optimiser may change and that can be read, each with its group."""
    return [
        (place, parameter)
        for place, group in enumerate(optimizer.param_groups)
        for parameter in group["params"]
        if parameter.requires_grad and is_plain(parameter) and parameter.is_floating_point()
    ]


class WeightSteps:
    """The parameters of one optimiser, and what became of them since the watch began.

    It lasts as long as :meth:`holds`; it keeps at most 256 elements of each parameter, and of each weight 4,096 from a
    step that is watched to the next step.

    Args:
        optimizer: Of torch, or one that looks like it.
        module: The LightningModule, which names the parameters.
        began: ``trainer.global_step`` now.
    """

    def __init__(self, optimizer: Any, module: nn.Module, began: int) -> None:
        pairs = [(group, parameter) for group, parameter in trainable(optimizer) if _readable(parameter)]
        pairs.sort(key=lambda pair: (str(pair[1].device), str(pair[1].dtype)))  # one buffer for each kind
        names = {id(parameter): name.replace("_orig_mod.", "") for name, parameter in module.named_parameters()}
        tables = {id(p) for layer in module.modules() if isinstance(layer, EMBEDDINGS) for p in layer.parameters()}
        self.began = began
        self.parameters = [parameter for _, parameter in pairs]
        self.watched = [_watched(p, group, names, tables) for group, p in pairs]
        self.steps = 0
        """Steps seen."""
        self.reached = [0] * len(pairs)
        """For each parameter, at how many of them it had a gradient and a rate above 0."""
        self._key = _key(optimizer)
        self._judged = [place for place, one in enumerate(self.watched) if one.judged]
        self._first = self._buffers(range(len(pairs)), REMEMBERED)
        self._before: list[Tensor] | None = None
        self._pair: tuple[list[Tensor], list[Tensor]] | None = None

    @property
    def judged(self) -> list[Watched]:
        """The weights that are judged."""
        return [self.watched[place] for place in self._judged]

    def holds(self, optimizer: Any) -> bool:
        """Whether the optimiser still has the parameters that it had."""
        return _key(optimizer) == self._key

    def frozen(self, optimizer: Any) -> list[str]:
        """Names of the judged weights that need no gradient any more, though the optimiser still holds them."""
        held = {id(parameter) for group in optimizer.param_groups for parameter in group["params"]}
        pairs = [(self.watched[place].name, self.parameters[place]) for place in self._judged]
        return [name for name, parameter in pairs if id(parameter) in held and not parameter.requires_grad]

    def before(self) -> None:
        """A step begins: copy samples of the judged weights."""
        self._before = self._buffers(self._judged, SAMPLED)

    def after(self, optimizer: Any) -> tuple[list[Tensor], list[Tensor]] | None:
        """A step has ended.

        Returns:
            The sums of the absolute changes in the sample of each judged weight, and of the absolute values it had,
            each ``[weights of a kind]`` for each kind of device and type; None where no step has begun.
        """
        before, self._before = self._before, None
        if before is None:
            return None
        rates = [is_zero(group.get("lr")) for group in optimizer.param_groups]
        self.steps += 1
        for place, (one, parameter) in enumerate(zip(self.watched, self.parameters, strict=True)):
            self.reached[place] += parameter.grad is not None and not rates[one.group]
        changes = [new.sub_(old) for new, old in zip(self._buffers(self._judged, SAMPLED), before, strict=True)]
        if self._judged and self.steps <= PAIRS:
            self._pair = before, self._norms(self._judged, changes, SAMPLED, 2)
        return self._norms(self._judged, changes, SAMPLED, 1), self._norms(self._judged, before, SAMPLED, 1)

    @property
    def is_paired(self) -> bool:
        """Whether a step has been watched, and what is left of it when the next begins is still to be seen."""
        return self._pair is not None

    def left(self) -> tuple[list[Tensor], list[Tensor]] | None:
        """The step after a watched one begins: what is left of that one.

        Returns:
            For each judged weight the length of its change from before the watched step to now, and of the step
            itself, in its sample, each ``[weights of a kind]``; None where no step was watched.
        """
        pair, self._pair = self._pair, None
        if pair is None:
            return None
        net = [new.sub_(old) for new, old in zip(self._buffers(self._judged, SAMPLED), pair[0], strict=True)]
        return self._norms(self._judged, net, SAMPLED, 2), pair[1]

    def mark(self) -> list[Tensor]:
        """Small samples of all parameters as they are now, for :meth:`since`."""
        return self._buffers(range(len(self.watched)), REMEMBERED)

    def since(self, mark: list[Tensor]) -> tuple[list[Tensor], ...]:
        """What became of each parameter since a mark.

        Returns:
            The length of its sample at the mark, now, and of the change; its largest change from when the watch began
            to the mark, and to now; each ``[parameters of a kind]``.
        """
        everything, now = range(len(self.watched)), self.mark()
        lengths = [self._norms(everything, buffers, REMEMBERED, 2) for buffers in (mark, now, _apart(now, mark))]
        return (
            *lengths,
            *(self._norms(everything, _apart(one, self._first), REMEMBERED, math.inf) for one in (mark, now)),
        )

    def farthest(self) -> list[Tensor]:
        """The largest change of each parameter's small sample since the watch began, ``[parameters of a kind]``."""
        return self._norms(range(len(self.watched)), _apart(self.mark(), self._first), REMEMBERED, math.inf)

    def _kinds(self, places: Iterable[int]) -> list[list[int]]:
        kinds: dict[Any, list[int]] = {}
        for place in places:
            parameter = self.parameters[place]
            kinds.setdefault((parameter.device, parameter.dtype), []).append(place)
        return list(kinds.values())

    def _buffers(self, places: Iterable[int], most: int) -> list[Tensor]:
        return [torch.cat([_sample(self.parameters[place], most) for place in kind]) for kind in self._kinds(places)]

    def _norms(self, places: Iterable[int], buffers: Sequence[Tensor], most: int, order: float) -> list[Tensor]:
        norms = []
        for kind, buffer in zip(self._kinds(places), buffers, strict=True):
            lengths = [_length(self.parameters[place].numel(), most) for place in kind]
            dtype = torch.float32 if buffer.dtype.itemsize < 4 else None
            norms.append(torch.stack(torch._foreach_norm(list(torch.split(buffer, lengths)), order, dtype=dtype)))
        return norms


def numbers(parts: Sequence[Tensor]) -> list[float]:
    """The numbers of tensors on the host, one after the other."""
    return [number for part in parts for number in part.tolist()]


def _apart(some: Sequence[Tensor], others: Sequence[Tensor]) -> list[Tensor]:
    return [one - other for one, other in zip(some, others, strict=True)]


def _key(optimizer: Any) -> tuple[int, ...]:
    return tuple(id(parameter) for _, parameter in trainable(optimizer))


def _readable(parameter: Tensor) -> bool:
    return strided(parameter, REMEMBERED) is not None


def _sample(parameter: Tensor, most: int) -> Tensor:
    sample = strided(parameter, most)
    if sample is None:
        raise ValueError("the memory of a parameter has changed its order.")
    return sample


def _watched(parameter: Tensor, group: int, names: dict[int, str], tables: set[int]) -> Watched:
    inputs = parameter.numel() // parameter.shape[0] if parameter.dim() else 1
    return Watched(
        names.get(id(parameter), "a parameter outside the module"),
        group,
        parameter.dim() >= 2 and id(parameter) not in tables,
        _length(parameter.numel(), SAMPLED),
        0.1 / math.sqrt(inputs),
    )


def _length(count: int, most: int) -> int:
    """Elements in a strided sample of so many."""
    return math.ceil(count / stride_of(count, most))


def is_zero(rate: Any) -> bool:
    """Whether a rate is the number 0; one that lives in a tensor is not read."""
    return not isinstance(rate, Tensor) and rate == 0
