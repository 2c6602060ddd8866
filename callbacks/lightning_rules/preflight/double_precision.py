"""A module computed in double precision, in place of its own tensors, and the loss as a function of its parameters."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from lightning_utilities.core.apply_func import apply_to_collection
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from lightning_rules.rule import NotApplicable
from lightning_rules.short_training import loss_of
from lightning_rules.view import View

NORMS = (nn.modules.batchnorm._NormBase,)
NUDGE = 1e-2  # of a tensor's root mean square: off the exact zeros where ReLU has a kink and gates are shut
TYPICAL = 0.05  # the size of a parameter where the tensor itself, all zeros, does not say
STRAY = 1e-11  # relative difference of two evaluations at one point, above which the loss is no function of its inputs
FLOATS = (torch.float32, torch.float64)
LESS = (torch.float32, torch.float16, torch.bfloat16)
CASTS = (Tensor.float, Tensor.half, Tensor.bfloat16)


class LossFunction:
    """The loss of one training step as a function of parameters in double precision; the same at each call.

    Dropout is off, batch norm uses its running statistics, random numbers and buffers are the same at each call.

    Args:
        view: The run.
        lent: What ``view.on_loan()`` gave.
        batch: A batch on the host.
        parameters: The parameters in double precision, by name.
        state: The buffers in double precision, put back before each call.
    """

    def __init__(
        self, view: View, lent: list[Tensor], batch: Any, parameters: dict[str, Tensor], state: list[Tensor]
    ) -> None:
        self.parameters = parameters
        self.module = view.module
        self._view, self._lent = view, lent
        self._batch = apply_to_collection(batch, Tensor, _doubled)
        self._state = [(tensor, tensor.detach().clone()) for tensor in state]

    def loss(self) -> Tensor:
        """The loss within its graph.

        Raises:
            NotApplicable: The step gives no loss, or several.
        """
        with torch.no_grad():
            for tensor, value in self._state:
                tensor.copy_(value)
        _seed()
        return loss_of(self._view, self._lent, self._copied(), 0)

    def gradients(self) -> tuple[float, dict[str, Tensor | None]]:
        """The loss and the gradient of each parameter; None where the graph does not reach it."""
        for parameter in self.parameters.values():
            parameter.grad = None
        loss = self.loss()
        loss.backward()  # type: ignore[no-untyped-call]  # no hook of DDP is on the copies; checkpointing needs this
        found = {name: parameter.grad for name, parameter in self.parameters.items()}
        dense = {name: None if gradient is None else gradient.to_dense() for name, gradient in found.items()}
        return float(loss.detach()), dense

    def along(
        self, directions: dict[str, Tensor], value: Callable[[], float] | None = None
    ) -> Callable[[float], float]:
        """The loss as a function of how far some parameters have moved in a direction.

        Args:
            directions: For each parameter that moves, by name, where to.
            value: What to evaluate there in place of the loss.
        """
        origins = {name: self.parameters[name].detach().clone() for name in directions}

        def at(distance: float) -> float:
            try:
                with torch.no_grad():
                    for name, direction in directions.items():
                        self.parameters[name].copy_(origins[name] + distance * direction)
                return float(self.loss().detach()) if value is None else value()
            finally:
                with torch.no_grad():
                    for name, origin in origins.items():
                        self.parameters[name].copy_(origin)

        return at

    def direction(self, name: str, seed: int) -> Tensor:
        """A random direction for one parameter, of the parameter's own size; rows of padding stand still."""
        parameter = self.parameters[name]
        generator = torch.Generator().manual_seed(seed)
        noise = torch.randn(parameter.shape, generator=generator, dtype=torch.float64).to(parameter.device)
        for part in self.module.modules():
            if isinstance(part, nn.Embedding) and part.weight is parameter and part.padding_idx is not None:
                noise[part.padding_idx] = 0.0  # it has no gradient by design
        return size_of(parameter) * noise

    def require_same_twice(self) -> None:
        """Check that the loss is a function of its parameters.

        Raises:
            NotApplicable: Two evaluations at one point differ, or the loss is no double precision number.
        """
        if self.loss().dtype != torch.float64:
            raise NotApplicable("training_step computes its loss in less than double precision, whatever it is given.")
        first, second = float(self.loss().detach()), float(self.loss().detach())
        if abs(first - second) > STRAY * max(abs(first), abs(second)):
            raise NotApplicable(
                f"the loss at one point is {first:.10g}, then {second:.10g}: it depends on something that changes "
                "from call to call, such as a generator of its own."
            )

    def nudge(self) -> None:
        """Move all parameters a little, off exact zeros; not where the loss would no longer be finite."""
        generator = torch.Generator().manual_seed(1)
        origins = {name: parameter.detach().clone() for name, parameter in self.parameters.items()}
        with torch.no_grad():
            for parameter in self.parameters.values():
                noise = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
                parameter += NUDGE * size_of(parameter) * noise.to(parameter.device)
        if not np.isfinite(float(self.loss().detach())):
            with torch.no_grad():
                for name, origin in origins.items():
                    self.parameters[name].copy_(origin)

    def _copied(self) -> Any:
        return apply_to_collection(self._batch, Tensor, torch.clone)


