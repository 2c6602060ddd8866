"""Leave no trace: run a probe, then put back every bit it could have touched.

What is put back: random number generators (Python, NumPy, torch on all devices, and generators that the data set and
its transforms own), parameters, buffers and gradients, training and evaluation mode of every submodule, plain
attributes of every submodule (counters, lists of outputs, the states of torchmetrics), loggers and logging methods.
What cannot be: side effects outside the process, and attributes nested deeper than one container.
"""

from __future__ import annotations

import copy
import random
from collections import deque
from collections.abc import Iterator, MutableMapping, MutableSequence, MutableSet
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy
from torch.utils.data import Dataset

CONTAINERS = (MutableMapping, MutableSequence, MutableSet, deque)
GENERATORS = (torch.Generator, np.random.Generator, np.random.RandomState, random.Random)
# nn.Module keeps these itself; parameters and buffers are put back by value.
OF_TORCH = {"_parameters", "_buffers", "_modules"}


@contextmanager
def untouched(module: nn.Module | None = None, *owners: Any) -> Iterator[None]:
    """Put back random number generators and, if given, the module, when the block ends, however it ends.

    Lightning's ``isolate_rng`` puts nothing back when the block raises (2.6.6), and a probe of unknown code may raise.

    Memory: one more copy of the module's parameters and buffers, on their device, while the block runs.

    Args:
        module: The module that the block runs; its gradients are None inside the block.
        owners: Data sets, samplers, loaders: the generators they own are put back too, and the attributes of data
            sets (a file that a data set opens at its first read must not be open when workers fork).
    """
    reached = reachable(*owners)
    generators = [(value, generator_state(value)) for value in reached if isinstance(value, GENERATORS)]
    datasets = [(value, dict(vars(value))) for value in reached if isinstance(value, Dataset)]
    shared = random.getstate(), np.random.get_state(), torch.get_rng_state()
    devices = torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else None  # type: ignore[no-untyped-call]
    saved = _Saved(module) if module is not None else None
    try:
        yield
    finally:
        if saved is not None:
            saved.put_back()
        for generator, state in generators:
            set_generator_state(generator, state)
        for dataset, attributes in datasets:
            vars(dataset).clear()
            vars(dataset).update(attributes)
        random.setstate(shared[0])
        np.random.set_state(shared[1])
        torch.set_rng_state(shared[2])
        if devices is not None:
            torch.cuda.set_rng_state_all(devices)


class _Saved:
    """A module's state, to be put back in place: objects keep their identity, so optimisers and views hold."""

    def __init__(self, module: nn.Module) -> None:
        self.modules = _modules_of(module)
        self.modes = [part.training for part in self.modules]
        self.tensors = [(tensor, tensor.detach().clone()) for tensor in _tensors_of(self.modules)]
        self.gradients = [
            (parameter, parameter.grad, parameter.requires_grad) for parameter in _parameters(self.modules)
        ]
        self.attributes = [{k: _keep(v) for k, v in vars(part).items() if k not in OF_TORCH} for part in self.modules]
        for parameter, _, _ in self.gradients:
            parameter.grad = None

    @torch.no_grad()
    def put_back(self) -> None:
        for part, attributes in zip(self.modules, self.attributes, strict=True):
            for name in vars(part).keys() - attributes.keys() - OF_TORCH:
                del part.__dict__[name]
            for name, kept in attributes.items():
                part.__dict__[name] = _restored(*kept)
        for tensor, value in self.tensors:
            _set(tensor, value)
        for parameter, gradient, requires_grad in self.gradients:
            if parameter.requires_grad != requires_grad:
                parameter.requires_grad = requires_grad
            parameter.grad = gradient
        for part, mode in zip(self.modules, self.modes, strict=True):
            part.training = mode


def _set(tensor: Tensor, value: Tensor) -> None:
    if tensor.is_inference():  # what an evaluation has made can be changed in its mode alone
        with torch.inference_mode():
            tensor.copy_(value)
    else:
        tensor.copy_(value)


def _modules_of(module: nn.Module) -> list[nn.Module]:
    """All submodules, also those that stand in plain lists and dicts, where torch does not look."""
    found = dict.fromkeys(module.modules())
    for part in list(found):
        for value in vars(part).values():
            inside = value.values() if isinstance(value, dict) else value if isinstance(value, (list, tuple)) else ()
            for item in inside:
                if isinstance(item, nn.Module):
                    found.update(dict.fromkeys(item.modules()))
    return list(found)


def _parameters(modules: list[nn.Module]) -> list[nn.Parameter]:
    return list(dict.fromkeys(p for part in modules for p in part._parameters.values() if p is not None))


def _tensors_of(modules: list[nn.Module]) -> list[Tensor]:
    buffers = [buffer for part in modules for buffer in part._buffers.values() if buffer is not None]
    plain = [value for part in modules for value in vars(part).values() if isinstance(value, Tensor)]
    tensors: list[Tensor] = [*_parameters(modules), *buffers, *plain]
    return [tensor for tensor in dict.fromkeys(tensors) if not is_lazy(tensor)]


def _keep(value: Any) -> tuple[Any, Any]:
    """The value itself, and what it holds if that can change under it."""
    return value, copy.copy(value) if isinstance(value, CONTAINERS) else None


def _restored(value: Any, held: Any) -> Any:
    if held is None:
        return value
    value.clear()
    if isinstance(value, (MutableMapping, MutableSet)):
        for item in held:
            value.__setitem__(item, held[item]) if isinstance(value, MutableMapping) else value.add(item)
    else:
        value.extend(held)
    return value


def reachable(*owners: Any, depth: int = 6) -> list[Any]:
    """Objects that others hold, directly or through attributes, lists, tuples, sets and dicts.

    Looks at most ``depth`` links deep and never into tensors, arrays or containers of more than 100 elements.
    """
    seen: dict[int, Any] = {}
    level = list(owners)
    for _ in range(depth):
        below: list[Any] = []
        for value in level:
            if id(value) in seen or isinstance(value, (Tensor, np.ndarray, str, bytes, int, float, type(None), type)):
                continue
            seen[id(value)] = value
            if isinstance(value, (list, tuple, set, dict)):
                if len(value) <= 100:
                    below += value.values() if isinstance(value, dict) else value
            elif hasattr(value, "__dict__"):
                below += vars(value).values()
        level = below
    return list(seen.values())


def generator_state(generator: Any) -> Any:
    """The state of one of GENERATORS, as the library that made it gives it."""
    if isinstance(generator, torch.Generator):
        return generator.get_state()
    if isinstance(generator, np.random.Generator):
        return copy.deepcopy(generator.bit_generator.state)
    return generator.get_state() if isinstance(generator, np.random.RandomState) else generator.getstate()


def set_generator_state(generator: Any, state: Any) -> None:
    """The inverse of :func:`generator_state`."""
    if isinstance(generator, np.random.Generator):
        generator.bit_generator.state = state
    elif isinstance(generator, random.Random):
        generator.setstate(state)
    else:
        generator.set_state(state)
