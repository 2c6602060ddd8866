"""Batches with some of their tensors changed: fewer examples, other inputs."""

from __future__ import annotations

import copy
import dataclasses
import time
from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor

from lightning_rules.batches import leaves
from lightning_rules.rule import NotApplicable
from lightning_rules.view import View


def mapped(batch: Any, change: Callable[[Any], Any]) -> Any:
    """A batch of the same structure, each of its leaves replaced by what ``change`` makes of it.

    Goes into lists, tuples, named tuples, mappings and dataclasses; everything else is a leaf. The batch that was
    given stays as it is.
    """
    if isinstance(batch, Tensor):
        return change(batch)
    if isinstance(batch, Mapping):
        again: Any = copy.copy(batch)
        for key in batch:
            again[key] = mapped(batch[key], change)
        return again
    if hasattr(batch, "_replace"):
        return type(batch)(*(mapped(part, change) for part in batch))
    if isinstance(batch, (list, tuple)):
        return type(batch)(mapped(part, change) for part in batch)
    if dataclasses.is_dataclass(batch) and not isinstance(batch, type):
        again = copy.copy(batch)
        for field in dataclasses.fields(batch):
            object.__setattr__(again, field.name, mapped(getattr(batch, field.name), change))
        return again
    return change(batch)


def examples_in(batch: Any) -> int:
    """How many examples a batch holds: the first dimension that all its tensors share.

    Raises:
        NotApplicable: They share none, as in a batch of graphs, or the batch holds no tensor.
    """
    sizes = {leaf.shape[0] for _, leaf in leaves(batch) if leaf.dim() > 0}
    if len(sizes) != 1:
        raise NotApplicable("the tensors of a batch share no first dimension that would count examples.")
    return int(sizes.pop())


def input_leaves(view: View, batch: Any) -> list[Tensor]:
    """The tensors of a batch that enter the network.

    Raises:
        NotApplicable: The batch does not say which they are.
    """
    inputs, _ = view.split(batch)
    own = {id(leaf) for _, leaf in leaves(batch)}
    found = [leaf for _, leaf in leaves(inputs) if id(leaf) in own and leaf.numel() > 0]
    if not found:
        raise NotApplicable("the batch does not show which of its parts enter the network.")
    return found


def with_inputs(batch: Any, inputs: list[Tensor], change: Callable[[Tensor], Tensor]) -> Any:
    """A batch in which each of these tensors is replaced by what ``change`` makes of it."""
    wanted = {id(leaf) for leaf in inputs}
    return mapped(batch, lambda part: change(part) if id(part) in wanted else part)


def seconds_of(view: View, batch: Any) -> float:
    """How long one training step's forward pass takes.

    Raises:
        NotApplicable: The step cannot be run.
    """
    before = time.monotonic()
    with view.step(batch):
        pass
    return time.monotonic() - before
