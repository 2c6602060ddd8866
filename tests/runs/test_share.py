"""The options `--subset` and `--all_data` for data of others, and what contradicts what."""

import lightning as L
import pytest
import torch
from torch.utils.data import DataLoader, IterableDataset

from lightning_recipe.data import DigitsDataModule
from lightning_recipe.runs.share import use_share


class Stream(L.LightningDataModule):
    def train_dataloader(self) -> DataLoader:
        return DataLoader(type("Endless", (IterableDataset,), {"__iter__": lambda self: iter(range(9))})())


@pytest.mark.parametrize(
    ("options", "option"),
    [
        ({"fold": "1/5"}, "--fold 1/5@0"),
        ({"held_out": "2/5@3"}, "--held_out 2/5@3"),
        ({"subset": "40@7", "fold": None}, "--subset 40@7"),
        ({"subset": "40"}, "--subset 40@0"),
        ({"all_data": "kept"}, "--all_data kept"),
    ],
)
def test_our_data_does_it_itself(options: dict[str, str], option: str) -> None:
    data = DigitsDataModule()
    use_share(options, data)
    assert data.share.option == option


def test_a_fold_is_for_training_alone_and_what_the_others_leave_is_not() -> None:
    for options, option in (({"fold": "1/5"}, None), ({"held_out": "1/5"}, "--held_out 1/5@0")):
        data = DigitsDataModule()
        use_share(options, data, training=False)
        assert (data.share and data.share.option) == option


def test_subsets_of_data_of_others(foreign, numbers_in) -> None:
    def chosen(text: str, **options) -> list[int]:
        data = foreign(**options)
        use_share({"subset": text}, data)
        assert numbers_in(data.val_dataloader()) == list(range(100, 150))
        return numbers_in(data.train_dataloader())

    parts = [chosen(text, batch_size=1) for text in ("10", "30", "100")]
    assert [len(part) for part in parts] == [10, 30, 100]
    assert set(parts[0]) < set(parts[1]) < set(parts[2]) == set(range(100))
    assert [sum(number % 10 == 0 for number in part) for part in parts] == [1, 3, 10]
    torch.manual_seed(99)
    assert set(chosen("30", batch_size=1)) == set(parts[1]), "the same on all ranks"
    assert set(chosen("30@1", batch_size=1)) != set(parts[1])
    assert len(chosen("30", classes=False, batch_size=1)) == 30
    assert len(chosen("5", batch_size=8)) == 5, "less than a batch, which drop_last would leave out"
    assert len(chosen("30", batch_size=8)) == 24


def test_a_bootstrap_sample_is_drawn_of_the_subset(foreign, numbers_in) -> None:
    data = foreign(batch_size=1)
    use_share({"subset": "30", "bootstrap": 1}, data)
    drawn = numbers_in(data.train_dataloader())
    assert len(drawn) == 30
    assert 15 <= len(set(drawn)) < 25


def test_all_data_of_others(foreign, numbers_in) -> None:
    data = foreign(batch_size=1)
    use_share({"all_data": "anew"}, data)
    assert sorted(numbers_in(data.train_dataloader())) == list(range(150))
    assert numbers_in(data.val_dataloader()) == list(range(100, 150))
    assert numbers_in(data.train_dataloader()) != numbers_in(data.train_dataloader())


def test_loaders_of_the_model_serve_as_well(foreign, numbers_in) -> None:
    data = foreign(batch_size=1)
    model = type("Own", (L.LightningModule,), {name: staticmethod(getattr(data, name)) for name in HOOKS})()
    use_share({"subset": "30"}, None, model)
    assert len(numbers_in(model.train_dataloader())) == 30
    use_share({"all_data": "anew"}, None, model)
    assert len(numbers_in(model.train_dataloader())) == 80


HOOKS = ("train_dataloader", "val_dataloader")


@pytest.mark.parametrize(
    "options",
    [{"fold": "1/5", "held_out": "1/5"}, {"subset": "9", "held_out": "1/5"}, {"fold": "1/5", "all_data": "anew"}],
)
def test_options_that_contradict_each_other(options: dict[str, str]) -> None:
    with pytest.raises(
        ValueError, match=r"--\w+ \S+ and --\w+ \S+ were given, but each says by itself what is trained"
    ):
        use_share(options, DigitsDataModule())


@pytest.mark.parametrize(
    ("options", "data", "said"),
    [
        *(
            ({"subset": text}, DigitsDataModule, "must be COUNT or COUNT@SEED, as in 100")
            for text in ("", "0", "-5", "1.5", "5@")
        ),
        (
            {"subset": "5"},
            L.LightningDataModule,
            "--subset 5 needs training data, but LightningDataModule has no train_",
        ),
        ({"all_data": "anew"}, Stream, "--all_data anew needs validation data, but Stream has no val_dataloader"),
    ],
)
def test_what_cannot_be_shared_out_is_said_at_once(options: dict[str, str], data: type, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        use_share(options, data())


def test_what_turns_out_when_loaders_are_made(foreign) -> None:
    stream, several, short = Stream(), foreign(loaders=2), foreign()
    use_share({"subset": "5"}, stream)
    with pytest.raises(ValueError, match="--subset cannot take a part of the training data, for Endless streams its"):
        stream.train_dataloader()
    use_share({"all_data": "kept"}, several)
    with pytest.raises(ValueError, match=r"--all_data cannot join .* data, for there are 2 DataLoaders: give one"):
        several.train_dataloader()
    use_share({"subset": "101"}, short)
    with pytest.raises(ValueError, match=r"A subset of 101 training examples .* but there are 100"):
        short.train_dataloader()
