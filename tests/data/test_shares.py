"""What a fit gets: nested folds, subsets and everything, of digits and of folders of images."""

from itertools import chain, pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits

from lightning_recipe.data import DigitsDataModule, ImageFolderDataModule, digits
from lightning_recipe.data.shares import stratified_subset

PIXELS = {tuple(image.flatten()): index for index, image in enumerate(load_digits().images)}


def ready(how: str = "", *arguments, **options) -> DigitsDataModule:
    data = DigitsDataModule(**options)
    if how:
        getattr(data, f"setup_{how}")(*arguments)
    data.setup("fit")
    return data


def indices(data: DigitsDataModule, split: str) -> list[int]:
    """Which of scikit-learn's digits they are, from the pixels that the normalisation has left."""
    x = data.datasets[split].x * data.normalisation.std[0] + data.normalisation.mean[0]
    return [PIXELS[tuple(image.flatten().round().tolist())] for image in x]


def test_nested_folds_hold_each_example_of_training_and_validation_out_once() -> None:
    whole = ready()
    pool = sorted(indices(whole, "train") + indices(whole, "val"))
    folds = [ready("fold", k, 3, 1, True) for k in range(3)]
    assert sorted(np.concatenate([data.held_out for data in folds])) == pool
    for data in folds:
        assert data.held_out.tolist() == indices(data, "test") == indices(data, "predict") == sorted(data.held_out)
        assert data.pool_size == whole.pool_size == len(pool)
        parts = [indices(data, split) for split in ("train", "val", "test")]
        assert sorted(chain(*parts)) == pool, "each once, and nothing of the configured test split"
        assert [len(part) / len(pool) for part in parts] == pytest.approx([8 / 15, 2 / 15, 1 / 3], abs=0.01)
    assert whole.held_out is None


def test_a_plain_fold_tells_what_it_holds_out() -> None:
    data = ready("fold", 1, 4, 7)
    assert data.held_out.tolist() == indices(data, "val")
    assert data.pool_size == len(indices(ready(), "train")) + len(indices(ready(), "val"))


SHARES = [("fold", 0, 4, 1, True), ("subset", 50, 1), ("all", "anew")]


@pytest.mark.parametrize("share", SHARES, ids=str)
def test_statistics_are_those_of_what_is_trained_on(share: tuple, monkeypatch: pytest.MonkeyPatch) -> None:
    data = ready(*share)
    x = torch.as_tensor(load_digits().images[indices(data, "train")], dtype=torch.float32)
    assert data.normalisation.mean == pytest.approx((x.mean().item(),))
    assert data.normalisation.std == pytest.approx((x.std().item(),))
    poisoned, others = load_digits(), np.setdiff1d(np.arange(1797), indices(data, "train"))
    poisoned.images[others] += 1e6
    monkeypatch.setattr(digits, "load_digits", lambda: poisoned)
    again = ready(*share)
    assert again.normalisation == data.normalisation
    assert torch.equal(again.datasets["train"].x, data.datasets["train"].x)
    assert again.datasets["test"].x.min() > 1e3


def test_all_of_the_data_is_validated_as_before() -> None:
    whole, anew, kept = ready(), ready("all", "anew"), ready("all", "kept")
    for data in (anew, kept):
        assert indices(data, "train") == sorted(indices(whole, "train") + indices(whole, "val"))
        assert [indices(data, split) for split in ("val", "test")] == [indices(whole, s) for s in ("val", "test")]
    assert kept.normalisation == whole.normalisation != anew.normalisation
    with pytest.raises(ValueError, match="statistics='old' was given, but they are either anew or kept"):
        DigitsDataModule().setup_all("old")  # type: ignore[arg-type]


def test_subsets_of_digits_lie_within_each_other() -> None:
    whole = ready()
    chosen = [ready("subset", count, 3) for count in (10, 37, 400, len(whole.labels("train")))]
    parts = [set(indices(data, "train")) for data in chosen]
    assert [len(part) for part in parts] == [10, 37, 400, 1259]
    assert all(smaller < larger for smaller, larger in pairwise(parts))
    assert parts[-1] == set(indices(whole, "train"))
    assert sorted(chosen[0].labels("train")) == list(range(10))
    assert all(indices(data, "val") == indices(whole, "val") for data in chosen)
    assert parts[1] != set(indices(ready("subset", 37, 4), "train"))


def test_subsets_keep_classes_in_proportion() -> None:
    labels = np.array([0] * 700 + [1] * 290 + [2] * 10)
    for count in (3, 50, 100, 333, 999):
        part = np.bincount(labels[stratified_subset(labels, 1000, count, seed=5)], minlength=3)
        assert part.sum() == count
        assert part.min() >= 1
        assert part / count == pytest.approx(np.array([0.7, 0.29, 0.01]), abs=2 / count)
    assert len(stratified_subset(None, 20, 5, 0)) == 5


