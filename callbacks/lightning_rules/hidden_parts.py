"""All layers of a module by name, those too that stand in plain containers, where torch does not look."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from torch import nn

DEPTH = 3  # of containers in containers that may hold layers
KEPT_BY_TORCH = {"_parameters", "_buffers", "_modules", "_trainer", "_fabric"}


def named_parts(module: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """All submodules by name, those in plain containers too: ``"net.layers[0]"``; each once."""
    known = set(module.modules())
    yield from module.named_modules()
    waiting = list(module.named_modules())
    while waiting:
        name, part = waiting.pop()
        for inside, value in contained(part):
            if isinstance(value, nn.Module) and value not in known:
                found = [
                    (f"{name}.{inside}".lstrip(".") + (f".{below}" if below else ""), one)
                    for below, one in value.named_modules()
                ]
                fresh = [(path, one) for path, one in found if one not in known]
                known.update(one for _, one in fresh)
                waiting += fresh
                yield from fresh


def contained(part: nn.Module) -> Iterator[tuple[str, Any]]:
    """What stands in the plain containers of a module, with its place in them."""
    for name, value in vars(part).items():
        if name not in KEPT_BY_TORCH and isinstance(value, (list, tuple, set, dict)):
            yield from _unpacked(name, value, DEPTH)


def _unpacked(name: str, value: Any, depth: int) -> Iterator[tuple[str, Any]]:
    if isinstance(value, (list, tuple, set, dict)) and depth and len(value) <= 1000:
        items = value.items() if isinstance(value, dict) else enumerate(value)
        for key, item in items:
            yield from _unpacked(f"{name}[{key!r}]", item, depth - 1)
    else:
        yield name, value


def sensitive(part: nn.Module) -> bool:
    """Whether a layer, by its settings, does another thing in training than in evaluation."""
    if isinstance(part, nn.modules.batchnorm._NormBase):  # batch and instance norm
        return part.track_running_stats
    if isinstance(part, nn.modules.dropout._DropoutNd):
        return part.p > 0
    return any(float(getattr(part, name, 0) or 0) > 0 for name in ("dropout", "drop_prob") if _is_number(part, name))


def _is_number(part: nn.Module, name: str) -> bool:
    return isinstance(getattr(part, name, None), (int, float))
