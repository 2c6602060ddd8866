"""The weights of several members of one architecture in one tensor each, of which the members' own are views."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn


class CannotStack(Exception):
    """Why members cannot share stacked tensors; the message is half a sentence."""


def architecture(member: nn.Module) -> tuple[object, ...]:
    """What members must have in common to run in one call: class, printed form, names, shapes and types of weights."""
    named = [*member.named_parameters(), *member.named_buffers()]
    weights = tuple((name, tuple(tensor.shape), tensor.dtype, str(tensor.device)) for name, tensor in named)
    return type(member), repr(member), weights


class StackedWeights:
    """Stacks the weights [M, ...] of members and lets the members' parameters and buffers be views of them.

    No second copy is held, and what is written into a member's weights (``load_state_dict``, an optimiser) stands in
    the stacked tensors too. A view drags the whole stacked tensor along when it is saved: call :meth:`separate` before
    a member, or its ``state_dict``, is pickled or saved by itself.

    Args:
        members: Modules with the same :func:`architecture`, which share no weights.

    Attributes:
        tensors: The stacked tensors by name; empty while the members have their own.
    """

    def __init__(self, members: Sequence[nn.Module]) -> None:
        self.tensors: dict[str, Tensor] = {}
        self._places = {name: [_place(member, name) for member in members] for name in _names(members[0])}
        self._all_places = [place for places in self._places.values() for place in places]
        self._addresses: list[int] = []

    def stack(self) -> None:
        """Make the members' weights views of stacked tensors, one tensor after the other.

        Raises:
            CannotStack: The weights are no plain dense tensors, or members share some.
        """
        self._check()
        with torch.inference_mode(False), torch.no_grad():
            for name, places in self._places.items():
                weights = [owner[key] for owner, key in places]
                self.tensors[name] = torch.stack([weight.detach() for weight in weights])
                for weight, view in zip(weights, self.tensors[name], strict=True):
                    weight.data = view
        self._addresses = self._current()

    def holds(self) -> bool:
        """Whether the members' weights are still the stacked ones: ``.to()`` and ``assign=True`` move them away."""
        return bool(self.tensors) and self._addresses == self._current()

    def separate(self) -> None:
        """Give the members' weights storages of their own again."""
        with torch.inference_mode(False), torch.no_grad():
            for name, places in self._places.items():
                stacked = self.tensors.pop(name, None)
                for owner, key in places if stacked is not None else []:
                    weight = owner[key]
                    if _same_storage(weight, stacked):
                        weight.data = weight.detach().clone()

    def _current(self) -> list[int]:
        return [owner[key].data_ptr() for owner, key in self._all_places]

    def _check(self) -> None:
        weights = [owner[key] for owner, key in self._all_places]
        if any(type(weight) not in (Tensor, nn.Parameter) or weight.layout != torch.strided for weight in weights):
            raise CannotStack("their weights are not plain dense tensors")
        if len({weight.data_ptr() for weight in weights if weight.numel()}) < sum(bool(w.numel()) for w in weights):
            raise CannotStack("they share weights")
        if any(weight.is_inference() for weight in weights):
            raise CannotStack("their weights were made in inference mode")
        if any(len({(owner[key].dtype, owner[key].device) for owner, key in p}) > 1 for p in self._places.values()):
            raise CannotStack("their weights differ in type or device")


def _names(member: nn.Module) -> list[str]:
    """Parameters and buffers; those that have several names are listed once."""
    return [name for name, _ in (*member.named_parameters(), *member.named_buffers())]


def _place(member: nn.Module, name: str) -> tuple[dict[str, Tensor], str]:
    """The dictionary of a module that holds a weight, and its key there."""
    path, _, key = name.rpartition(".")
    owner = member.get_submodule(path)
    held = owner._parameters if key in owner._parameters else owner._buffers
    return held, key  # type: ignore[return-value]


def _same_storage(one: Tensor, other: Tensor | None) -> bool:
    return other is not None and one.untyped_storage().data_ptr() == other.untyped_storage().data_ptr()
