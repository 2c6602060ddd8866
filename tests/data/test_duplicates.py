"""no-leak, no-duplicates, conflicting-labels: the judgement on shares, and the comparison of real sets."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch.utils.data import ConcatDataset, Dataset, Subset, TensorDataset

from lightning_rules import Severity
from lightning_rules.data.duplicates import Twins, judge
from lightning_rules.data.stored_inputs import hashes, positions, stored_inputs


def twins(**more: Any) -> Twins:
    known: dict[str, Any] = {"train": 1437, "validation": 360, "doubled": 0.0, "leaked": 0.0, "shared": 0, "width": 64,
                             "close": 0.0, "queried": 360, "conflicting": 0.0, "distinct": 1437}  # fmt: skip
    return Twins("all examples", **{**known, **more})


@pytest.mark.parametrize(
    ("seen", "severity"),
    [
        (twins(), Severity.OK),
        (twins(shared=3), Severity.ERROR),
        (twins(leaked=1.0), Severity.ERROR),
        (twins(leaked=0.03), Severity.WARNING),
        (twins(leaked=2 / 360), Severity.INFO),  # a handful by nature
        (twins(leaked=0.35, doubled=0.33), Severity.INFO),  # rows of few values: as many copies within training
        (twins(leaked=0.9, doubled=0.33), Severity.ERROR),
        (twins(leaked=1.0, targets=False), Severity.INFO),
        (twins(close_leaked=1.0), Severity.WARNING),
        (twins(close_leaked=0.3, close=0.28), Severity.OK),
        (twins(close_leaked=0.3, close=None), Severity.WARNING),
    ],
)
def test_judgement_of_leaks(seen: Twins, severity: Severity) -> None:
    (finding,) = [finding for finding in judge([seen]) if finding.rule == "no-leak"]
    assert finding.severity is severity, finding.message
    assert bool(finding.advice) == (severity >= Severity.INFO)


@pytest.mark.parametrize(
    ("seen", "severity"),
    [
        (twins(conflicting=0.1), Severity.WARNING),
        (twins(conflicting=0.01), Severity.INFO),
        (twins(conflicting=0.1, levels=17), Severity.INFO),  # rows of categories do, too
        (twins(conflicting=0.1, width=4), Severity.INFO),  # narrow rows coincide
        (twins(conflicting=0.9, distinct=100), Severity.INFO),  # as do those of few values
    ],
)
def test_judgement_of_conflicts(seen: Twins, severity: Severity) -> None:
    (finding,) = [finding for finding in judge([seen]) if finding.rule == "conflicting-labels"]
    assert finding.severity is severity


@pytest.mark.parametrize(
    ("seen", "severity"),
    [
        (twins(doubled=1.0, distinct=32), Severity.WARNING),
        (twins(doubled=1.0, distinct=32, leaked=0.9), Severity.INFO),  # the nature of the data: validation has them too
        (twins(doubled=1.0, distinct=32, width=4), Severity.INFO),  # narrow rows coincide
        (twins(doubled=0.5, distinct=700), Severity.INFO),  # oversampled
        (twins(doubled=0.01), Severity.OK),
    ],
)
def test_judgement_of_copies_within_training(seen: Twins, severity: Severity) -> None:
    (finding,) = [finding for finding in judge([seen]) if finding.rule == "no-duplicates"]
    assert finding.severity is severity


def test_copies_within_training_are_told_and_constant_inputs_left_to_no_junk() -> None:
    (finding,) = [finding for finding in judge([twins(doubled=0.4)]) if finding.rule == "no-duplicates"]
    assert finding.severity is Severity.INFO
    assert "40.0% of 1,437" in finding.message
    assert list(judge([twins(doubled=1.0, leaked=1.0, distinct=1)])) == []


class Files(Dataset):
    def __init__(self) -> None:
        self.samples = [("a.png", 0), ("b.png", 1), ("c.png", 0)]

    def __len__(self) -> int:
        return 3


class Wrapped(Dataset):
    def __init__(self, dataset: Any) -> None:
        self.dataset = dataset

    def __len__(self) -> int:
        return len(self.dataset)


class Arrays(Dataset):
    def __init__(self) -> None:
        self.data, self.targets = np.arange(12, dtype=np.uint8).reshape(3, 4), [0, 1, 0]

    def __len__(self) -> int:
        return 3


def test_what_lies_underneath() -> None:
    rows = torch.arange(12.0).reshape(3, 4)
    plain = TensorDataset(rows, torch.tensor([0, 1, 0]))
    assert torch.equal(stored_inputs(Subset(Subset(plain, [2, 0]), [1])), rows[:1])  # type: ignore[arg-type]
    assert torch.equal(stored_inputs(ConcatDataset([plain, plain])), torch.cat([rows, rows]))  # type: ignore[arg-type]
    assert stored_inputs(Subset(Wrapped(Files()), [2, 1])) == ["c.png", "b.png"]
    assert np.array_equal(stored_inputs(Arrays()), Arrays().data)  # type: ignore[arg-type]
    assert stored_inputs(Subset(Wrapped(Wrapped(plain)), [0, 1, 2])) is not None
    base, where = positions(Subset(Subset(plain, [2, 0]), [1]))
    assert (base, where.tolist()) == (id(plain), [0])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.uint8, torch.int64, torch.float64])
def test_hashes_tell_rows_apart(dtype: torch.dtype) -> None:
    rows = torch.tensor([[1, 2], [1, 3], [1, 2]]).to(dtype)
    one, two, three = hashes(rows)
    assert one == three != two
