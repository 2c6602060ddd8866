"""Stratified splits that depend on nothing but the labels, the fractions and a seed."""

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray


def stratified_split(
    targets: Sequence[int],
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
    if any(not 0 < share < 1 for share in fractions.values()) or sum(fractions.values()) >= 1:
        raise ValueError(
            f"The shares held out are {dict(fractions)}, but each must lie between 0 and 1 and together they "
            f"must leave something for {rest}: make them smaller."
        )
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


def _sizes(count: int, fractions: Mapping[str, float]) -> list[int]:
    """Return how many of `count` examples each part gets: at least one, and one is left over at least."""
    sizes = [max(1, round(count * share)) for share in fractions.values()]
    while sum(sizes) >= count:
        sizes[int(np.argmax(sizes))] -= 1
    return sizes
