"""Where a step takes values out of autograd's graph, or changes them behind its back; by file and line."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

CUTS = {
    Tensor.detach: "detach",
    Tensor.detach_: "detach_",
    Tensor.item: "item",
    Tensor.tolist: "tolist",
    Tensor.numpy: "numpy",
    Tensor.__float__: "float",
    Tensor.data.__get__: "data",  # type: ignore[attr-defined]
}
VIEWS = (Tensor.detach, Tensor.data.__get__)  # type: ignore[attr-defined]
LIBRARIES = ("torch", "lightning", "pytorch_lightning", "torchmetrics", "lightning_rules", "lightning_utilities")
DEPTH = 40  # frames


@dataclass
class CutsSeen:
    """What one step did.

    Attributes:
        cuts: Places that take a value with a gradient out of the graph: ``"detach at model.py:31"``.
        hidden: Places that change such a value in place where autograd cannot see it.
    """

    cuts: list[str] = field(default_factory=list)
    hidden: list[str] = field(default_factory=list)


class _SeeCuts(TorchFunctionMode):
    def __init__(self) -> None:
        super().__init__()
        self.seen = CutsSeen()
        self._taken: dict[int, Tensor] = {}  # by where its values are stored; held, so that no other takes the place

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        first = args[0] if args and isinstance(args[0], Tensor) else None
        computed = first is not None and first.grad_fn is not None
        name = getattr(func, "__name__", "")
        if first is not None and name.endswith("_") and not name.endswith("__"):
            outside = first.untyped_storage().data_ptr() in self._taken or (computed and not torch.is_grad_enabled())
            if outside:
                self._add(self.seen.hidden, name)
        value = func(*args, **(kwargs or {}))
        if computed and func in CUTS:
            self._add(self.seen.cuts, CUTS[func])
            if func in VIEWS:
                self._taken[value.untyped_storage().data_ptr()] = value
        return value

    def _add(self, places: list[str], name: str) -> None:
        place = _caller()
        if place and f"{name} at {place}" not in places:
            places.append(f"{name} at {place}")


def _caller() -> str:
    """The file and line of the innermost frame that is no library's; empty where there is none."""
    frame = sys._getframe(2)
    for _ in range(DEPTH):
        if frame.f_globals.get("__name__", "").partition(".")[0] not in LIBRARIES:
            return f"{Path(frame.f_code.co_filename).name}:{frame.f_lineno}"
        if frame.f_back is None:
            return ""
        frame = frame.f_back
    return ""


@contextmanager
def seen_cuts() -> Iterator[CutsSeen]:
    """Record what happens inside the block."""
    mode = _SeeCuts()
    with mode:
        yield mode.seen
