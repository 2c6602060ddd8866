"""The layers of a network in the order in which they run, what feeds each, and the size of what it gives."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from lightning_rules.losses import MOVES
from lightning_rules.preflight.function_calls import WatchFunctions

DROPS = ("NativeDropout",)
BATCH_NORMS = (nn.modules.batchnorm._BatchNorm,)


@dataclass(frozen=True, eq=False)
class LayerRun:
    """One run of a layer: a module with parameters of its own, or without submodules.

    Attributes:
        name: Its path in the module: ``"net.0"``.
        module: The layer.
        inputs: Shape of its first tensor; None where it got none.
        outputs: Shape of the first tensor it gave; None where it gave none.
        node: Name of the autograd node of its output, without "Backward0"; "" where it has no gradient.
        source: The layer with parameters whose output it got unchanged but for its shape; None where there is none.
        source_node: Name of the node that made its input, changes of shape left aside; "" where it has no gradient.
        recurs: Whether this is a batch norm whose input depends on what it gave before in the same step.
        readers: How many operations read its output on the way to the losses.
        after_dropout: Whether its input came straight out of a dropout.
        training: Whether it ran in training mode.
        input_rms: Root mean square of its first input; NaN where that is not of floating point.
        rms: Root mean square of its output; NaN where that is not of floating point.
        spread: Root mean square of the output's deviations from the mean over its first dimension.
        finite: Whether input and output are finite.
    """

    name: str
    module: nn.Module
    inputs: tuple[int, ...] | None
    outputs: tuple[int, ...] | None
    node: str = ""
    source: str | None = None
    source_node: str = ""
    readers: int = 0
    recurs: bool = False
    after_dropout: bool = False
    training: bool = True
    input_rms: float = float("nan")
    rms: float = float("nan")
    spread: float = float("nan")
    finite: tuple[bool, bool] = (True, True)


@dataclass
class LayersSeen:
    """The runs so far, with the graph that they belong to; dropped when the step ends.

    Attributes:
        runs: In order.
        nodes: For each run the autograd node of its output.
        befores: For each run the node of its input.
        numbers: For each run the statistics of input and output, on their device.
        made: The layers by the node of what they gave.
        branches: How many values are read more than once on the way to the losses, parameters left aside; filled by
            :meth:`finished`.
    """

    runs: list[LayerRun] = field(default_factory=list)
    nodes: list[Any] = field(default_factory=list)
    numbers: list[Tensor] = field(default_factory=list)
    made: dict[Any, str] = field(default_factory=dict)
    befores: list[Any] = field(default_factory=list)
    branches: int = 0

    def finished(self, losses: list[Tensor]) -> tuple[LayerRun, ...]:
        """The runs with their numbers on the host and how many operations read each."""
        readers = _readers(losses)
        self.branches = sum(count > 1 and not _is_parameter(node) for node, count in readers.items())
        done = []
        for place, (run, node, numbers) in enumerate(zip(self.runs, self.nodes, self.numbers, strict=True)):
            input_rms, rms, spread, input_finite, finite = numbers.tolist()
            seen = {"input_rms": input_rms, "rms": rms, "spread": spread, "finite": (bool(input_finite), bool(finite))}
            done.append(replace(run, readers=readers.get(node, 0), recurs=self._recurs(place), **seen))
        return tuple(done)

    def _recurs(self, place: int) -> bool:
        """Whether a batch norm's input depends on what the same batch norm gave before."""
        run = self.runs[place]
        if not isinstance(run.module, BATCH_NORMS):
            return False
        earlier = {node for before, node in zip(self.runs[:place], self.nodes, strict=False) if before.name == run.name}
        return bool(earlier) and not earlier.isdisjoint(_above(self.befores[place]))


@contextmanager
def inside_modules(module: nn.Module, inside: list[str]) -> Iterator[None]:
    """Keep in a list the names of the modules whose ``forward`` is running, outermost first."""

    def leave(name: str) -> Any:
        def hook(part: nn.Module, args: Any, output: Any) -> None:
            if name in inside:
                del inside[len(inside) - 1 - inside[::-1].index(name) :]

        return hook

    handles = []
    for name, part in module.named_modules():
        handles.append(part.register_forward_pre_hook(lambda part, args, name=name: inside.append(name)))
        handles.append(part.register_forward_hook(leave(name), always_call=True))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


