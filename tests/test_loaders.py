"""Which loaders there are in what a Trainer holds."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from lightning.pytorch.utilities import CombinedLoader
from torch.utils.data import DataLoader, TensorDataset

from lightning_rules.loaders import are_several, each_loader, first_of

ONE, TWO = (DataLoader(TensorDataset(torch.arange(4)), batch_size=2) for _ in range(2))
EMPTY: list[Any] = []
BATCHES = [torch.zeros(2), torch.ones(2)]


@pytest.mark.parametrize(
    ("held", "several", "each"),
    [
        (None, False, []),
        (ONE, False, [ONE]),
        (BATCHES, False, [BATCHES]),
        (EMPTY, False, [EMPTY]),
        ([ONE, TWO], True, [ONE, TWO]),
        ({"a": ONE, "b": TWO}, True, [ONE, TWO]),
        ([ONE], True, [ONE]),
        (CombinedLoader(ONE), False, [ONE]),
        (CombinedLoader({"a": TWO, "b": ONE}), True, [TWO, ONE]),
    ],
)
def test_each_loader(held: Any, several: bool, each: list[Any]) -> None:
    assert are_several(held) is several
    assert [id(loader) for loader in each_loader(held)] == [id(loader) for loader in each]
    assert first_of(held) is (each[0] if each else None)
