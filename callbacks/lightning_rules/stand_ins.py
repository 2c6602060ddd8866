"""Methods of an object that several rules stand in for at once, and give back in any order."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

Method = Callable[..., Any]


class _StandIn:
    """What is called in a method's place; once it is off, it hands on to what was there before."""

    def __init__(self, owner: Any, name: str, make: Callable[[Method], Method]) -> None:
        self.below = vars(owner).get(name)
        self.before: Method = getattr(owner, name)
        self.instead = make(self.before)
        self.is_on = True

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return (self.instead if self.is_on else self.before)(*args, **kwargs)


def stand_in(owner: Any, name: str, make: Callable[[Method], Method], undo: ExitStack) -> None:
    """Call another function in place of an object's method, until ``undo`` is closed.

    Others may stand in for the same method, before and after; whoever leaves first, the rest stay in place, and with
    the last of them the object is as it was.

    Args:
        owner: The object.
        name: Its method.
        make: Returns the function, given the method as it was.
        undo: Closed when all is to be as before.
    """
    mine = _StandIn(owner, name, make)
    setattr(owner, name, mine)

    def leave() -> None:
        mine.is_on = False
        top = vars(owner).get(name)
        while isinstance(top, _StandIn) and not top.is_on:
            top = top.below
        if top is None:
            vars(owner).pop(name, None)
        else:
            setattr(owner, name, top)

    undo.callback(leave)
