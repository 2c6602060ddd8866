"""The states of random number generators, in a form that a checkpoint holds and ``weights_only`` loads."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lightning_rules.untouched import GENERATORS, generator_state, reachable, set_generator_state

States = dict[str, Tensor | str | list[Tensor]]


def global_states() -> States:
    """The generators that programs share: Python's, NumPy's, torch's on the CPU and on all devices in use."""
    states: States = {
        "python": _to_text(random.getstate()),
        "numpy": _to_text(np.random.get_state(legacy=False)),
        "torch": torch.get_rng_state(),
    }
    if torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
        states["cuda"] = torch.cuda.get_rng_state_all()
    return states


def set_global_states(states: States) -> None:
    """The inverse of :func:`global_states`; devices that are not there any more are left out."""
    random.setstate(_to_tuple(_from_text(states["python"])))
    np.random.set_state(_from_text(states["numpy"]))
    torch.set_rng_state(states["torch"])  # type: ignore[arg-type]
    for index, state in enumerate(states.get("cuda", [])[: torch.cuda.device_count()]):
        torch.cuda.set_rng_state(state, index)


def generators_of(*owners: Any) -> list[Any]:
    """The generators that samplers, loaders and data sets own, in an order that does not change between runs."""
    return [value for value in reachable(*owners) if isinstance(value, GENERATORS)]


def states_of(generators: list[Any]) -> list[Tensor | str]:
    """The state of each."""
    found = [generator_state(generator) for generator in generators]
    return [state if isinstance(state, Tensor) else _to_text(state) for state in found]


def set_states(generators: list[Any], states: list[Tensor | str]) -> None:
    """The inverse of :func:`states_of`.

    Raises:
        ValueError: There are more or fewer states than generators.
    """
    for generator, state in zip(generators, states, strict=True):
        plain = state if isinstance(state, Tensor) else _from_text(state)
        if isinstance(generator, random.Random | np.random.RandomState):
            plain = _to_tuple(plain)
        set_generator_state(generator, plain)


class Stream:
    """Random numbers of one's own: inside ``active()`` the shared generators go on where the last block left them.

    Args:
        seed: What the stream begins with; 63 bits.
    """

    def __init__(self, seed: int) -> None:
        self.seed = seed
        self._states: Any = None

    @contextmanager
    def active(self) -> Iterator[None]:
        """Outside the block the shared generators are as they were before it."""
        outside = _raw_states()
        if self._states is None:
            random.seed(self.seed)
            np.random.seed([self.seed & 0xFFFFFFFF, self.seed >> 32])
            torch.default_generator.manual_seed(self.seed)
        else:
            _set_raw_states(self._states)
        try:
            yield
        finally:
            self._states = _raw_states()
            _set_raw_states(outside)


def _raw_states() -> Any:
    return random.getstate(), np.random.get_state(), torch.get_rng_state()


def _set_raw_states(states: Any) -> None:
    random.setstate(states[0])
    np.random.set_state(states[1])
    torch.set_rng_state(states[2])


def _to_text(state: Any) -> str:
    return json.dumps(state, default=_array_to_plain)


def _from_text(text: Any) -> Any:
    return json.loads(text, object_hook=_plain_to_array)


def _array_to_plain(value: Any) -> Any:
    if isinstance(value, np.ndarray):
        return {"dtype": str(value.dtype), "values": value.tolist()}
    if isinstance(value, np.generic):
        return value.item()
    raise TypeError(f"A generator's state holds a {type(value).__name__}, which cannot be kept.")


def _plain_to_array(value: dict[str, Any]) -> Any:
    return np.array(value["values"], dtype=value["dtype"]) if value.keys() == {"dtype", "values"} else value


def _to_tuple(state: Any) -> Any:
    """JSON knows no tuples, and Python's generator takes nothing else."""
    return tuple(_to_tuple(part) for part in state) if isinstance(state, list) else state