class _StayDouble(TorchFunctionMode):
    """Code that asks for single or half precision by name gets double precision."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func in CASTS:
            return args[0].double()
        if func is not Tensor.view and any(value in LESS for value in (*args, *kwargs.values()) if _is_dtype(value)):
            args = tuple(torch.float64 if _is_dtype(value) and value in LESS else value for value in args)
            kwargs = {k: torch.float64 if _is_dtype(v) and v in LESS else v for k, v in kwargs.items()}
        return func(*args, **kwargs)


def _is_dtype(value: Any) -> bool:
    return isinstance(value, torch.dtype)


def size_of(parameter: Tensor) -> float:
    """The root mean square of a parameter, or what is usual where it is zero."""
    rms = float(parameter.detach().square().mean().sqrt())
    return rms if rms > 0 else TYPICAL


@contextmanager
def in_double(view: View, lent: list[Tensor], batch: Any) -> Iterator[LossFunction]:
    """Put double precision copies in the place of the module's parameters and buffers; afterwards the originals.

    The originals are only set aside, so that optimisers and the hooks of DDP hold on to them. For use on loan.

    Raises:
        NotApplicable: Parameters are neither single nor double precision.
    """
    module = view.module
    if any(isinstance(part, torch.jit.ScriptModule) for part in module.modules()):
        raise NotApplicable("the module holds TorchScript, whose parameters cannot be exchanged.")
    odd = next((p.dtype for p in module.parameters() if p.is_floating_point() and p.dtype not in FLOATS), None)
    if odd is not None:
        raise NotApplicable(f"a parameter is of type {odd}, and its rounding would hide the differences.")
    copies: dict[int, Tensor] = {}
    aside: list[tuple[dict[str, Any], dict[str, Any]]] = []
    default, modes = torch.get_default_dtype(), [(part, part.training) for part in module.modules()]
    try:
        for part in module.modules():
            for place in (part._parameters, part._buffers, part.__dict__):
                aside.append((place, dict(place)))
            _replace(part, copies)
            if isinstance(part, NORMS) or "Drop" in type(part).__name__:
                part.training = False
        parameters = {name: value for name, value in module.named_parameters() if value.requires_grad}
        leaves = {id(value) for value in module.parameters()}
        state = [value for value in copies.values() if id(value) not in leaves]
        torch.set_default_dtype(torch.float64)
        with torch.compiler.set_stance("force_eager"), _StayDouble():
            yield LossFunction(view, lent, batch, parameters, state)
    finally:
        torch.set_default_dtype(default)
        for place, held in reversed(aside):
            place.clear()
            place.update(held)
        for part, mode in modes:
            part.training = mode


def _replace(part: nn.Module, copies: dict[int, Tensor]) -> None:
    """Copies for the tensors of one module; a tensor that stands in several places keeps one copy."""
    places: list[dict[str, Any]] = [part._parameters, part._buffers, part.__dict__]
    for place in places:
        for name, value in list(place.items()):
            if isinstance(value, Tensor):
                place[name] = _copy(value, copies)
            elif place is part.__dict__ and isinstance(value, list) and any(isinstance(v, nn.Parameter) for v in value):
                place[name] = [_copy(v, copies) if isinstance(v, Tensor) else v for v in value]


def _copy(value: Tensor, copies: dict[int, Tensor]) -> Tensor:
    if id(value) not in copies:
        copy = _doubled(value.detach()).clone()
        is_parameter = isinstance(value, nn.Parameter)
        copies[id(value)] = nn.Parameter(copy, requires_grad=value.requires_grad) if is_parameter else copy
    return copies[id(value)]


def _doubled(tensor: Tensor) -> Tensor:
    return tensor.double() if tensor.is_floating_point() else tensor


def _seed() -> None:
    """The same random numbers at each evaluation; the loan puts the generators back."""
    random.seed(0)
    np.random.seed(0)
    torch.manual_seed(0)
