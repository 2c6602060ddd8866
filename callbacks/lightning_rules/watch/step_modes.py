"""In which modes the layers run that do one thing in training and another in evaluation."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass, field
from itertools import chain
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from lightning_rules.compiled_code import is_compiled, is_compiled_function
from lightning_rules.hidden_parts import named_parts, sensitive

# They take another way through their kernels in evaluation mode when a hook stands on them or on a part of theirs.
FAST_PATHS = (nn.TransformerEncoder, nn.TransformerEncoderLayer, nn.MultiheadAttention)


@dataclass(frozen=True, eq=False)
class Layer:
    """A layer whose mode matters.

    Attributes:
        name: Where it is.
        part: The layer.
        around: The module that holds it.
        hooked: Whether a hook may see it run; else its flag is read before and after the step.
    """

    name: str
    part: nn.Module
    around: nn.Module
    hooked: bool


@dataclass
class Ran:
    """How a layer ran in a step.

    Attributes:
        training: Whether it ever ran in training mode.
        evaluation: Whether it ever ran in evaluation mode, with gradients on.
    """

    training: bool = False
    evaluation: bool = False


@dataclass
class _Note:
    """A hook that writes down a layer's mode; plain, so that the module can be pickled and copied under way."""

    ran: Ran = field(default_factory=Ran)
    called: bool = False

    def __call__(self, part: nn.Module, inputs: Any) -> None:
        self.called = True
        self.ran.training |= part.training
        self.ran.evaluation |= not part.training and torch.is_grad_enabled()


class StepModes:
    """The modes of a module's layers while a step runs; costs a microsecond a layer.

    Args:
        module: The LightningModule. Layers are those it has now.
        closed: Parts that bear no hook, from :func:`closed_to_hooks`.
    """

    def __init__(self, module: nn.Module, closed: Collection[nn.Module]) -> None:
        parts = dict(named_parts(module))
        self.layers = [
            Layer(name, part, parts.get(name.rpartition(".")[0], module), part not in closed)
            for name, part in parts.items()
            if sensitive(part) and (part not in closed or "[" not in name)
        ]
        self._notes: list[_Note] = []
        self._handles: list[RemovableHandle] = []

    def attach(self) -> None:
        """Begin to look: a step is about to run."""
        self.detach()
        self._notes = [_Note() for _ in self.layers]
        for layer, note in zip(self.layers, self._notes, strict=True):
            if layer.hooked:
                self._handles.append(layer.part.register_forward_pre_hook(note))
            else:
                note.ran.training = layer.part.training

    def detach(self) -> list[tuple[Layer, Ran]]:
        """Take the hooks off; the layers that have run since :meth:`attach`, and how."""
        for handle in self._handles:
            handle.remove()
        seen = list(zip(self.layers, self._notes, strict=True)) if self._notes else []
        self._notes, self._handles = [], []
        for layer, note in seen:
            if not layer.hooked:
                note.called = True
                note.ran.training |= layer.part.training
                note.ran.evaluation = not note.ran.training
        return [(layer, note.ran) for layer, note in seen if note.called]


class RecordedGraph:
    """Whether layers record a graph for gradients while a step runs, and whether a gradient is taken through it.

    Args:
        module: The LightningModule.
        closed: Parts that bear no hook, from :func:`closed_to_hooks`.
    """

    def __init__(self, module: nn.Module, closed: Collection[nn.Module]) -> None:
        self._parts = [part for part in module.modules() if part._parameters and part not in closed]
        self._handles: list[RemovableHandle] = []
        self.recorded = False
        self.used = False

    def attach(self) -> None:
        """Begin to look."""
        self.detach()
        self.recorded = self.used = False
        self._handles = [part.register_forward_hook(self._look) for part in self._parts]

    def detach(self) -> None:
        """Take the hooks off."""
        for handle in self._handles:
            handle.remove()
        self._handles = []

    def _look(self, part: nn.Module, inputs: Any, output: Any) -> None:
        if isinstance(output, Tensor) and output.requires_grad:
            self.recorded = True
            output.register_hook(self._use)  # type: ignore[no-untyped-call]

    def _use(self, gradient: Tensor) -> None:
        self.used = True


def closed_to_hooks(module: nn.Module) -> set[nn.Module]:
    """Parts on which a hook would change how they compute, or make them compile anew."""
    closing = (part for _, part in named_parts(module) if _closes(part))
    return {below for part in closing for below in part.modules()}


def _closes(part: nn.Module) -> bool:
    return isinstance(part, FAST_PATHS) or is_compiled(part) or any(map(is_compiled_function, _own_values(part)))


def _own_values(part: nn.Module) -> Iterator[Any]:
    own = (
        base for base in type(part).__mro__ if not base.__module__.startswith(("torch.nn", "builtins", "lightning."))
    )
    return chain(vars(part).values(), *(vars(base).values() for base in own))
