"""Core operations on the values of all members at once: tensors with a dimension more, and what to do about it.

`torch.vmap` can do them all, and does those without a rule here. The rules are there for speed: they keep the members
beside the channels where a convolution has put them, and make one operation of what vmap makes five.
"""

from __future__ import annotations

import operator
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx
from torch.utils._pytree import tree_flatten, tree_map, tree_unflatten

aten = torch.ops.aten


@dataclass(frozen=True)
class Wide:
    """A value that differs between members: in ``tensor`` they lie along dimension ``dim``."""

    tensor: Tensor
    dim: int

    def at(self, dim: int) -> Tensor:
        """The tensor with the members in another dimension."""
        return self.tensor if dim == self.dim else self.tensor.movedim(self.dim, dim)

    @property
    def shape(self) -> list[int]:
        """That of one member's value."""
        return [size for dim, size in enumerate(self.tensor.shape) if dim != self.dim]


Rule = Callable[..., Any]
_RULES: dict[Any, Rule] = {}


def _rule(*operations: Any) -> Callable[[Rule], Rule]:
    def remember(rule: Rule) -> Rule:
        _RULES.update(dict.fromkeys(operations, rule))
        return rule

    return remember


class ForAll(fx.Interpreter):
    """Runs the graph of one member for all of them.

    Args:
        graph: From :func:`trace_member`.
        members: Their number.
        channels_last: Give images to convolutions with their channels last in memory.
    """

    def __init__(self, graph: fx.GraphModule, members: int, channels_last: bool) -> None:
        super().__init__(graph)
        self.members, self.channels_last = members, channels_last

    def call_function(self, target: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """One operation."""
        if target is operator.getitem:
            return args[0][args[1]]
        leaves, _ = tree_flatten((args, kwargs))
        if not any(isinstance(leaf, Wide) for leaf in leaves):
            return target(*args, **kwargs)
        rule: Rule | None = _RULES.get(target, _pointwise if torch.Tag.pointwise in target.tags else None)
        done = rule(self, target, *args, **kwargs) if rule else NotImplemented
        return _by_vmap(target, args, kwargs) if done is NotImplemented else done

    def outputs(self, *inputs: Any) -> list[Tensor]:
        """The members' outputs [M, ...]."""
        return [
            value.at(0) if isinstance(value, Wide) else value.expand(self.members, *value.shape)
            for value in self.run(*inputs, enable_io_processing=False)
        ]


def _by_vmap(target: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    leaves, spec = tree_flatten((args, kwargs))
    places = [place for place, leaf in enumerate(leaves) if isinstance(leaf, Wide)]

    def one(*tensors: Tensor) -> Any:
        given = list(leaves)
        for place, tensor in zip(places, tensors, strict=True):
            given[place] = tensor
        ordered, named = tree_unflatten(given, spec)
        return target(*ordered, **named)

    dims = tuple(leaves[place].dim for place in places)
    returned = torch.vmap(one, in_dims=dims)(*(leaves[place].tensor for place in places))
    return tree_map(lambda value: Wide(value, 0), returned)


def _pointwise(run: ForAll, target: Any, *args: Any, **kwargs: Any) -> Any:
    """One number from one number: where the members lie makes no difference, if they lie alike in all arguments."""
    tensors = [value for value in (*args, *kwargs.values()) if isinstance(value, (Wide, Tensor))]
    wide = [value for value in tensors if isinstance(value, Wide)]
    alike = len({(value.dim, value.tensor.dim()) for value in wide}) == 1
    if not alike or any(isinstance(value, (list, tuple)) for value in args):
        return NotImplemented
    before = wide[0].tensor.dim() - wide[0].dim  # so many last dimensions do not see where the members lie
    if any(isinstance(value, Tensor) and value.dim() >= before for value in tensors):
        return NotImplemented
    plain = [value.tensor if isinstance(value, Wide) else value for value in args]
    named = {key: value.tensor if isinstance(value, Wide) else value for key, value in kwargs.items()}
    return Wide(target(*plain, **named), wide[0].dim)


def _matrix(value: Wide | Tensor, members: int) -> Tensor:
    return value.at(0) if isinstance(value, Wide) else value.expand(members, *value.shape)


@_rule(aten.mm.default)
def _mm(run: ForAll, target: Any, left: Any, right: Any) -> Any:
    return Wide(torch.bmm(_matrix(left, run.members), _matrix(right, run.members)), 0)


def _few_outputs(left: Tensor, right: Tensor) -> bool:
    """Whether the transposed product is faster: measured on CPUs, for heads of few classes."""
    return left.device.type == "cpu" and right.shape[-1] <= 32 <= left.shape[-2]


@_rule(aten.addmm.default)
def _addmm(run: ForAll, target: Any, bias: Any, left: Any, right: Any, **scales: Any) -> Any:
    added = _matrix(bias, run.members)
    added = added.unsqueeze(1) if added.dim() == 2 else added
    factors = [_matrix(left, run.members), _matrix(right, run.members)]
    if _few_outputs(*factors):
        turned = [factor.transpose(1, 2) for factor in (added, *reversed(factors))]
        return Wide(torch.baddbmm(*turned, **scales).transpose(1, 2), 0)
    return Wide(torch.baddbmm(added, *factors, **scales), 0)


def _beside_channels(run: ForAll, image: Wide | Tensor) -> Tensor:
    """Images [N, C, ...] of all members as [N, M * C, ...]."""
    if isinstance(image, Wide):
        return image.at(1).flatten(1, 2)
    return image.unsqueeze(1).expand(-1, run.members, *image.shape[1:]).flatten(1, 2)


def _from_channels(run: ForAll, image: Tensor) -> Wide:
    return Wide(image.reshape(image.shape[0], run.members, -1, *image.shape[2:]), 1)


@_rule(aten.convolution.default)
def _convolution(run: ForAll, target: Any, image: Any, weight: Any, bias: Any, *options: Any) -> Any:
    *geometry, transposed, padding, groups = options
    if transposed or not isinstance(weight, Wide) or isinstance(bias, Tensor):
        return NotImplemented
    shared = not isinstance(image, Wide) and groups == 1
    images = image if shared else _beside_channels(run, image)
    if run.channels_last and images.dim() == 4:
        images = images.contiguous(memory_format=torch.channels_last)
    kernels, biases = weight.at(0).flatten(0, 1), None if bias is None else bias.at(0).flatten()
    groups = 1 if shared else groups * run.members
    convolved = target(images, kernels, biases, *geometry, False, padding, groups)
    if run.channels_last and convolved.dim() == 4:  # with one channel in, the layout was lost
        convolved = convolved.contiguous(memory_format=torch.channels_last)
    return _from_channels(run, convolved)


@_rule(aten.native_batch_norm.default, aten.cudnn_batch_norm.default, aten.miopen_batch_norm.default)
def _batch_norm(
    run: ForAll, target: Any, image: Any, weight: Any, bias: Any, mean: Any, variance: Any, *options: Any
) -> Any:
    weights = (weight, bias, mean, variance)
    if any(isinstance(each, Tensor) for each in weights):
        return NotImplemented
    flat = [None if each is None else each.at(0).flatten() for each in weights]
    returned = target(_beside_channels(run, image), *flat, *options)
    return (_from_channels(run, returned[0]), *returned[1:])


@_rule(
    aten.max_pool2d_with_indices.default, aten.avg_pool2d.default, aten._adaptive_avg_pool2d.default,
    aten.upsample_nearest2d.default, aten.upsample_bilinear2d.default,
)  # fmt: skip
def _pool(run: ForAll, target: Any, image: Wide, *options: Any, **named: Any) -> Any:
    if len(image.shape) != 4:
        return NotImplemented
    returned = target(_beside_channels(run, image), *options, **named)
    return tree_map(lambda value: _from_channels(run, value), returned)


@_rule(aten.mean.dim)
def _mean(run: ForAll, target: Any, image: Wide, dims: list[int], keep: bool = False, **named: Any) -> Any:
    rank = len(image.shape)
    shifted = [dim % rank + (dim % rank >= image.dim) for dim in dims]
    if not dims or any(dim <= image.dim for dim in shifted):
        return NotImplemented
    return Wide(target(image.tensor, shifted, keep, **named), image.dim)


@_rule(aten.view.default, aten._unsafe_view.default)
def _view(run: ForAll, target: Any, value: Wide, size: list[int]) -> Any:
    if value.dim == 1 and size[:1] == value.shape[:1]:
        return Wide(value.tensor.reshape([size[0], run.members, *size[1:]]), 1)
    return Wide(value.at(0).reshape([run.members, *size]), 0)
