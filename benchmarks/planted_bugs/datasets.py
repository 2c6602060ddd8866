"""scikit-learn's digits, diabetes and breast cancer, split anew for each seed."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import torch
from sklearn.datasets import load_breast_cancer, load_diabetes, load_digits
from sklearn.model_selection import train_test_split
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, TensorDataset


class Rows(NamedTuple):
    """Inputs and targets of one split."""

    x: Tensor
    y: Tensor

    def dataset(self) -> TensorDataset:
        return TensorDataset(self.x, self.y)

    def loader(self, batch: int = 32, shuffle: bool = False, **options: Any) -> DataLoader:
        return DataLoader(self.dataset(), batch_size=batch, shuffle=shuffle, **options)

    def keep(self, rows: Tensor) -> Rows:
        return Rows(self.x[rows], self.y[rows])

    def labelled(self, labels: Tensor) -> Rows:
        return Rows(self.x, labels)


class Splits(NamedTuple):
    """Training, validation and clean test rows, which share no row."""

    train: Rows
    validation: Rows
    test: Rows


class Transformed(Dataset):
    """Examples that pass through a function on their way out, as (input, label) or as a dictionary."""

    def __init__(self, rows: Rows, transform: Callable[[Tensor], Tensor], as_dict: bool = False) -> None:
        self.rows, self.transform, self.as_dict = rows, transform, as_dict

    def __len__(self) -> int:
        return len(self.rows.x)

    def __getitem__(self, index: int) -> Any:
        x, y = self.transform(self.rows.x[index]), self.rows.y[index]
        return {"image": x, "label": y} if self.as_dict else (x, y)


@functools.cache
def _digits() -> tuple[Tensor, Tensor]:
    bunch = load_digits()
    return torch.tensor(bunch.images, dtype=torch.float32)[:, None], torch.tensor(bunch.target)


def digits(seed: int, train: int = 900, validation: int = 300, scale: str = "standard") -> Splits:
    """Images [N, 1, 8, 8] and labels [N]; "standard": mean 0 and variance 1; "unit": [0, 1]; "raw": 0 to 16."""
    splits = split(*_digits(), seed, train, validation, stratify=True)
    mean, spread = {
        "standard": (splits.train.x.mean(), splits.train.x.std()),
        "unit": (torch.tensor(0.0), torch.tensor(16.0)),
        "raw": (torch.tensor(0.0), torch.tensor(1.0)),
    }[scale]
    return Splits(*(Rows((rows.x - mean) / spread, rows.y) for rows in splits))


def diabetes(seed: int) -> Splits:
    """Standardised features [N, 10] and targets [N] as they come: 25 to 346."""
    x, y = load_diabetes(return_X_y=True)
    return standardise(split(_float(x), _float(y), seed, 300, 60, stratify=False))


def cancer(seed: int, standardised: bool = True) -> Splits:
    """Features [N, 30], standardised or as they come, and labels [N], 0 or 1, as floats."""
    x, y = load_breast_cancer(return_X_y=True)
    splits = split(_float(x), _float(y), seed, 340, 100, stratify=True)
    return standardise(splits) if standardised else splits


def scaled_target(splits: Splits) -> Splits:
    """The targets with zero mean and unit variance, as of the training rows."""
    mean, spread = splits.train.y.mean(), splits.train.y.std()
    return Splits(*(Rows(rows.x, (rows.y - mean) / spread) for rows in splits))


def _float(values: np.ndarray) -> Tensor:
    return torch.tensor(values, dtype=torch.float32)


def standardise(splits: Splits) -> Splits:
    """The inputs with zero mean and unit variance a feature, as of the training rows."""
    mean, spread = splits.train.x.mean(0), splits.train.x.std(0)
    return Splits(*(Rows((rows.x - mean) / spread, rows.y) for rows in splits))


def split(x: Tensor, y: Tensor, seed: int, train: int, validation: int, stratify: bool) -> Splits:
    """So many rows to train and to validate on; the others, at most 500, are the clean test set."""
    seen, test = train_test_split(
        np.arange(len(x)), train_size=train + validation, random_state=seed, stratify=y if stratify else None
    )
    fit, held_out = train_test_split(seen, train_size=train, random_state=seed, stratify=y[seen] if stratify else None)
    return Splits(*(Rows(x[rows], y[rows]) for rows in (fit, held_out, test[:500])))
