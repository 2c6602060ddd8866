"""Folds by group, in time and of data without classes; nested folds of all kinds."""

import re
from itertools import pairwise

import numpy as np
import pytest

from lightning_recipe.data.examples import Examples
from lightning_recipe.data.folds import Fold

DRAW = np.random.default_rng(0)
LABELS = DRAW.choice(3, size=120, p=[0.5, 0.3, 0.2])
GROUPS = np.array([f"p{number:02d}" for number in DRAW.integers(24, size=120)])
TIMES = DRAW.integers(40, size=120).astype(float)
KINDS = {
    "class": Examples(120, LABELS),
    "group": Examples(120, LABELS, GROUPS),
    "time": Examples(120, LABELS, times=TIMES),
    "group, no classes": Examples(120, groups=GROUPS),
    "no classes": Examples(120),
}
kinds = pytest.mark.parametrize("kind", KINDS)


@kinds
def test_held_out_parts_are_disjoint_and_apart_from_what_is_trained_on(kind: str) -> None:
    cuts = [Fold(k, 4, 7).cut(KINDS[kind]) for k in range(4)]
    held_out = np.concatenate([held for _, held in cuts])
    assert len(set(held_out)) == len(held_out)
    for train, held in cuts:
        assert list(train) == sorted(set(train))
        assert list(held) == sorted(set(held))
        assert not set(train) & set(held)
        assert len(held) == pytest.approx(120 / (5 if kind == "time" else 4), abs=8)
    if kind != "time":
        assert sorted(held_out) == list(range(120))
        assert all(len(train) + len(held) == 120 for train, held in cuts)


@kinds
def test_a_nested_cut_has_a_part_to_stop_by_within_the_rest(kind: str) -> None:
    for k in range(4):
        fold, examples = Fold(k, 4, 7), KINDS[kind]
        train, stopping, held = fold.cut_nested(examples)
        rest, plainly_held = fold.cut(examples)
        assert held.tolist() == plainly_held.tolist()
        assert sorted([*train, *stopping]) == rest.tolist()
        assert len(stopping) / len(rest) == pytest.approx(0.2, abs=0.1)
        again = fold.cut_nested(examples)
        assert all(one.tolist() == other.tolist() for one, other in zip(again, (train, stopping, held), strict=True))


@pytest.mark.parametrize("kind", ["class", "group", "group, no classes", "no classes"])
def test_the_seed_decides(kind: str) -> None:
    cuts = [Fold(1, 4, seed).cut_nested(KINDS[kind]) for seed in (7, 8)]
    assert all(one.tolist() != other.tolist() for one, other in zip(*cuts, strict=True))


@pytest.mark.parametrize("kind", ["group", "group, no classes"])
def test_no_group_is_on_two_sides(kind: str) -> None:
    for k in range(4):
        sides = [set(GROUPS[part]) for part in Fold(k, 4, 7).cut_nested(KINDS[kind])]
        assert sum(map(len, sides)) == len(set.union(*sides)) == 24


def test_groups_are_shared_out_so_that_classes_are_alike() -> None:
    shares = [np.bincount(LABELS[Fold(k, 4, 7).cut(KINDS["group"])[1]]) / np.bincount(LABELS) for k in range(4)]
    np.testing.assert_allclose(shares, 0.25, atol=0.09)


def test_time_never_looks_ahead_and_goes_on_to_the_end() -> None:
    held_out = []
    for k in range(4):
        train, stopping, held = (TIMES[part] for part in Fold(k, 4, 7).cut_nested(KINDS["time"]))
        assert train.max() < stopping.min() <= stopping.max() < held.min()
        held_out += [held]
    assert all(earlier.max() < later.min() for earlier, later in pairwise(held_out))
    assert max(held_out[-1]) == TIMES.max()


def test_a_nested_cut_leaves_each_class_on_both_sides_of_the_rest() -> None:
    labels = np.array([0] * 40 + [1] * 3)
    for k in range(3):
        parts = Fold(k, 3).cut_nested(Examples(43, labels))
        assert [np.count_nonzero(labels[part]) for part in parts] == [1, 1, 1]


FEW = {
    r"There are 3 groups \(a, b, c\), too few for 4 folds: ask for 3 folds or fewer": (
        4,
        Examples(30, groups=np.array(["a", "b", "c"] * 10)),
    ),
    "Class 'rare' has all its examples in the group c, so that nothing of it is left to train on": (
        3,
        Examples(30, np.array([0, 0, 1] * 10), np.array(["a", "b", "c"] * 10), class_names=["plain", "rare"]),
    ),
    "Class 1 has 3 examples, which is too few for 4 folds": (
        4,
        Examples(30, np.array([1, 1, 1] + [0] * 27), np.array(["a", "b", "c", "d", "e", "f"] * 5)),
    ),
    "There are 4 points in time, too few for 4 folds, each of which needs one before it": (
        4,
        Examples(40, times=np.arange(40) % 4.0),
    ),
    "There are 3 examples, too few for 4 folds": (4, Examples(3)),
}


@pytest.mark.parametrize("said", FEW)
def test_too_few_for_so_many_folds(said: str) -> None:
    number, examples = FEW[said]
    for k in range(number):
        with pytest.raises(ValueError, match=said):
            Fold(k, number).cut(examples)


TOO_FEW_TO_STOP_BY = {
    "There are 5 points in time, too few for 4 folds with a part before each to stop by: there must be 6": (
        Fold(0, 4),
        Examples(40, times=np.arange(40) % 5.0),
    ),
    "1 group is left once fold 1 of 2 is held out": (Fold(0, 2), Examples(30, groups=np.array(["a", "b"] * 15))),
    "1 example of class 'rare' is left once fold 1 of 2 is held out, too few to train on and to stop by: ask for": (
        Fold(1, 2),
        Examples(30, np.array([1, 1] + [0] * 28), class_names=["plain", "rare"]),
    ),
    "Class 1 is only in groups that are held out for stopping: give another seed": (
        Fold(1, 2),
        Examples(8, np.array([0, 1, 0, 1] * 2), np.array(["a", "b", "c", "d"] * 2)),
    ),
    "1 example is left once fold 1 of 2 is held out": (Fold(0, 2), Examples(2)),
}


@pytest.mark.parametrize("said", TOO_FEW_TO_STOP_BY)
def test_too_few_to_stop_by(said: str) -> None:
    fold, examples = TOO_FEW_TO_STOP_BY[said]
    fold.cut(examples)
    with pytest.raises(ValueError, match=re.escape(said)):
        fold.cut_nested(examples)


def test_groups_and_times_contradict_each_other() -> None:
    with pytest.raises(ValueError, match="a cut in time may go through a group: choose one"):
        Examples(120, LABELS, GROUPS, TIMES)
