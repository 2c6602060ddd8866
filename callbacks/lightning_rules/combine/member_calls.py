"""Several networks called as one: vectorised where that is measured to be faster, in a loop elsewhere."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_flatten, tree_unflatten

from lightning_rules.combine.call_plan import Plan, Team, stacked, tensors_of
from lightning_rules.combine.stacked_weights import architecture


class MemberCalls:
    """Call several networks with the same inputs: ``calls(*args, **kwargs)`` stacks what they return, [M, N, ...].

    Members of one architecture can run in one call on stacked weights. Whether that is faster than a loop is measured
    at the first batch, and again for inputs of other shapes, types or precision when they come for the second time;
    results that differ from the loop's count as failures. Under gradients, and while a member is in training mode,
    the loop is used.

    While a plan is in use that is not the loop, the weights of the members are views of stacked tensors: no copy is
    held and ``load_state_dict`` works as ever, but call :meth:`separate` before a member is saved by itself. Whatever
    else ``forward`` depends on (attributes, hooks) must not change; if it does, call :meth:`forget`.

    Args:
        members: The networks, in evaluation mode; architectures may differ where the outputs agree in shape.
        devices: Devices to spread the members over, in turns; by default they stay where they are.

    Raises:
        ValueError: There is no member, or no device.
    """

    def __init__(self, members: Sequence[nn.Module], devices: Sequence[torch.device | str] | None = None) -> None:
        self.members = list(members)
        if not self.members:
            raise ValueError("MemberCalls got no members: give at least one module.")
        if devices is not None and not devices:
            raise ValueError("MemberCalls got an empty list of devices: name at least one, or leave `devices` out.")
        self.placement = None if devices is None else _spread(self.members, [torch.device(name) for name in devices])
        self._teams = _teams(self.members, self.placement)

    @property
    def plan(self) -> tuple[Plan, ...]:
        """How the last batch was called: one plan for each architecture (on each device)."""
        return tuple(team.plan for team in self._teams)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """What the members return for these inputs, stacked along a new first dimension.

        Raises:
            TypeError: They return something else than tensors, or nested tuples, lists or dicts of them.
            ValueError: Members return different structures or shapes.
        """
        if len(self._teams) == 1 and self.placement is None:
            return self._teams[0](args, kwargs)
        returned: list[Any] = [None] * len(self.members)
        for team in self._teams:  # each is started before any result is fetched, so that devices work side by side
            outputs = team(*_moved((args, kwargs), team.device))
            leaves, spec = tree_flatten(outputs)
            for number, place in enumerate(team.places):
                returned[place] = tree_unflatten([leaf[number] for leaf in leaves], spec)
        home = next((tensor.device for tensor in tensors_of((args, kwargs))), None)
        return stacked([_moved(each, home) for each in returned] if self.placement is not None else returned)

    def separate(self) -> None:
        """Give the members' weights storages of their own; the next call stacks them again where that pays."""
        for team in self._teams:
            team.weights.separate()

    def forget(self) -> None:
        """Forget all plans: the next batch is measured as if it were the first."""
        for team in self._teams:
            team.forget()


def _moved(value: Any, device: torch.device | None) -> Any:
    if device is None:
        return value
    leaves, spec = tree_flatten(value)
    moved = [
        leaf.to(device, non_blocking=device.type != "cpu") if isinstance(leaf, Tensor) else leaf for leaf in leaves
    ]
    return tree_unflatten(moved, spec)


def _spread(members: Sequence[nn.Module], devices: Sequence[torch.device]) -> list[torch.device]:
    placement = [devices[number % len(devices)] for number in range(len(members))]
    for member, device in zip(members, placement, strict=True):
        member.to(device)
    return placement


def _teams(members: Sequence[nn.Module], placement: Sequence[torch.device] | None) -> list[Team]:
    places: dict[Any, list[int]] = {}
    for number, member in enumerate(members):
        places.setdefault(architecture(member), []).append(number)
    return [
        Team([members[place] for place in chosen], chosen, placement[chosen[0]] if placement is not None else None)
        for chosen in places.values()
    ]
