"""All members of one architecture in one call: their graph, run for stacked weights, without Python in between."""

from __future__ import annotations

import operator
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.utils._pytree import tree_unflatten

from lightning_rules.combine.member_graph import like, tensors_in, trace_member, traced
from lightning_rules.combine.wide_operations import ForAll, Wide

aten = torch.ops.aten
_RESHAPES = (aten.view.default, aten._unsafe_view.default)
_FRESH = (aten.baddbmm.default, aten.bmm.default, aten.add.Tensor, aten.convolution.default)
# What Python can call at less cost than the operation's own object, with the same arguments.
_SHORT = {
    aten.view.default: torch.reshape, aten._unsafe_view.default: torch.reshape, aten.expand.default: Tensor.expand,
    aten.bmm.default: torch.bmm, aten.baddbmm.default: torch.baddbmm, aten.mm.default: torch.mm,
    aten.addmm.default: torch.addmm, aten.add.Tensor: torch.add, aten.sub.Tensor: torch.sub,
    aten.mul.Tensor: torch.mul, aten.div.Tensor: torch.div, aten.relu.default: torch.relu,
    aten.tanh.default: torch.tanh, aten.sigmoid.default: torch.sigmoid, aten.transpose.int: torch.transpose,
    aten.permute.default: torch.permute, aten.unsqueeze.default: torch.unsqueeze, aten.select.int: torch.select,
    aten.convolution.default: torch.convolution, aten.native_batch_norm.default: torch.native_batch_norm,
    aten.addcmul.default: torch.addcmul, aten.neg.default: torch.neg, aten.split.Tensor: torch.unsafe_split,
    aten.cat.default: torch.cat, aten.stack.default: torch.stack,
}  # fmt: skip


def vectorise(
    member: nn.Module,
    stacked: dict[str, Tensor],
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    layouts: Sequence[bool] = (False, True),
) -> list[Callable[..., Any]]:
    """Functions of the same arguments that return what all members' ``forward`` return, stacked [M, ...].

    They hold for arguments of the same shapes, strides, types and devices, and other values of tensors only.

    Args:
        member: One of them.
        stacked: The weights of all, by name [M, ...]; the functions use them as they are at each call.
        args: Arguments of ``forward``.
        kwargs: Arguments by name.
        layouts: For each function, whether convolutions see images with channels last; those that would not differ
            are left out.

    Raises:
        CannotTrace: There is no such function.
    """
    names, members = list(stacked), len(next(iter(stacked.values())))
    graph, structure = trace_member(member, names, args, kwargs)
    convolves = any(node.target is aten.convolution.default for node in graph.graph.nodes)
    examples = [*stacked.values(), *map(like, tensors_in((args, kwargs)))]
    functions = []
    for channels_last in layouts if convolves else (False,):
        run = ForAll(graph, members, channels_last)
        wide = traced(lambda *tensors, run=run: run.outputs(*_wide(tensors, len(names))), examples)
        module, constants = _compiled(wide.graph, list(stacked.values()))
        plain = not kwargs and all(isinstance(each, Tensor) for each in args)
        functions.append(_callable(module.forward, constants, plain, structure))
    return functions


def _wide(tensors: Sequence[Tensor], weights: int) -> list[Any]:
    return [Wide(tensor, 0) if number < weights else tensor for number, tensor in enumerate(tensors)]


def _callable(forward: Callable[..., Any], constants: list[Tensor], plain: bool, structure: Any) -> Callable[..., Any]:
    """Takes arguments as they are given, and returns them in the structure that they have."""
    single = structure.is_leaf()

    def call(*args: Any, **kwargs: Any) -> Any:
        outputs = forward(*constants, *(args if plain else tensors_in((args, kwargs))))
        return outputs[0] if single else tree_unflatten(outputs, structure)

    return call


def _compiled(graph: fx.Graph, weights: list[Tensor]) -> tuple[fx.GraphModule, list[Tensor]]:
    """The graph without views of weights, which are made once, and those views: its first arguments."""
    _drop_idle(graph)
    known = _views(graph, weights)
    used = [node for node in known if any(user not in known for user in node.users)]
    constants = [node for node in used if isinstance(known[node], Tensor)]
    shorter = fx.Graph()
    copies = {node: shorter.placeholder(f"constant_{number}") for number, node in enumerate(constants)}
    for node in graph.nodes:
        if node not in known:
            copies[node] = shorter.node_copy(node, copies.__getitem__)
            copies[node].target = torch.relu_ if _may_overwrite(node) else _SHORT.get(node.target, node.target)
    module = fx.GraphModule(nn.Module(), shorter)
    return module, [known[node] for node in constants]


def _drop_idle(graph: fx.Graph) -> None:
    """Leave out views that change nothing, and the first of two that follow one another."""
    for node in graph.nodes:
        if node.target not in (*_RESHAPES, aten.expand.default):
            continue
        source = node.args[0]
        if node.target in _RESHAPES and source.target in _RESHAPES:
            source = source.args[0]
            node.args = (source, *node.args[1:])
        if node.meta["val"].shape == source.meta["val"].shape:
            node.replace_all_uses_with(source)
    graph.eliminate_dead_code()


def _views(graph: fx.Graph, weights: list[Tensor]) -> dict[fx.Node, Any]:
    """The nodes that only look at weights in another way, and what they are."""
    placeholders = [node for node in graph.nodes if node.op == "placeholder"]
    known: dict[fx.Node, Any] = dict(zip(placeholders[: len(weights)], weights, strict=True))
    for node in graph.nodes:
        sources = node.all_input_nodes if node.op == "call_function" else []
        if sources and all(source in known for source in sources) and _only_looks(node.target):
            known[node] = node.target(*fx.node.map_arg(node.args, known.__getitem__), **node.kwargs)
    return known


def _may_overwrite(node: fx.Node) -> bool:
    """Whether a ReLU is the only one to see a tensor that was just computed."""
    source = node.args[0] if node.target is aten.relu.default else None
    return isinstance(source, fx.Node) and source.target in _FRESH and len(source.users) == 1


def _only_looks(operation: Any) -> bool:
    """Whether an operation returns its argument's memory, seen in another way."""
    if operation is operator.getitem:
        return True
    returned = operation._schema.returns[0].alias_info
    return returned is not None and not returned.is_write