@pytest.mark.parametrize(
    ("count", "seed", "said"),
    [
        (
            1260,
            0,
            "A subset of 1260 training examples with seed 0 was asked for, but there are 1259: ask for 1 to 1259",
        ),
        (0, 0, "A subset of 0 training examples"),
        (20, -1, "with seed -1 was asked for, .* and a seed of at least 0"),
        (9, 0, "A subset of 9 training examples was asked for, but there are 10 classes, each of which needs one"),
    ],
)
def test_subsets_that_do_not_exist(count: int, seed: int, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        ready("subset", count, seed)


def of_folder(root: Path, how: str = "", *arguments, **options) -> ImageFolderDataModule:
    data = ImageFolderDataModule(str(root), image_size=4, num_workers=0, **options)
    if how:
        getattr(data, f"setup_{how}")(*arguments)
    data.prepare_data()
    data.setup("fit")
    return data


def names(data: ImageFolderDataModule, split: str) -> list[str]:
    return [path.relative_to(data.root).as_posix() for path in data.datasets[split].paths]


def test_nested_folds_of_folders_for_training_and_validation(make_folder) -> None:
    make_folder({"a": 9, "b": 9}, under="images/train")
    make_folder({"a": 3, "b": 6}, under="images/val")
    make_folder({"a": 2, "b": 2}, under="images/test")
    make_folder({"a": 1}, under="new")
    root = Path("images")
    whole = of_folder(root)
    read = names(whole, "train") + names(whole, "val")
    folds = [of_folder(root, "fold", k, 3, 0, True, predict_folder="new") for k in range(3)]
    assert sorted(np.concatenate([data.held_out for data in folds])) == list(range(27))
    for data in folds:
        assert names(data, "test") == names(data, "predict") == [read[index] for index in data.held_out]
        assert sorted(chain(*(names(data, split) for split in ("train", "val", "test")))) == sorted(read)
        x = torch.stack([image for image, _ in data.datasets["train"]])
        torch.testing.assert_close(x.mean((0, 2, 3)), torch.zeros(3), atol=1e-4, rtol=0)
    assert names(of_folder(root, "all", "anew"), "train") == read


def patients(make_folder, counts: dict[str, int], under: str = "images") -> Path:
    """Files of so many patients in each class, four of each, called p00_0.png and so on."""
    root = make_folder({name: 4 * count for name, count in counts.items()}, under=under)
    for name in counts:
        for path in (root / name).iterdir():
            number = int(path.stem)
            path.rename(path.with_name(f"{name}p{number // 4:02d}_{number % 4}.png"))
    return root


def sides(data: ImageFolderDataModule) -> list[set[str]]:
    return [{name.rpartition("/")[2].partition("_")[0] for name in names(data, s)} for s in ("train", "val", "test")]


def test_patients_are_never_on_two_sides(make_folder) -> None:
    root = patients(make_folder, {"a": 8, "b": 8})
    options = {"group_pattern": r"/(.p\d+)_", "test_fraction": 0.2}
    for data in (of_folder(root, **options), of_folder(root, "fold", 0, 4, 0, True, **options)):
        apart = sides(data)
        assert sum(map(len, apart)) == len(set.union(*apart))
        assert all(set(data.labels(split)) == {0, 1} for split in ("train", "val", "test"))
    assert [len(part) for part in sides(of_folder(root, **options))] == pytest.approx([10, 3, 3], abs=1)
    mixed = sides(of_folder(root))
    assert sum(map(len, mixed)) > len(set.union(*mixed)), "without the pattern they are"


@pytest.mark.parametrize(
    ("pattern", "said"),
    [
        (r"(q\d+)_", r"group_pattern='\(q.*matches nothing in a/ap00_0.png, so that its group is unknown"),
        (r"([", r"is no regular expression \(unterminated"),
        (r"0\d_(0|1|2)?", "matches nothing in a/ap00_3.png"),
        (r"p0", r"The number of groups \(p0\) is 1, too few to be split into train, val, test: it must be 3 at least"),
        (r"^.", "Class '.' is only in groups that are held out for val and test: give another seed for the split"),
    ],
)
def test_groups_that_cannot_be_told_or_split(make_folder, pattern: str, said: str) -> None:
    root = patients(make_folder, {"a": 6, "b": 6, "c": 6})
    with pytest.raises(ValueError, match=said):
        of_folder(root, group_pattern=pattern)


def test_a_patient_in_two_folders_is_named(make_folder) -> None:
    patients(make_folder, {"a": 4, "b": 4}, under="images/train")
    patients(make_folder, {"a": 1}, under="images/test")
    with pytest.raises(ValueError, match="The group ap00 has examples both in train and in test"):
        of_folder(Path("images"), group_pattern=r".p\d+", val_fraction=0.4)
