import numpy as np
import pytest

from lightning_recipe.data import DigitsDataModule, ImageFolderDataModule
from lightning_recipe.data.folds import Fold

TARGETS = [0] * 17 + [2] * 5 + [1] * 8


def test_held_out_parts_are_a_partition_alike_in_size_and_classes() -> None:
    cuts = [Fold(k, 5, seed=3).split(TARGETS) for k in range(5)]
    assert sorted(np.concatenate([held_out for _, held_out in cuts])) == list(range(30))
    assert all(sorted([*train, *held_out]) == list(range(30)) for train, held_out in cuts)
    counts = np.array([np.bincount(np.take(TARGETS, held_out), minlength=3) for _, held_out in cuts])
    assert np.ptp(counts, axis=0).max() <= 1
    assert set(counts.sum(axis=1)) == {6}


def test_the_cut_follows_from_its_seed() -> None:
    cuts = [Fold(1, 3, seed).split(TARGETS)[1].tolist() for seed in (0, 0, 1)]
    assert cuts[0] == cuts[1] != cuts[2]


@pytest.mark.parametrize("wrong", [(0, 1, 0), (5, 5, 0), (-1, 5, 0), (0, 5, -1)])
def test_folds_that_do_not_exist(wrong: tuple[int, int, int]) -> None:
    with pytest.raises(ValueError, match="there must be at least 2 folds, counted from 0"):
        Fold(*wrong)


def test_too_few_examples_of_a_class() -> None:
    with pytest.raises(ValueError, match="Class 'c' has 5 examples, which is too few for 6 folds: ask for 5"):
        Fold(0, 6).split(TARGETS, ["a", "b", "c"])


def ready(fold: tuple[int, int, int] | None = None, data: type = DigitsDataModule, **options):
    made = data(**options)
    if fold is not None:
        made.setup_fold(*fold)
    made.setup("fit")
    return made


def keys(data: DigitsDataModule, split: str) -> list[tuple[float, ...]]:
    return [tuple(x.flatten().tolist()) for x in data.datasets[split].x]


def test_digits_are_validated_on_the_fold_and_tested_as_before() -> None:
    whole, folds = ready(), [ready((k, 4, 7)) for k in range(4)]
    training = sorted(keys(whole, "train"))
    assert sorted(key for data in folds for key in keys(data, "val")) == training
    for data in folds:
        assert sorted(keys(data, "train") + keys(data, "val")) == training, "the inputs are the same numbers"
        assert keys(data, "test") == keys(whole, "test")
        assert not set(keys(data, "val")) & set(keys(whole, "val")) - set(training)
        assert data.normalisation == whole.normalisation
    assert len(whole.labels("val")) != len(folds[0].labels("val"))


def test_a_fold_may_be_set_up_after_another() -> None:
    data = ready((0, 4, 7))
    data.setup_fold(1, 4, 7)
    data.setup("fit")
    assert keys(data, "val") == keys(ready((1, 4, 7)), "val")


@pytest.mark.parametrize("validation_folder", [False, True])
def test_folds_of_an_image_folder(make_folder, validation_folder: bool) -> None:
    root = make_folder({"a": 8, "b": 12}, under="images/train" if validation_folder else "images")
    if validation_folder:
        make_folder({"a": 3, "b": 3}, under="images/val")
        root = root.parent
    options = {"data": ImageFolderDataModule, "root": str(root), "image_size": 8, "num_workers": 0}
    whole, folds = ready(**options), [ready((k, 3, 0), **options) for k in range(3)]
    training = sorted(whole.datasets["train"].paths)
    assert sorted(path for data in folds for path in data.datasets["val"].paths) == training
    for data in folds:
        both = data.datasets["train"].paths + data.datasets["val"].paths
        assert sorted(both) == training
        assert not set(both) & set(whole.datasets["val"].paths)
        assert [path.parent.name for path in data.datasets["val"].paths] == [
            data.class_names[label] for label in data.labels("val")
        ]
        assert data.normalisation == whole.normalisation
    with pytest.raises(ValueError, match=r"Class 'a' has [57] examples, which is too few for 9 folds"):
        ready((0, 9, 0), **options)
