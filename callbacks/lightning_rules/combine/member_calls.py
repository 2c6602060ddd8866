"""Running the members of an ensemble on the same inputs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn
from torch.utils._pytree import tree_map


class MemberCalls:
    """The members' answers to the same inputs, one member after the other.

    Args:
        members: The networks, in evaluation mode.
    """

    def __init__(self, members: Sequence[nn.Module]) -> None:
        self.members = list(members)

    def __call__(self, *inputs: Any, **named: Any) -> Any:
        """What the members return, stacked along a new first dimension."""
        returned = [member(*inputs, **named) for member in self.members]
        return tree_map(lambda *parts: torch.stack(parts), *returned)
