from typing import Any

import lightning as L
import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits
from torch.utils.data import DataLoader
from torch.utils.data.distributed import DistributedSampler

from lightning_recipe.data import DigitsDataModule


def _ready(**options) -> DigitsDataModule:
    data = DigitsDataModule(**options)
    data.setup("fit")
    return data


def test_split_is_70_20_10_and_stratified() -> None:
    data = _ready()
    counts = {split: np.bincount(data.labels(split)) for split in ("train", "val", "test")}
    assert sum(counts.values()).tolist() == np.bincount(load_digits().target).tolist()
    for split, share in [("train", 0.7), ("val", 0.2), ("test", 0.1)]:
        assert counts[split].sum() / 1797 == pytest.approx(share, abs=0.005)
        assert np.ptp(counts[split] / sum(counts.values())) < 0.03


def test_normalised_with_training_statistics_only() -> None:
    data = _ready()
    train = data.datasets["train"].x
    assert train.shape[1:] == (1, 8, 8)
    assert train.dtype == torch.float32
    assert train.mean().item() == pytest.approx(0, abs=1e-5)
    assert train.std().item() == pytest.approx(1, abs=1e-5)
    # The same map from pixels for all splits: pixel value 0 becomes one and the same number.
    assert {data.datasets[split].x.min().item() for split in ("train", "val", "test")} == {train.min().item()}
    assert data.datasets["val"].x.mean().item() != pytest.approx(0, abs=1e-5)


def test_splits_share_no_example_and_depend_on_the_split_seed_only() -> None:
    torch.manual_seed(5)
    first = _ready()
    torch.manual_seed(6)
    second, third = _ready(), _ready(split_seed=1)
    assert torch.equal(first.datasets["test"].x, second.datasets["test"].x)
    assert not torch.equal(first.datasets["test"].x, third.datasets["test"].x[: len(first.labels("test"))])
    seen = [tuple(x.flatten().tolist()) for split in first.datasets.values() for x in split.x]
    assert len(seen) == 1797
    assert len(seen) - len(set(seen)) == 1797 - len({tuple(x.ravel()) for x in load_digits().images})


def test_images_can_be_enlarged() -> None:
    image, label = next(iter(_ready(image_size=32, batch_size=4).val_dataloader()))
    assert image.shape == (4, 1, 32, 32)
    assert label.dtype == torch.int64


def test_rows_are_the_same_digits_as_sequences() -> None:
    images, rows = _ready(), _ready(form="rows", batch_size=5)
    batch = next(iter(rows.test_dataloader()))
    assert batch["x"].shape == (5, 8, 8)
    assert batch["length"].tolist() == [8] * 5
    assert torch.equal(batch["x"][2], images.datasets["test"].x[2, 0])
    assert batch["y"].tolist() == images.labels("test")[:5].tolist()


def test_training_is_shuffled_and_the_rest_is_in_order() -> None:
    data = _ready(batch_size=64)
    torch.manual_seed(0)
    first, second = ([y.tolist() for _, y in data.train_dataloader()] for _ in range(2))
    assert first != second
    assert {len(labels) for labels in first} == {64}
    for split, loader in [("val", data.val_dataloader()), ("test", data.test_dataloader())]:
        assert torch.cat([y for _, y in loader]).tolist() == data.labels(split).tolist()


class Reader(L.LightningModule):
    """Keeps the labels that each step sees."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = torch.nn.Linear(64, 10)
        self.seen: list[list[int]] = []

    def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
        x, y = batch
        self.seen.append(y.tolist())
        return torch.nn.functional.cross_entropy(self.layer(x.flatten(1)), y)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), 0.1)


def steps_of_one_process(seed: int) -> list[list[int]]:
    L.seed_everything(seed, verbose=False)
    reader, quiet = Reader(), dict.fromkeys(("logger", "enable_checkpointing", "enable_progress_bar"), False)
    trainer = L.Trainer(accelerator="cpu", max_epochs=2, limit_val_batches=0, enable_model_summary=False, **quiet)
    trainer.fit(reader, datamodule=DigitsDataModule(batch_size=32))
    return reader.seen


@pytest.mark.filterwarnings("ignore")
def test_one_process_sees_the_global_batches_of_two() -> None:
    seen = steps_of_one_process(seed=5)
    dataset = _ready().datasets["train"]
    for epoch in range(2):
        ranks = [DistributedSampler(dataset, 2, rank, seed=5) for rank in range(2)]  # as Lightning makes them
        for sampler in ranks:
            sampler.set_epoch(epoch)
        shares = [DataLoader(dataset, 16, sampler=sampler, drop_last=True) for sampler in ranks]
        together = [sorted(torch.cat([a[1], b[1]]).tolist()) for a, b in zip(*shares, strict=True)]
        assert [sorted(labels) for labels in seen[epoch * 39 : epoch * 39 + 39]] == together
    assert len(seen) == 78
    assert steps_of_one_process(seed=5) == seen
    assert steps_of_one_process(seed=6) != seen


def test_unknown_form() -> None:
    with pytest.raises(ValueError, match="form='columns' was given"):
        DigitsDataModule(form="columns")
