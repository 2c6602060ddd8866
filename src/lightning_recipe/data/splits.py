"""Splits by class, by group or by time, which depend on what is known of the examples, the fractions and a seed."""

import warnings
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from lightning_recipe.data.examples import Examples


def split(
    examples: Examples, fractions: Mapping[str, float], seed: int, *, rest: str = "train"
) -> dict[str, NDArray[np.int64]]:
    """Split examples by time where they have times, by group where they have groups, else by class.

    Args:
        examples: What is known of them; with neither times, groups nor labels they are just shuffled.
        fractions: The share of each part that is held out, each in (0, 1), together below 1. By time the last part is
            the latest; by group the shares are met as nearly as whole groups allow.
        seed: Seed of the split; what is cut in time needs none.
        rest: Name of the part that gets the remainder.

    Returns:
        Sorted indices of each part; together every index once.

    Raises:
        ValueError: If a fraction is out of range, or there are too few examples, groups or times for the parts.
    """
    _check(fractions, rest)
    if examples.times is not None:
        return _split_by_time(examples.times, fractions, rest)
    if examples.groups is not None:
        return _split_by_group(examples, fractions, seed, rest)
    return stratified_split(examples.strata(), fractions, seed, rest=rest, class_names=examples.class_names)


def stratified_split(
    targets: Sequence[int] | NDArray[np.int64],
    fractions: Mapping[str, float],
    seed: int,
    *,
    rest: str = "train",
    class_names: Sequence[str] | None = None,
) -> dict[str, NDArray[np.int64]]:
    """Split examples so that every class is in every part, in proportion.

    scikit-learn's stratified splits refuse classes of few examples or leave them out of a part; here each
    part has at least one example of each class. Each class is shuffled by itself, so a new class does not
    move the examples of the others.

    Args:
        targets: The label of each example, from 0.
        fractions: The share of each part that is held out, each in (0, 1), together below 1.
        seed: Seed of the shuffle.
        rest: Name of the part that gets the remainder.
        class_names: Names of the classes, for the message.

    Returns:
        Sorted indices of each part; together every index once.

    Raises:
        ValueError: If a fraction is out of range, or a class has fewer examples than there are parts.
    """
    _check(fractions, rest)
    labels = np.asarray(targets, dtype=np.int64)
    parts: dict[str, list[NDArray[np.int64]]] = {name: [] for name in (rest, *fractions)}
    for label in np.unique(labels):
        members = np.flatnonzero(labels == label)
        if len(members) < len(parts):
            name = class_names[label] if class_names else label
            raise ValueError(
                f"Class {name!r} has too few examples ({len(members)}) to be "
                f"split into {', '.join(parts)}: add examples until it has {len(parts)}, or remove the class."
            )
        members = np.random.default_rng([seed, int(label)]).permutation(members)
        sizes = _sizes(len(members), fractions)
        for name, chunk in zip(fractions, np.split(members, np.cumsum(sizes)), strict=False):
            parts[name].append(chunk)
        parts[rest].append(members[sum(sizes) :])
    return {name: np.sort(np.concatenate(chunks)) for name, chunks in parts.items()}


def _check(fractions: Mapping[str, float], rest: str) -> None:
    if any(not 0 < share < 1 for share in fractions.values()) or sum(fractions.values()) >= 1:
        raise ValueError(
            f"The shares held out are {dict(fractions)}, but each must lie between 0 and 1 and together they "
            f"must leave something for {rest}: make them smaller."
        )


def _sizes(count: int, fractions: Mapping[str, float]) -> list[int]:
    """Return how many of `count` examples each part gets: at least one, and one is left over at least."""
    sizes = [max(1, round(count * share)) for share in fractions.values()]
    while sum(sizes) >= count:
        sizes[int(np.argmax(sizes))] -= 1
    return sizes


def _split_by_time(
    times: NDArray[np.float64], fractions: Mapping[str, float], rest: str
) -> dict[str, NDArray[np.int64]]:
    """Cut between points in time, so that what happened at once stays together."""
    points, when = np.unique(times, return_inverse=True)
    if len(points) <= len(fractions):
        raise ValueError(
            f"The number of points in time is {len(points)}, too few to be split into "
            f"{', '.join([rest, *fractions])}: it must be {len(fractions) + 1} at least."
        )
    sizes = _sizes(len(points), fractions)
    cuts = len(points) - np.cumsum(sizes[::-1])[::-1]
    part = np.searchsorted(cuts, when, side="right")
    return {name: np.flatnonzero(part == number) for number, name in enumerate([rest, *fractions])}


def _split_by_group(
    examples: Examples, fractions: Mapping[str, float], seed: int, rest: str
) -> dict[str, NDArray[np.int64]]:
    """Hold whole groups out, one part after the other; classes are shared out as well as groups allow."""
    groups = np.unique(np.asarray(examples.groups))
    if len(groups) <= len(fractions):
        raise ValueError(
            f"The number of groups ({', '.join(groups[:5])}) is {len(groups)}, too few to be split into "
            f"{', '.join([rest, *fractions])}: it must be {len(fractions) + 1} at least."
        )
    parts, left, share_left = {}, np.arange(examples.count), 1.0
    for number, (name, share) in enumerate(list(fractions.items())[::-1]):
        still = len(fractions) - number  # parts that come after this one, and each need a group
        held = _held_groups(examples.take(left), share / share_left, seed, still)
        parts[name], left, share_left = left[held], np.delete(left, held), share_left - share
    missing = np.setdiff1d(examples.strata(), examples.strata()[left])
    if len(missing):
        raise ValueError(
            f"Class {examples.class_name(int(missing[0]))} is only in groups that are held out for "
            f"{' and '.join(fractions)}: give another seed for the split, or add groups of that class."
        )
    return {rest: left, **{name: parts[name] for name in fractions}}


def _held_groups(examples: Examples, share: float, seed: int, others: int) -> NDArray[np.int64]:
    """Which examples to hold out: whole groups, such that `others` groups at least are left.

    scikit-learn deals the groups out into parts of about that share, alike in their classes; the part is taken that
    leaves most classes in the rest, then the one with most classes, then the one nearest to the share.
    """
    from sklearn.model_selection import StratifiedGroupKFold

    strata = examples.strata()
    names, groups = np.unique(np.asarray(examples.groups), return_inverse=True)
    number = min(max(2, round(1 / share)), len(names))
    if np.bincount(strata).max() < number:  # each example has a class of its own, or nearly so
        strata = np.zeros_like(strata)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # of classes rarer than there are parts
        deal = StratifiedGroupKFold(number, shuffle=True, random_state=seed).split(strata, strata, groups)
        parts = [(left, held) for left, held in deal if len(np.unique(groups[left])) >= others]

    def worth(part: tuple[NDArray[np.int64], NDArray[np.int64]]) -> tuple[int, int, float]:
        classes_left, classes_held = (len(np.unique(examples.strata()[side])) for side in part)
        return classes_left, classes_held, -abs(len(part[1]) / examples.count - share)

    held: NDArray[np.int64] = max(parts, key=worth)[1]
    return held
