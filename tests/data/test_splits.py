from collections import Counter

import numpy as np
import pytest

from lightning_recipe.data.splits import stratified_split

FRACTIONS = {"val": 0.2, "test": 0.1}


def test_every_example_once_and_classes_in_proportion() -> None:
    targets = np.random.default_rng(0).choice(3, size=1000, p=[0.7, 0.2, 0.1])
    parts = stratified_split(targets, FRACTIONS, seed=3)
    assert sorted(np.concatenate(list(parts.values())).tolist()) == list(range(1000))
    for name, share in {"train": 0.7, **FRACTIONS}.items():
        counts = Counter(targets[parts[name]].tolist())
        for label, total in Counter(targets.tolist()).items():
            assert counts[label] == pytest.approx(share * total, abs=1)


def test_the_seed_decides_and_nothing_else() -> None:
    targets = [0, 1] * 50
    first = stratified_split(targets, FRACTIONS, seed=3)
    np.random.default_rng(1).random(5)
    same, other = (stratified_split(targets, FRACTIONS, seed=seed) for seed in (3, 4))
    assert all(np.array_equal(first[name], same[name]) for name in first)
    assert not np.array_equal(first["val"], other["val"])


@pytest.mark.parametrize("count", [3, 4, 5, 9])
def test_small_classes_are_in_every_part(count: int) -> None:
    targets = [0] * 40 + [1] * count
    parts = stratified_split(targets, FRACTIONS, seed=0)
    assert all(1 in np.asarray(targets)[part] for part in parts.values())


def test_a_class_with_one_example_cannot_be_split() -> None:
    with pytest.raises(ValueError, match=r"Class 'rare' has too few examples \(1\) to be split into train, val, test"):
        stratified_split([0, 0, 0, 1], FRACTIONS, seed=0, class_names=["common", "rare"])


@pytest.mark.parametrize("fractions", [{"val": 0.0}, {"val": 0.6, "test": 0.5}, {"val": -0.1}])
def test_fractions_out_of_range(fractions: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="must lie between 0 and 1"):
        stratified_split([0, 1] * 9, fractions, seed=0)
