"""What one member computes, as a graph of torch's core operations, or why that cannot be had."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.func import functional_call, functionalize
from torch.fx.experimental.proxy_tensor import make_fx
from torch.utils._pytree import TreeSpec, tree_flatten, tree_unflatten

from lightning_rules.combine.recurrent_steps import Stepwise

aten = torch.ops.aten
_RECURRENT = (aten.gru.input, aten.rnn_tanh.input, aten.rnn_relu.input)


class CannotTrace(Exception):
    """Why a member's computation cannot be had as a graph; the message is half a sentence."""


def tensors_in(value: Any) -> list[Tensor]:
    """The tensors in nested tuples, lists and dicts, in order."""
    if isinstance(value, Tensor):
        return [value]
    parts = value.values() if isinstance(value, dict) else value if isinstance(value, (tuple, list)) else ()
    return [tensor for part in parts for tensor in tensors_in(part)]


def trace_member(
    member: nn.Module, names: Sequence[str], args: tuple[Any, ...], kwargs: dict[str, Any]
) -> tuple[fx.GraphModule, TreeSpec]:
    """The graph of a member's ``forward``, without side effects, and the structure of what it returns.

    Placeholders are the weights, in the order of their names, and the tensors of the arguments. Nothing is computed:
    tensors are stand-ins without values, so that a ``forward`` that looks at values is refused.

    Raises:
        CannotTrace: ``forward`` depends on the values of tensors, writes into weights or inputs, or does what cannot
            be traced.
    """
    leaves, spec = tree_flatten((args, kwargs))
    places = [number for number, leaf in enumerate(leaves) if isinstance(leaf, Tensor)]
    skeleton, returned = _skeleton(member, {}), []

    def forward(*tensors: Tensor) -> list[Tensor]:
        inputs = list(leaves)
        for place, tensor in zip(places, tensors[len(names) :], strict=True):
            inputs[place] = tensor
        given, named = tree_unflatten(inputs, spec)
        weights = dict(zip(names, tensors[: len(names)], strict=True))
        outputs, structure = tree_flatten(functional_call(skeleton, weights, given, named))
        returned.append(structure)
        if not all(isinstance(output, Tensor) for output in outputs):
            raise CannotTrace("`forward` returns more than tensors")
        return outputs

    held = dict(member.named_parameters()) | dict(member.named_buffers())
    examples = [like(held[name]) for name in names] + [like(leaves[place]) for place in places]
    # Without oneDNN recurrent layers are taken apart into steps, which can be run for all members at once.
    with torch.backends.mkldnn.flags(enabled=False), Stepwise():
        graph = traced(functionalize(forward), examples, _decompositions())
    if any(node.target is aten.copy_.default and node.args[0].op == "placeholder" for node in graph.graph.nodes):
        raise CannotTrace("`forward` writes into weights, buffers or inputs")
    return graph, returned[-1]


def traced(function: Callable[..., Any], examples: Sequence[Tensor], decompositions: Any = None) -> fx.GraphModule:
    """The graph of a function of tensors; only shapes, types, strides and devices of the examples matter.

    Raises:
        CannotTrace: The function does what cannot be traced.
    """
    try:
        with torch.inference_mode(False), torch.no_grad(), _silent_fx():
            graph = make_fx(function, decomposition_table=decompositions, tracing_mode="fake")(*examples)
    except CannotTrace:
        raise
    except Exception as error:
        reason = str(error).strip().partition("\n")[0]
        raise CannotTrace(f"`forward` cannot be traced: {type(error).__name__}: {reason[:200]}") from error
    graph.graph.eliminate_dead_code()
    return graph


def like(tensor: Tensor) -> Tensor:
    """A tensor of the same shape, strides, type and device, with any values."""
    with torch.inference_mode(False):
        return torch.empty_strided(tensor.shape, tensor.stride(), dtype=tensor.dtype, device=tensor.device)


def _decompositions() -> Any:
    from torch._decomp import get_decompositions

    return get_decompositions(_RECURRENT)


@contextlib.contextmanager
def _silent_fx() -> Iterator[None]:
    """Tracing reports failures by exceptions and in the log; the exception is enough."""
    loggers = [logging.getLogger(name) for name in ("torch.fx", "torch._subclasses", "torch._functorch")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


def _skeleton(module: nn.Module, made: dict[int, nn.Module]) -> nn.Module:
    """The module's tree again, with the same tensors, so that what ``forward`` sets does not reach the member."""
    if id(module) in made:
        return made[id(module)]
    copied = made[id(module)] = object.__new__(type(module))
    copied.__dict__ = dict(vars(module))
    for name in ("_parameters", "_buffers"):
        copied.__dict__[name] = dict(vars(module)[name])
    children = vars(module)["_modules"]
    copied.__dict__["_modules"] = {
        name: None if child is None else _skeleton(child, made) for name, child in children.items()
    }
    return copied
