import lightning as L
import pytest
import torch
from lightning.pytorch.utilities import CombinedLoader
from torch.utils.data import (
    DataLoader,
    IterableDataset,
    SubsetRandomSampler,
    TensorDataset,
    WeightedRandomSampler,
)

from lightning_recipe.data import DigitsDataModule
from lightning_recipe.runs.bootstrap import bootstrapped, use_bootstrap
from lightning_rules.labels import labels_of

DATA = TensorDataset(torch.arange(1000.0)[:, None], torch.arange(1000) % 10)
QUIET = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False, "enable_model_summary": False}


def read(loader) -> list[int]:
    return [int(number) for x, _ in loader for number in x[:, 0]]


def test_as_many_are_drawn_with_replacement() -> None:
    first, again, other = (bootstrapped(lambda: DataLoader(DATA, batch_size=8), seed) for seed in (1, 1, 2))
    drawn = read(first)
    assert len(drawn) == 1000
    assert len(set(drawn)) == pytest.approx(632, abs=45), "1 - 1/e of them"
    assert read(again) == drawn != read(other)
    assert labels_of(first.dataset).tolist() == [number % 10 for number in drawn]


def test_the_loader_stays_as_it_was() -> None:
    made = DataLoader(DATA, batch_size=8, shuffle=True, drop_last=True)
    loader = bootstrapped(lambda: made, 1)
    assert (loader.batch_size, loader.drop_last) == (8, True)
    assert read(loader) != read(loader)
    assert sorted(read(loader)) == sorted(read(loader))
    assert made.dataset is DATA, "the one that was handed out is not changed"


def test_several_loaders() -> None:
    loaders = bootstrapped(lambda: {"a": DataLoader(DATA), "b": DataLoader(DATA)}, 1)
    assert read(loaders["a"]) == read(bootstrapped(lambda: DataLoader(DATA), 1)) != read(loaders["b"])
    combined = bootstrapped(lambda: CombinedLoader([DataLoader(DATA)], "sequential"), 1)
    assert isinstance(combined, CombinedLoader)
    assert [int(batch[0]) for batch, *_ in combined] == read(loaders["a"])


class Stream(IterableDataset):
    def __iter__(self):
        return iter(DATA)


@pytest.mark.parametrize(
    ("loader", "said"),
    [
        (lambda: DataLoader(Stream()), "Stream streams its examples: give a data set whose examples have numbers"),
        (lambda: {1, 2}, "set is no DataLoader of torch"),
        (lambda: DataLoader(DATA, sampler=WeightedRandomSampler([1.0] * 1000, 5)), "WeightedRandomSampler chooses"),
        (lambda: DataLoader(DATA, sampler=SubsetRandomSampler([1, 2])), "SubsetRandomSampler chooses the examples:"),
        (lambda: DataLoader(DATA, batch_sampler=[[1], [2]]), "list chooses the examples"),
    ],
)
def test_what_cannot_be_drawn_from_is_said(loader, said: str) -> None:
    with pytest.raises(ValueError, match=f"^--bootstrap cannot draw a sample of the training data, for {said}"):
        bootstrapped(loader, 1)


def test_seed_and_data_are_looked_at_first() -> None:
    with pytest.raises(ValueError, match="--bootstrap -1 was given, but a seed is at least 0"):
        use_bootstrap(-1, DigitsDataModule(), None)
    with pytest.raises(ValueError, match="LightningModule has no train_dataloader"):
        use_bootstrap(1, None, L.LightningModule())


class Reader(L.LightningModule):
    """Keeps what it trains and validates on."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = torch.nn.Linear(64, 10)
        self.trained, self.validated = [], []

    def training_step(self, batch, batch_idx):
        self.trained += [tuple(x.flatten().tolist()) for x in batch[0]]
        return torch.nn.functional.cross_entropy(self.layer(batch[0].flatten(1)), batch[1])

    def validation_step(self, batch, batch_idx):
        self.validated += [tuple(x.flatten().tolist()) for x in batch[0]]

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), 0.1)


def test_a_run_trains_on_the_sample_and_validates_on_all() -> None:
    data, reader = DigitsDataModule(batch_size=64), Reader()
    use_bootstrap(3, data, reader)
    trainer = L.Trainer(accelerator="cpu", max_epochs=2, num_sanity_val_steps=0, **QUIET)
    trainer.fit(reader, datamodule=data)
    first, second = reader.trained[:1216], reader.trained[1216:]
    assert len(second) == 1216
    assert len({*first, *second}) == pytest.approx(0.632 * 1257, abs=50)
    assert first != second
    assert len(set(reader.validated)) == len(data.labels("val"))
