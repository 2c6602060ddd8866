"""What one training step does to the values that pass through the network, seen by hooks and a function mode."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves

from lightning_rules.activation_functions import FUNCTIONS, MODULES, SOFTMAXES, Activation
from lightning_rules.losses import KINDS
from lightning_rules.watch.value_samples import VALUES, by_unit, is_dense_float, thinned, value_range

FEW = 1 << 13  # of a layer's output
CALLS = 8  # of one activation in a step that are told apart; later ones are not looked at
PLACES = 128
LAYERS = 256
CERTAIN = 0.99  # of a softmax's mass on one place


class Place(NamedTuple):
    """Where an activation is called.

    Attributes:
        name: The module in whose ``forward`` it is called; "" for the LightningModule's own.
        label: The function's name: ``"ReLU"``.
        call: Its how many-eth call there in a step, from 0.
    """

    name: str
    label: str
    call: int


@dataclass
class StepSeen:
    """What was seen of a step; tensors are small, and on their device.

    Attributes:
        units: For each activation, a place with the function, what its inputs look like by unit, and how many layers
            had run before it. For functions with a floor it is the unit's largest input, for those with two ends the
            share of its inputs that are saturated, for a softmax the share of its rows that put all on one place.
        examples: For each activation the size of its first dimension.
        layers: Names of the layers that ran, in order, each once.
        sizes: The root mean square of each layer's output.
        outputs: For each loss call its name, whether outputs are values in the targets' unit, and the range over the
            examples of outputs and of targets.
        inputs: A sample of the inputs of each activation, ``[units, values]``, where histograms are wanted.
        loss: What ``training_step`` returned as the loss; None where it returned none.
    """

    units: dict[Place, tuple[Activation, Tensor, int]] = field(default_factory=dict)
    examples: dict[Place, int] = field(default_factory=dict)
    layers: dict[str, bool] = field(default_factory=dict)
    sizes: list[Tensor] = field(default_factory=list)
    outputs: dict[str, tuple[bool, Tensor, Tensor]] = field(default_factory=dict)
    inputs: dict[Place, Tensor] = field(default_factory=dict)
    loss: Tensor | None = None


SOFTMAX = Activation("softmax")


class StepWatch(TorchFunctionMode):
    """Sees the activations, layers and losses of one step; changes nothing, and keeps no graph.

    Args:
        parts: The modules that hooks are put on, by name.
        functions: Whether functions are seen too; else activations that are modules alone.
        turn: Which of the places of a large map are looked at; another one at each step.
        keep_inputs: Whether samples of the activations' inputs are wanted.

    Attributes:
        seen: What was seen.
        failure: The exception that ended the watching, which goes on in the step no further; None for none.
    """

    def __init__(self, parts: Sequence[tuple[str, nn.Module]], functions: bool, turn: int, keep_inputs: bool) -> None:
        super().__init__()
        self.parts = parts
        self.functions = functions
        self.turn = turn
        self.keep_inputs = keep_inputs
        self.seen = StepSeen()
        self.failure: Exception | None = None
        self._inside: list[str] = []
        self._calls: dict[tuple[str, str], int] = {}
        self._units_last = False

    @contextmanager
    def watching(self) -> Iterator[None]:
        """See what runs inside the block."""
        handles = []
        try:
            for name, part in self.parts:
                handles.append(part.register_forward_pre_hook(_Enter(self, name)))
                handles.append(part.register_forward_hook(_Leave(self, name)))
            if self.functions:
                with self:
                    yield
            else:
                yield
        finally:
            for handle in handles:
                handle.remove()

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        kind = FUNCTIONS.get(func)
        if kind is not None:  # before it runs: it may write in place
            self._try(self._activation, kind, args[0] if args else kwargs.get("input"))
        value = func(*args, **kwargs)
        if func in KINDS:
            self._try(self._loss_call, func, *_first_two(args, kwargs))
        elif func in SOFTMAXES:
            self._try(self._softmax, value, args[1] if len(args) > 1 else kwargs.get("dim"))
        return value

    def enter(self, name: str, part: nn.Module, args: Any) -> None:
        """A part begins to run."""
        self._inside.append(name)
        if not self.functions and args and type(part) in MODULES:
            self._try(self._activation, MODULES[type(part)], args[0])

    def leave(self, name: str, part: nn.Module, output: Any) -> None:
        """A part has run."""
        while self._inside and self._inside.pop() != name:
            pass
        if part._parameters and name not in self.seen.layers and len(self.seen.layers) < LAYERS:
            self._try(self._layer, name, part, output)

    def _try(self, measure: Any, *arguments: Any) -> None:
        """Measure outside of backward, where what was seen already runs again; a failure must not reach the step."""
        if self.failure is None and torch._C._current_graph_task_id() == -1:
            try:
                with torch._C.DisableTorchFunction():
                    measure(*arguments)
            except Exception as error:
                self.failure = error

    def _layer(self, name: str, part: nn.Module, output: Any) -> None:
        value = output if isinstance(output, Tensor) else next(iter(tree_leaves(output)), None)
        if not isinstance(value, Tensor) or not is_dense_float(value):
            return
        weight = max((parameter.dim() for parameter in part._parameters.values() if parameter is not None), default=0)
        maps = weight >= 2 and not isinstance(part, (nn.Embedding, nn.EmbeddingBag))
        if maps:
            self._units_last = not isinstance(part, nn.modules.conv._ConvNd)
        few = thinned(value.detach(), FEW, self.turn)
        self.seen.layers[name] = maps
        self.seen.sizes.append(torch.linalg.vector_norm(few.float()) / few.numel() ** 0.5)

    def _activation(self, kind: Activation, given: Any) -> None:
        place = self._place(kind)
        if place is None or not is_dense_float(given) or given.dim() < 2:
            return
        if given.dim() >= 4 and not self._units_last and given.shape[2:].numel() == 1:
            return  # a gate of whole maps, such as squeeze and excitation
        few = by_unit(given.detach(), -1 if self._units_last else 1, self.turn)
        if kind.floor is not None:
            numbers = few.amax(1)
        else:
            assert kind.ends is not None
            numbers = (few.abs() > kind.ends).mean(1, dtype=torch.float32)
        self.seen.units[place] = (kind, numbers.float(), len(self.seen.layers))
        self.seen.examples[place] = given.shape[0]
        if self.keep_inputs:
            self.seen.inputs[place] = few.clone() if few.numel() <= FEW else few[:, :: few.numel() // FEW].clone()

    def _softmax(self, value: Any, dim: Any) -> None:
        place = self._place(SOFTMAX)
        if place is None or not is_dense_float(value) or value.dim() < 3 or not isinstance(dim, int):
            return
        rows = thinned(value.detach().movedim(dim, -1), VALUES, self.turn, keep=1)
        self.seen.units[place] = (SOFTMAX, (rows.amax(-1) > CERTAIN).float().mean().reshape(1), len(self.seen.layers))
        self.seen.examples[place] = value.shape[0]

    def _place(self, kind: Activation) -> Place | None:
        name = self._inside[-1] if self._inside else ""
        call = self._calls.get((name, kind.label), 0)
        self._calls[name, kind.label] = call + 1
        return Place(name, kind.label, call) if call < CALLS and len(self.seen.units) < PLACES else None

    def _loss_call(self, func: Any, output: Any, target: Any) -> None:
        if not (is_dense_float(output) and isinstance(target, Tensor)) or not output.requires_grad or len(output) < 2:
            return
        if func.__name__ in self.seen.outputs:  # the first call of each says enough
            return
        wide = output.dim() > 1
        spread = value_range(output.detach(), 1 if wide else -1, self.turn)
        same = target.shape == output.shape and target.dim() > 1
        self.seen.outputs[func.__name__] = (
            KINDS[func] in ("mean", "median"),
            spread,
            value_range(target.detach(), 1 if same else -1, self.turn),
        )


class _Hook:
    """A hook that stays behind when the module is copied or pickled within the step."""

    def __init__(self, watch: StepWatch, name: str) -> None:
        self.watch, self.name = watch, name

    def __reduce__(self) -> Any:
        return _no_hook, ()


class _Enter(_Hook):
    """A forward pre-hook."""

    def __call__(self, part: nn.Module, args: Any) -> None:
        self.watch.enter(self.name, part, args)


class _Leave(_Hook):
    """A forward hook."""

    def __call__(self, part: nn.Module, args: Any, output: Any) -> None:
        self.watch.leave(self.name, part, output)


def _no_hook() -> Any:
    return _nothing


def _nothing(*args: Any) -> None:
    """In place of a hook in a copy."""


def loss_in(returned: Any) -> Tensor | None:
    """The loss in what ``training_step`` returned, out of its graph."""
    loss = returned.get("loss") if isinstance(returned, Mapping) else returned
    return loss.detach().float() if isinstance(loss, Tensor) and loss.numel() == 1 else None


def _first_two(args: Any, kwargs: Mapping[str, Any]) -> tuple[Any, Any]:
    given = [*args[:2], *(kwargs[name] for name in ("input", "target")[len(args[:2]) :] if name in kwargs)]
    return (given[0], given[1]) if len(given) == 2 else (None, None)


class WatchedStep:
    """Stands in for a module's ``training_step`` once, so that nothing else of the run is seen.

    Args:
        module: The LightningModule; it has its own method back as soon as this is called.
        watch: What sees the step.
    """

    def __init__(self, module: Any, watch: StepWatch) -> None:
        self.module = module
        self.watch = watch
        self._instance_has = "training_step" in module.__dict__
        self._step = module.training_step
        functools.update_wrapper(self, self._step)  # for those that ask for its signature
        module.__dict__["training_step"] = self

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """The step itself, watched."""
        self.remove()
        with self.watch.watching():
            returned = self._step(*args, **kwargs)
        self.watch.seen.loss = loss_in(returned)
        return returned

    def remove(self) -> None:
        """Give the module its own method back."""
        if self.module.__dict__.get("training_step") is not self:
            return
        if self._instance_has:
            self.module.__dict__["training_step"] = self._step
        else:
            del self.module.__dict__["training_step"]