@contextmanager
def seen_layers(module: nn.Module, watch: WatchFunctions) -> Iterator[LayersSeen]:
    """Record the layers that run inside the block.

    Args:
        module: The module that holds them.
        watch: Told which module runs; tells which values came out of a dropout.
    """
    seen = LayersSeen()

    def record(name: str) -> Any:
        def hook(part: nn.Module, args: Any, output: Any) -> None:
            _record(seen, name, part, _first(args), _first(output), watch.dropped)

        return hook

    layers = [
        (n, part) for n, part in module.named_modules() if part._parameters or not any(True for _ in part.children())
    ]
    handles = [part.register_forward_hook(record(name)) for name, part in layers]
    try:
        with inside_modules(module, watch.inside):
            yield seen
    finally:
        for handle in handles:
            handle.remove()


def _first(values: Any) -> Tensor | None:
    if isinstance(values, Tensor):
        return values
    return next((value for value in tree_leaves(values) if isinstance(value, Tensor)), None)


def _record(
    seen: LayersSeen, name: str, part: nn.Module, given: Tensor | None, made: Tensor | None, dropped: set[Any]
) -> None:
    before = None if given is None else given.grad_fn
    source, source_node, passed = came_from(before, seen.made)
    node = None if made is None else made.grad_fn
    run = LayerRun(
        name,
        part,
        None if given is None else tuple(given.shape),
        None if made is None else tuple(made.shape),
        node=node_name(node),
        source=source,
        source_node=source_node,
        after_dropout=not dropped.isdisjoint(passed),
        training=part.training,
    )
    seen.runs.append(run)
    seen.nodes.append(node)
    seen.befores.append(before)
    with torch.no_grad():
        seen.numbers.append(_numbers(given, made))
    if node is not None and part._parameters and node is not before:
        seen.made.setdefault(node, name)


def came_from(node: Any, made: dict[Any, str]) -> tuple[str | None, str, list[Any]]:
    """Walk up the graph past changes of shape and dropout.

    Args:
        node: Where to begin; None for a value without gradient.
        made: Layers by the node of what they gave.

    Returns:
        The layer that it ends at, or None; the name of the node that it ends at; the nodes that it passed, this one
        included.
    """
    passed = []
    while node is not None:
        passed.append(node)
        if node in made:
            return made[node], node_name(node), passed
        above = [parent for parent, _ in node.next_functions if parent is not None]
        if node_name(node) not in (*MOVES, *DROPS) or len(above) != 1:
            return None, node_name(node), passed
        node = above[0]
    return None, "", passed


def node_name(node: Any) -> str:
    """An autograd node's name without "Backward0"; "" for none."""
    return "" if node is None else str(node.name()).partition("Backward")[0]


def _numbers(given: Tensor | None, made: Tensor | None) -> Tensor:
    """Root mean squares of input and output, the output's spread over its first dimension, and what is finite."""
    nothing = torch.tensor(float("nan"))
    floats = [_as_float(value) for value in (given, made)]
    rms = [nothing if value is None else value.square().mean().sqrt().cpu() for value in floats]
    finite = [torch.tensor(1.0) if value is None else value.isfinite().all().float().cpu() for value in floats]
    output = floats[1]
    spread = nothing if output is None else _spread(output).cpu()
    return torch.stack([*rms, spread, *finite])


def _spread(output: Tensor) -> Tensor:
    return output.var(dim=0, unbiased=False).mean().sqrt() if output.dim() > 1 else torch.tensor(float("nan"))


def _as_float(value: Tensor | None) -> Tensor | None:
    if value is None or not value.is_floating_point() or value.numel() == 0 or value.layout is not torch.strided:
        return None
    return value.detach().float()


def _readers(losses: list[Tensor]) -> dict[Any, int]:
    """How many nodes of the losses' graph read each node."""
    counted: dict[Any, int] = {}
    for node in _above(*(loss.grad_fn for loss in losses)):
        for parent, _ in node.next_functions:
            if parent is not None:
                counted[parent] = counted.get(parent, 0) + 1
    return counted


def _above(*nodes: Any) -> set[Any]:
    """These nodes and all that they come from."""
    seen = {node for node in nodes if node is not None}
    level = list(seen)
    while level:
        parents = {parent for node in level for parent, _ in node.next_functions if parent is not None}
        level = list(parents - seen)
        seen.update(level)
    return seen


def _is_parameter(node: Any) -> bool:
    """A parameter, or one that was only turned or cast on its way to a layer."""
    while node is not None and node_name(node) in MOVES:
        node = next((parent for parent, _ in node.next_functions if parent is not None), None)
    return node is None or "AccumulateGrad" in node.name()
