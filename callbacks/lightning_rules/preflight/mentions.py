"""Whether a function's code uses a name: cheaper and safer than to call it and see."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from types import CodeType
from typing import Any


def mentions(function: Any, name: str, owner: Any = None, depth: int = 2) -> bool:
    """Whether a function, or a method of the owner that it uses, reads an attribute or a global of this name.

    Args:
        function: A function or method; anything else mentions nothing.
        name: The name looked for.
        owner: The object whose methods are followed.
        depth: How many calls deep.
    """
    code = getattr(inspect.unwrap(function), "__code__", None) if callable(function) else None
    if code is None:
        return False
    used = {used for one in _with_inner(code) for used in one.co_names}
    if name in used:
        return True
    methods = (getattr(type(owner), one, None) for one in used) if owner is not None and depth > 0 else ()
    return any(mentions(method, name, owner, depth - 1) for method in methods if inspect.isfunction(method))


def _with_inner(code: CodeType) -> Iterator[CodeType]:
    """A function's code, and that of the functions in it."""
    yield code
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _with_inner(constant)
