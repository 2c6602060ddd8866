"""What of a module runs as compiled code, which hooks and modes do not see, and which they would have compiled anew."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from types import FunctionType
from typing import Any

import torch._dynamo
from torch import nn

COMPILED = "_torchdynamo_orig_callable"  # what ``torch.compile`` leaves on a function,
EXEMPT = "_torchdynamo_disable"  # and what ``torch.compiler.disable`` does besides, also on the code that dynamo makes


def outside_compiled(module: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """The submodules by name, each once, without those that run as compiled code and without the module itself."""
    waiting, known = [("", module)], {module}
    while waiting:
        name, part = waiting.pop()
        if name:
            yield name, part
        fresh = [(f"{name}.{key}".lstrip("."), child) for key, child in part.named_children() if child not in known]
        fresh = [(path, child) for path, child in fresh if not is_compiled(child)]
        known.update(child for _, child in fresh)
        waiting += reversed(fresh)


def calls_compiled_functions(module: nn.Module) -> bool:
    """Whether a compiled function, which may run any of the parts, stands where the module's code finds it by name."""
    return any(is_compiled_function(value) for value in _reachable(module))


def has_compiled_parts(module: nn.Module) -> bool:
    """Whether any of the submodules runs as compiled code."""
    return any(is_compiled(part) for part in module.modules())


def frames_compiled() -> int:
    """How many functions have been compiled in this process so far."""
    return int(torch._dynamo.utils.counters["frames"]["total"])


def is_compiled(part: nn.Module) -> bool:
    """Whether a module's call runs as compiled or scripted code."""
    if isinstance(part, (torch._dynamo.eval_frame.OptimizedModule, torch.jit.ScriptModule)):
        return True
    marks = ("_compiled_call_impl", "_compiler_ctx")  # of ``module.compile()``, and of Lightning's own compiled modules
    return any(getattr(part, mark, None) is not None for mark in marks)


def is_compiled_function(value: Any) -> bool:
    """Whether a function or method came out of ``torch.compile``."""
    value = getattr(value, "__func__", value) if type(value).__name__ == "method" else value
    return isinstance(value, FunctionType) and COMPILED in value.__dict__ and EXEMPT not in value.__dict__


def _reachable(module: nn.Module) -> Iterator[Any]:
    """What the parts' instances and classes hold, and the names that are global where these were written."""
    parts = [module, *(part for _, part in outside_compiled(module))]
    classes = {base for part in parts for base in type(part).__mro__ if base not in (object, nn.Module)}
    for part in parts:
        yield from vars(part).values()
    for one in classes:
        yield from vars(one).values()
    for name in {one.__module__ for one in classes}:
        if not name.startswith("torch.") and name in sys.modules:
            yield from list(vars(sys.modules[name]).values())
