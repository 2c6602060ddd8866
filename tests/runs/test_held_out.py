import lightning as L
import pytest
import torch
from lightning.fabric.utilities.data import _replace_dunder_methods
from lightning.pytorch.utilities.data import _is_dataloader_shuffled, _update_dataloader
from torch.utils.data import DataLoader
from torch.utils.data.distributed import DistributedSampler

from lightning_recipe.data import DigitsDataModule
from lightning_recipe.data.folds import Fold
from lightning_recipe.runs.held_out import class_labels, use_held_out

QUIET = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False, "enable_model_summary": False}
HOOKS = ("train_dataloader", "val_dataloader", "test_dataloader", "predict_dataloader")


@pytest.fixture
def parts(foreign, numbers_in):
    """Which examples data of others hands out by each of its hooks, with a fold held out."""

    def read(text: str, **options) -> list[list[int]]:
        data = foreign(**{"batch_size": 1, **options})
        use_held_out(text, data)
        return [numbers_in(getattr(data, hook)()) for hook in HOOKS]

    return read


def test_our_data_does_it_itself() -> None:
    data = DigitsDataModule()
    use_held_out("2/5@7", data)
    assert data.fold == Fold(1, 5, 7)
    assert data.share.option == "--held_out 2/5@7"


def test_data_of_others_is_scored_on_its_fold_and_stops_by_another_part(parts, foreign, numbers_in) -> None:
    held_out = []
    for k in range(3):
        train, stopping, test, predict = parts(f"{k + 1}/3@5")
        plain = foreign()
        plain.setup_fold(k, 3, 5)
        assert test == predict == numbers_in(plain.val_dataloader())
        assert sorted([*train, *stopping]) == sorted(plain.train.tolist())
        assert len(stopping) == 20
        held_out += test
    assert sorted(held_out) == list(range(150))


def test_the_part_to_stop_by_is_stratified_in_order_and_the_same_on_all_ranks(parts) -> None:
    train, stopping, *_ = parts("1/3@5")
    assert 1 <= sum(number % 10 == 0 for number in stopping) <= 3
    torch.manual_seed(99)
    again = parts("1/3@5", batch_size=4)
    assert again[1] == stopping, "whatever the generators say; in the order of the data set, each once"
    assert again[0] != train
    assert sorted(again[0]) == sorted(train), "shuffled anew"
    assert set(parts("1/3@6")[1]) != set(stopping)


def test_real_numbers_are_cut_at_random(parts) -> None:
    train, stopping, *_ = parts("1/3", classes=False)
    assert (len(train), len(stopping)) == (80, 20)


class Reader(L.LightningModule):
    """Keeps which examples it gets for what."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = torch.nn.Linear(1, 2)
        self.seen = {"train": [], "val": [], "test": [], "predict": []}

    def step(self, what: str, batch) -> torch.Tensor:
        self.seen[what] += batch[0].tolist()
        return torch.nn.functional.cross_entropy(self.layer(batch[0][:, None] / 200), batch[1])

    def training_step(self, batch, batch_idx):
        return self.step("train", batch)

    def validation_step(self, batch, batch_idx):
        self.step("val", batch)

    def test_step(self, batch, batch_idx):
        self.step("test", batch)

    def predict_step(self, batch, batch_idx):
        return self.step("predict", batch)

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), 0.1)


def test_lightning_trains_stops_tests_and_predicts_so(foreign) -> None:
    data, reader = foreign(batch_size=8), Reader()
    use_held_out("2/3", data)
    trainer = L.Trainer(accelerator="cpu", max_epochs=1, num_sanity_val_steps=0, **QUIET)
    trainer.fit(reader, datamodule=data)
    trainer.test(reader, datamodule=data, verbose=False)
    trainer.predict(reader, datamodule=data)
    seen = reader.seen
    assert len(seen["train"]) == len(set(seen["train"])) == 80
    assert len(seen["val"]) == len(set(seen["val"])) == 20
    assert seen["test"] == seen["predict"] == data.val.tolist()
    assert sorted(seen["train"] + seen["val"] + seen["test"]) == list(range(150))


def test_two_processes_share_what_one_reads(foreign) -> None:
    """As Lightning makes the loaders anew for each rank, from the arguments that it has seen."""
    data = foreign(batch_size=8)
    use_held_out("2/3", data)
    for hook, size, shuffled in (("train_dataloader", 80, True), ("val_dataloader", 20, False)):
        read = []
        for rank in range(2):
            with _replace_dunder_methods(DataLoader, "dataset"):
                loader = getattr(data, hook)()
            assert _is_dataloader_shuffled(loader) == shuffled
            sampler = DistributedSampler(loader.dataset, num_replicas=2, rank=rank, shuffle=shuffled)
            read += [int(number) for batch in _update_dataloader(loader, sampler) for number in batch[0]]
        assert len(read) == len(set(read)) == size


def test_class_labels_are_told_without_inputs(foreign) -> None:
    assert class_labels(foreign().train_dataloader().dataset).sum() == 10
    assert class_labels(foreign(classes=False).train_dataloader().dataset) is None
    assert class_labels([(torch.ones(1), 1)] * 3) is None


class Unvalidated(L.LightningDataModule):
    def setup_fold(self, k: int, n: int, seed: int) -> None: ...

    def train_dataloader(self):
        return []


def test_what_cannot_be_held_out_is_said(foreign) -> None:
    with pytest.raises(ValueError, match="--held_out 6/5 was given, but it must be K/N or K/N@SEED"):
        use_held_out("6/5", DigitsDataModule())
    with pytest.raises(
        ValueError, match=r"--held_out needs data that can be cut, and LightningDataModule has no method"
    ):
        use_held_out("1/5", L.LightningDataModule())
    with pytest.raises(ValueError, match="--held_out 1/5 needs validation data, but Unvalidated has no val_dataloader"):
        use_held_out("1/5", Unvalidated())
    several = foreign(loaders=2)
    use_held_out("1/5", several)
    with pytest.raises(ValueError, match=r"--held_out cannot take a part .* to stop by, for there are 2 DataLoaders"):
        several.train_dataloader()
