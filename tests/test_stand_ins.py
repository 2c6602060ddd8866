"""Several stand-ins for one method, given back in any order."""

from __future__ import annotations

from contextlib import ExitStack
from itertools import permutations
from typing import Any

import pytest

from lightning_rules.stand_ins import stand_in


class Owner:
    def say(self) -> str:
        return "owner"


@pytest.mark.parametrize("order", list(permutations(range(3))))
def test_whoever_leaves_first_the_others_stay(order: tuple[int, ...]) -> None:
    owner, stacks = Owner(), [ExitStack() for _ in range(3)]
    for number, stack in enumerate(stacks):
        stand_in(owner, "say", lambda before, number=number: lambda: f"{before()} {number}", stack)
    here = [0, 1, 2]
    for number in order:
        assert owner.say() == " ".join(["owner", *map(str, here)])
        stacks[number].close()
        here.remove(number)
    assert owner.say() == "owner"
    assert vars(owner) == {}


def test_what_somebody_else_has_set_comes_back() -> None:
    owner: Any = Owner()
    owner.say = lambda: "theirs"
    with ExitStack() as undo:
        stand_in(owner, "say", lambda before: lambda: f"{before()} and ours", undo)
        assert owner.say() == "theirs and ours"
    assert owner.say() == "theirs"
