"""Bringing numbers from a device to the host without waiting for the device."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor


class HostCopy:
    """A copy of a tree of tensors that is on its way to the host.

    On CUDA the copies go to pinned memory behind the work that is queued, and nothing waits until :meth:`get`. On
    other devices they are made at once.

    Args:
        tree: Tensors in lists, tuples and dicts; other values are handed through.
    """

    def __init__(self, tree: Any) -> None:
        devices: set[torch.device] = set()
        self._tree = _mapped(lambda tensor: _begin_copy(tensor, devices), tree)
        self._events = [_mark(device) for device in devices]
        self.late = bool(devices)
        """Whether :meth:`get` may have to wait if it is called now."""

    def get(self) -> Any:
        """The tree with its tensors on the host; waits for what is not there yet."""
        for event in self._events:
            event.synchronize()
        return self._tree


def _mapped(change: Callable[[Tensor], Tensor], tree: Any) -> Any:
    """``torch.utils._pytree`` does the same, and takes ten milliseconds for the thousand leaves of a look."""
    if isinstance(tree, Tensor):
        return change(tree)
    kind = type(tree)
    if kind is list or kind is tuple:
        return kind([_mapped(change, part) for part in tree])
    if kind is dict:
        return {key: _mapped(change, part) for key, part in tree.items()}
    if isinstance(tree, tuple):  # with names
        return kind(*(_mapped(change, part) for part in tree))
    return tree


def _begin_copy(tensor: Tensor, devices: set[torch.device]) -> Tensor:
    tensor = tensor.detach()
    if not tensor.is_cuda:
        return tensor.cpu()
    devices.add(tensor.device)
    target = torch.empty(tensor.shape, dtype=tensor.dtype, device="cpu", pin_memory=True)
    return target.copy_(tensor, non_blocking=True)


def _mark(device: torch.device) -> torch.cuda.Event:
    event = torch.cuda.Event()  # type: ignore[no-untyped-call]
    event.record(torch.cuda.current_stream(device))
    return event
