"""Members whose weights do not fit on the device together: one module, into which their weights come in turn."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from lightning_rules.combine.call_plan import stacked

Weights = Mapping[str, Tensor]
MARGIN = 0.8  # of the free memory; the rest is for activations


def fits(members_bytes: int, device: torch.device | str) -> bool:
    """Whether so many bytes of weights leave a fifth of a device's free memory to activations.

    Args:
        members_bytes: The bytes of all members' weights.
        device: Where they are to be.

    Returns:
        True also where the free memory cannot be known.
    """
    free = free_memory(torch.device(device))
    return free is None or members_bytes <= MARGIN * free


def free_memory(device: torch.device) -> int | None:
    """The free bytes of a device's memory, None where that cannot be known; on the CPU within the container's limit."""
    if device.type == "cpu":
        known = [each for each in (_available_on_host(), _left_in_container()) if each is not None]
        return min(known) if known else None
    ask = getattr(torch.get_device_module(device), "mem_get_info", None) if device.type != "meta" else None
    return int(ask(device)[0]) if ask is not None else None


def _available_on_host() -> int | None:
    """What can be had without swapping: Linux counts the cached files in, which it would give up."""
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:"))
    except (OSError, StopIteration, ValueError):
        pass
    try:
        return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, OSError, ValueError):
        return None


def _left_in_container() -> int | None:
    folder = Path("/sys/fs/cgroup")
    try:
        return int((folder / "memory.max").read_text()) - int((folder / "memory.current").read_text())
    except (OSError, ValueError):  # no container, or no limit ("max")
        return None


class StreamedMembers:
    """Call members one after the other, with the weights of one at a time on the device; like :class:`MemberCalls`.

    Args:
        shells: The module into which each member's weights are put, on its device, in evaluation mode: one for all, or
            one entry for each member, with the same object for members of one architecture. Its own weights are lost.
        states: For each member its ``state_dict`` on the CPU, or a function that reads it, which is called at each
            batch and whose result is let go after; memory-mapped files then take no more memory than one member.

    Raises:
        ValueError: There is no member, or not one shell for each.
    """

    def __init__(
        self, shells: nn.Module | Sequence[nn.Module], states: Sequence[Weights | Callable[[], Weights]]
    ) -> None:
        self.states = list(states)
        self.shells = [shells] * len(self.states) if isinstance(shells, nn.Module) else list(shells)
        if not self.states or len(self.shells) != len(self.states):
            raise ValueError(
                f"StreamedMembers got {len(self.shells)} modules for {len(self.states)} members: give one module for "
                "all, or one for each."
            )

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """What the members return for these inputs, stacked along a new first dimension.

        Raises:
            ValueError: A member's weights are not those of its module; or outputs differ in shape.
            TypeError: Outputs are no tensors.
        """
        returned = []
        for number, (shell, state) in enumerate(zip(self.shells, self.states, strict=True)):
            _fill(shell, state() if callable(state) else state, number)
            returned.append(shell(*args, **kwargs))
        return stacked(returned)


def _fill(shell: nn.Module, weights: Weights, number: int) -> None:
    """Copy a member's weights into the module, over those of the one before."""
    try:
        with torch.inference_mode(False), torch.no_grad():
            shell.load_state_dict(weights)
    except RuntimeError as error:
        reason = next((line.strip() for line in str(error).splitlines()[1:] if line.strip()), str(error))
        raise ValueError(
            f"The weights of member {number} are not those of {type(shell).__name__} ({reason[:200]}): give it a "
            "module of its own architecture."
        ) from error
