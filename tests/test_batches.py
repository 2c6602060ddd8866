"""Inputs and targets from the batches met in the wild."""

from __future__ import annotations

from collections import namedtuple
from dataclasses import dataclass
from typing import Any

import pytest
import torch

from lightning_rules.batches import leaf_at, leaves, split_batch

X, Y, Z = torch.zeros(2, 3), torch.tensor([0, 1]), torch.tensor([5, 6])
Named = namedtuple("Named", "x y")


@dataclass
class Data:
    image: Any
    target: Any


class Graph:
    """As torch_geometric's batches: attributes, no iteration over parts."""

    def __init__(self) -> None:
        self.x, self.edge_index, self.y = X, Z, Y

    def to_dict(self) -> dict[str, Any]:
        return dict(vars(self))


@pytest.mark.parametrize(
    ("batch", "inputs", "targets"),
    [
        ((X, Y), X, Y),
        ([X, Y], X, Y),
        ((X, Y, Z), X, Y),
        ((X, None), X, None),
        ((X,), X, None),
        (X, X, None),
        ({"x": X, "y": Y}, X, Y),
        ({"image": X, "label": Y}, X, Y),
        ({"pixel_values": X, "labels": Y, "id": Z}, X, Y),
        ({"Input": X, "Target": Y}, X, Y),
        ({"odd": X, "labels": Y}, {"odd": X}, Y),
        ({"left": X, "right": Z}, {"left": X, "right": Z}, None),
        (Named(X, Y), X, Y),
        (Data(X, Y), X, Y),
        (Graph(), X, Y),
        (([X, X], Y), [X, X], Y),
        ((X, {"a": Y, "b": Z}), X, {"a": Y, "b": Z}),
    ],
    ids=range(17),
)
def test_split(batch: Any, inputs: Any, targets: Any) -> None:
    torch.testing.assert_close(split_batch(batch), (inputs, targets))


def test_the_users_own_unpack_wins() -> None:
    class Module:
        def unpack(self, batch: Any) -> Any:
            return batch["right"], batch["left"]

    inputs, targets = split_batch({"left": Y, "right": X}, Module())
    assert inputs is X
    assert targets is Y


def test_an_unpack_that_returns_no_pair_is_named() -> None:
    class Module:
        def unpack(self, batch: Any) -> Any:
            return batch

    with pytest.raises(ValueError, match=r"Expected `unpack\(batch\)` to return \(inputs, targets\), but got dict"):
        split_batch({"x": X}, Module())


def test_leaves_and_the_way_back() -> None:
    batch = (X, {"deep": [Y, None, Named(Z, "text")]})
    found = dict(leaves(batch))
    assert list(found) == [(0,), (1, "deep", 0), (1, "deep", 2, "x")]
    assert all(leaf_at(batch, path) is leaf for path, leaf in found.items())
