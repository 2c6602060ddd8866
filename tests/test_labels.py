"""Labels without inputs, and how often samplers draw."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils.data import (
    BatchSampler,
    ConcatDataset,
    DataLoader,
    Dataset,
    RandomSampler,
    Sampler,
    SequentialSampler,
    Subset,
    SubsetRandomSampler,
    TensorDataset,
    WeightedRandomSampler,
    random_split,
)
from torchvision.datasets import ImageFolder

from lightning_rules.labels import agree_with_items, draws, labels_of


class Reading(Dataset):
    """Counts how many examples were read."""

    def __init__(self, **columns: Any) -> None:
        self.read = 0
        self.__dict__.update(columns)

    def __len__(self) -> int:
        return 6

    def __getitem__(self, index: int) -> Any:
        self.read += 1
        return torch.zeros(3), index % 3


class Wrapper(Dataset):
    def __init__(self, dataset: Any) -> None:
        self.dataset = dataset

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int) -> Any:
        return self.dataset[index]


LABELS = [0, 1, 2, 0, 1, 2]


@pytest.mark.parametrize(
    "columns",
    [
        {"targets": LABELS},
        {"labels": np.array(LABELS)},
        {"y": torch.tensor(LABELS)},
        {"samples": [(f"{label}.png", label) for label in LABELS]},
    ],
    ids=lambda columns: next(iter(columns)),
)
def test_found_without_reading_an_example(columns: Any) -> None:
    dataset = Reading(**columns)
    assert labels_of(dataset).tolist() == LABELS
    assert labels_of(Wrapper(dataset)).tolist() == LABELS
    assert labels_of(Subset(dataset, [5, 0])).tolist() == [2, 0]
    assert labels_of(ConcatDataset([dataset, Subset(dataset, [4])])).tolist() == [*LABELS, 1]
    assert dataset.read == 0


@pytest.mark.parametrize("columns", [{}, {"targets": ["a"] * 6}, {"targets": [1, 2]}, {"labels": lambda: LABELS}])
def test_nothing_usable_is_none(columns: Any) -> None:
    assert labels_of(Reading(**columns)) is None


def test_tensor_dataset_and_random_split() -> None:
    dataset = TensorDataset(torch.randn(6, 2), torch.tensor(LABELS))
    part, _ = random_split(dataset, [4, 2], torch.Generator().manual_seed(0))
    assert labels_of(part).tolist() == [LABELS[index] for index in part.indices]
    assert labels_of(TensorDataset(torch.randn(6, 2))) is None
    assert labels_of(TensorDataset(torch.randn(6, 2), torch.zeros(6), torch.tensor(LABELS)), (2,)).tolist() == LABELS


def test_image_folder(tmp_path: Path) -> None:
    for name in "ab":
        (tmp_path / name).mkdir()
        (tmp_path / name / "0.png").write_bytes(b"never opened")
    assert labels_of(ImageFolder(str(tmp_path))).tolist() == [0, 1]


def test_labels_that_a_transform_changes_are_noticed() -> None:
    dataset = Reading(targets=LABELS)
    assert agree_with_items(torch.tensor(LABELS), dataset, (1,))
    assert not agree_with_items(torch.tensor(LABELS) + 1, dataset, (1,))
    assert not agree_with_items(torch.tensor(LABELS), dataset, (2,)), "no such place in an example"


class EveryOther(Sampler[int]):
    def __iter__(self) -> Any:
        return iter([0, 2, 4])

    def __len__(self) -> int:
        return 3


def loader(**options: Any) -> Any:
    return DataLoader(TensorDataset(torch.randn(6, 2), torch.tensor(LABELS)), **options)


def test_draws() -> None:
    weights = [0.0, 1.0, 2.0, 3.0, 4.0, 5.0]
    assert draws(loader(batch_size=2)) is None
    assert draws(loader(batch_size=2, shuffle=True)) is None
    assert draws(loader(batch_size=None)) is None
    assert draws(loader(sampler=WeightedRandomSampler(weights, 6))).tolist() == weights
    assert draws(loader(sampler=SubsetRandomSampler([1, 3, 3]))).tolist() == [0, 1, 0, 2, 0, 0]
    assert draws(loader(sampler=EveryOther())).tolist() == [1, 0, 1, 0, 1, 0]
    batches = BatchSampler(SequentialSampler(range(4)), 3, drop_last=True)
    assert draws(loader(batch_sampler=batches)) is None, "a plain BatchSampler draws what its sampler draws"

    class Balanced(BatchSampler):
        def __iter__(self) -> Any:
            yield from ([0, 1], [0, 2], [0, 5])

    assert draws(loader(batch_sampler=Balanced(RandomSampler(range(6)), 2, False))).tolist() == [3, 1, 1, 0, 0, 1]


def test_running_a_sampler_moves_no_random_numbers() -> None:
    class Shuffled(Sampler[int]):
        def __init__(self) -> None:
            self.generator = torch.Generator().manual_seed(0)

        def __iter__(self) -> Any:
            torch.rand(3)
            return iter(torch.randperm(6, generator=self.generator).tolist())

        def __len__(self) -> int:
            return 6

    sampler = Shuffled()
    loaded = loader(sampler=sampler)
    states = torch.get_rng_state(), sampler.generator.get_state()
    assert draws(loaded).tolist() == [1] * 6
    assert torch.equal(torch.get_rng_state(), states[0])
    assert torch.equal(sampler.generator.get_state(), states[1])
