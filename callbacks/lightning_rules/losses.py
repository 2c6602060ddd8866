"""What a training step computes its loss from: each call of a loss function, and the layer that feeds it.

The calls are seen while the user's own ``training_step`` runs, through torch's function mode: no source is read, no
name is guessed, and a module that computes its loss in any place is understood as long as it uses torch's functions.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

Kind = Literal["softmax", "sigmoid", "mean", "median"]

# The constant output that is best for each loss is a log prior, a logit of base rates, a mean or a median.
KINDS: dict[Any, Kind] = {
    F.cross_entropy: "softmax",
    F.nll_loss: "softmax",
    F.binary_cross_entropy_with_logits: "sigmoid",
    F.multilabel_soft_margin_loss: "sigmoid",
    F.binary_cross_entropy: "sigmoid",
    F.mse_loss: "mean",
    F.l1_loss: "median",
    F.smooth_l1_loss: "median",
    F.huber_loss: "median",
}
# These are given (log) probabilities, so that a squashing node stands between the layer and the loss.
SQUASHED = {F.nll_loss: "LogSoftmax", F.binary_cross_entropy: "Sigmoid"}
# Nodes of the autograd graph that move values about and do not change them.
MOVES = (
    "View",
    "UnsafeView",
    "Reshape",
    "Squeeze",
    "Unsqueeze",
    "Transpose",
    "T",
    "Permute",
    "Slice",
    "Select",
    "Expand",
    "ToCopy",
    "Clone",
    "Alias",
    "Flatten",
    "Unfold",
    "Index",
    "IndexSelect",
    "MaskedSelect",
    "AsStrided",
)


@dataclass(frozen=True)
class Head:
    """The layer whose output reaches a loss unchanged but for its shape.

    Attributes:
        name: Its path in the module: ``"net.fc"``.
        layer: The layer itself.
        passes: Names of the autograd nodes between the layer and the loss function, nearest to the loss first.
    """

    name: str
    layer: nn.Module
    passes: tuple[str, ...] = ()

    @property
    def bias(self) -> Tensor | None:
        """The bias parameter, shape ``[outputs]``, or None."""
        bias = getattr(self.layer, "bias", None)
        return bias if isinstance(bias, Tensor) else None


@dataclass(frozen=True, eq=False)
class LossCall:
    """One call of a loss function within a training step.

    Attributes:
        function: The function of ``torch.nn.functional``.
        arguments: Its arguments by name, defaults filled in.
        value: What it returned, within the graph.
        layers: The modules that ran, by the autograd node of their output.
    """

    function: Any
    arguments: dict[str, Any]
    value: Tensor
    layers: dict[Any, tuple[str, nn.Module]] = field(repr=False)

    @property
    def kind(self) -> Kind:
        """Which constant minimises this loss."""
        return KINDS[self.function]

    @property
    def name(self) -> str:
        """The function's name, as torch has it."""
        return str(self.function.__name__)

    @property
    def output(self) -> Tensor:
        """What the network gave the loss: logits, log probabilities, probabilities or values."""
        return self.arguments["input"]  # type: ignore[no-any-return]

    @property
    def target(self) -> Tensor:
        """What it is compared with."""
        return self.arguments["target"]  # type: ignore[no-any-return]

    @property
    def class_dim(self) -> int:
        """The dimension of ``output`` that counts classes or outputs."""
        return 1 if self.output.dim() > 1 else 0

    @cached_property
    def head(self) -> Head | None:
        """The layer that makes the output, or None where something other than a change of shape lies between."""
        allowed = (*MOVES, SQUASHED.get(self.function, "nothing"))
        node, passes = self.output.grad_fn, []
        while node is not None and node not in self.layers:
            name = node.name().partition("Backward")[0]
            inputs = [above for above, _ in node.next_functions if above is not None]
            if name not in allowed or len(inputs) != 1:
                return None
            passes.append(name)
            node = inputs[0]
        squashed = SQUASHED.get(self.function)
        if node is None or (squashed and squashed not in passes):
            return None
        name, layer = self.layers[node]
        return Head(name, layer, tuple(passes))

    def as_target(self, values: Tensor) -> Tensor | None:
        """Labels of any number of examples in the shape and type of this loss's targets, on the host.

        Returns:
            None where no simple change makes them so.
        """
        values, shape = values.detach().cpu(), self.target.shape
        if self.is_one_hot_of(values) and 0 <= int(values.min()) <= int(values.max()) < shape[1]:
            return F.one_hot(values.long(), shape[1]).to(self.target.dtype)
        width = math.prod(shape[1:])
        if self.target.dim() == 0 or values.numel() % max(1, width):
            return None
        return values.reshape(-1, *shape[1:]).to(self.target.dtype)

    def is_one_hot_of(self, values: Tensor) -> bool:
        """Whether the targets are rows of several columns, and the values what such rows are made of: class indices."""
        soft = self.target.is_floating_point() and self.target.dim() == 2 and self.target.shape[1] > 1
        return soft and not values.is_floating_point() and values.dim() == 1 and values.numel() > 0

    def is_target(self, leaf: Tensor) -> bool:
        """Whether a part of the batch is what this loss was given as its targets, but for shape and type."""
        if leaf.numel() == 0:
            return False
        target = self.as_target(leaf)
        return (
            target is not None and target.shape == self.target.shape and torch.equal(target, self.target.detach().cpu())
        )

    def loss_of(self, output: Tensor) -> Tensor:
        """The same loss, of another output, for each element apart (``reduction="none"``)."""
        arguments = {**self.arguments, "input": output, "reduction": "none"}
        for outdated in ("size_average", "reduce"):
            arguments.pop(outdated, None)
        loss: Tensor = self.function(**arguments)
        return loss


class _SeeLosses(TorchFunctionMode):
    """Records the calls of loss functions whose output has a gradient to give."""

    def __init__(self, layers: dict[Any, tuple[str, nn.Module]]) -> None:
        super().__init__()
        self.layers = layers
        self.calls: list[LossCall] = []

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        value = func(*args, **(kwargs or {}))
        if func in KINDS and isinstance(value, Tensor) and value.requires_grad:
            bound = inspect.signature(func).bind(*args, **(kwargs or {}))
            bound.apply_defaults()
            self.calls.append(LossCall(func, dict(bound.arguments), value, self.layers))
        return value


@contextmanager
def seen_losses(module: nn.Module) -> Iterator[list[LossCall]]:
    """Record the loss calls made inside the block, and which layers of ``module`` made what they were given.

    Compiled modules run eagerly inside the block, since hooks and modes do not see into compiled code.

    Yields:
        The list that fills while the block runs. Its entries hold the graph: drop them soon.
    """
    layers: dict[Any, tuple[str, nn.Module]] = {}

    def remember(name: str) -> Any:
        def hook(layer: nn.Module, inputs: Any, output: Any) -> None:
            if isinstance(output, Tensor) and output.grad_fn is not None:
                layers.setdefault(output.grad_fn, (name, layer))

        return hook

    weighted = [(name, part) for name, part in module.named_modules() if part._parameters]
    handles = [part.register_forward_hook(remember(name)) for name, part in weighted]
    mode = _SeeLosses(layers)
    try:
        with torch.compiler.set_stance("force_eager"), mode:
            yield mode.calls
    finally:
        for handle in handles:
            handle.remove()
