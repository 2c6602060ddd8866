"""Bringing numbers from a device to the host without waiting for the device."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves, tree_map_only


class HostCopy:
    """A copy of a tree of tensors that is on its way to the host.

    On CUDA the copies go to pinned memory behind the work that is queued, and nothing waits until :meth:`get`. On
    other devices they are made at once.

    Args:
        tree: Tensors in lists, tuples, dicts and dataclasses that ``torch.utils._pytree`` knows; other values are
            handed through.
    """

    def __init__(self, tree: Any) -> None:
        devices = {leaf.device for leaf in tree_leaves(tree) if isinstance(leaf, Tensor) and leaf.is_cuda}
        self.late = bool(devices)
        """Whether :meth:`get` may have to wait if it is called now."""
        self._tree = tree_map_only(Tensor, _begin_copy, tree)
        self._events = [_mark(device) for device in devices]

    def get(self) -> Any:
        """The tree with its tensors on the host; waits for what is not there yet."""
        for event in self._events:
            event.synchronize()
        return self._tree


def _begin_copy(tensor: Tensor) -> Tensor:
    tensor = tensor.detach()
    if not tensor.is_cuda:
        return tensor.cpu()
    target = torch.empty(tensor.shape, dtype=tensor.dtype, device="cpu", pin_memory=True)
    return target.copy_(tensor, non_blocking=True)


def _mark(device: torch.device) -> torch.cuda.Event:
    event = torch.cuda.Event()  # type: ignore[no-untyped-call]
    event.record(torch.cuda.current_stream(device))
    return event
