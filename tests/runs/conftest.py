"""Shared by the tests of runs: data as other people write it."""

import lightning as L
import pytest
import torch
from torch.utils.data import DataLoader, TensorDataset

NUMBERS = torch.arange(200)
CLASSES = (NUMBERS % 10 == 0).long()


class Foreign(L.LightningDataModule):
    """Two hundred numbered examples, a tenth of class 1; the first half to train on, then a quarter for the rest each.

    With `classes` false, the targets are real numbers, as in regression.
    """

    def __init__(self, classes: bool = True, batch_size: int = 8, loaders: int = 1) -> None:
        super().__init__()
        self.targets = CLASSES if classes else NUMBERS / 7
        self.batch_size, self.loaders = batch_size, loaders
        self.train, self.val = torch.arange(100), torch.arange(100, 150)

    def setup_fold(self, k: int, n: int, seed: int = 0) -> None:
        pool = torch.randperm(150, generator=torch.Generator().manual_seed(seed))
        self.val, self.train = pool[k::n], torch.cat([pool[other::n] for other in range(n) if other != k])

    def train_dataloader(self):
        made = [self._loader(self.train, shuffle=True, drop_last=True) for _ in range(self.loaders)]
        return made[0] if self.loaders == 1 else made

    def val_dataloader(self) -> DataLoader:
        return self._loader(self.val)

    def test_dataloader(self) -> DataLoader:
        return self._loader(torch.arange(150, 200))

    def _loader(self, part: torch.Tensor, **options) -> DataLoader:
        return DataLoader(TensorDataset(NUMBERS[part], self.targets[part]), batch_size=self.batch_size, **options)


@pytest.fixture
def foreign() -> type[Foreign]:
    return Foreign


@pytest.fixture
def numbers_in():
    """Which examples a loader gives, in its order."""

    def read(loader) -> list[int]:
        return [int(number) for x, *_ in loader for number in x]

    return read
