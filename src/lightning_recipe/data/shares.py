"""The share of its data that one fit gets: all but a fold, some examples of each class, or everything."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from lightning_recipe.data.examples import Examples
from lightning_recipe.data.folds import Fold

Indices = NDArray[np.int64]
Statistics = Literal["anew", "kept"]


@dataclass(frozen=True)
class Given:
    """What a fit gets.

    Args:
        parts: Indices into the whole data set of what to train on, to validate, to test and perhaps to predict.
        fitted_on: Those from which means, standard deviations, categories and the like are learnt.
        held_out: Those that a fold holds out, sorted; None without a fold.
    """

    parts: dict[str, Indices]
    fitted_on: Indices
    held_out: Indices | None = None


@dataclass(frozen=True)
class FoldShare:
    """All but one fold.

    Args:
        fold: Which.
        nested: Whether the fold is taken of training and validation examples together, to be tested and predicted,
            and a part of the rest is validated on; else it is taken of the training examples and validated on.
    """

    fold: Fold
    nested: bool = False

    @property
    def option(self) -> str:
        """How the command line asks for it."""
        fold = self.fold
        return f"{'--held_out' if self.nested else '--fold'} {fold.k + 1}/{fold.n}@{fold.seed}"

    def given(self, parts: Mapping[str, Indices], examples: Examples) -> Given:
        """What this share gives of the configured parts."""
        if not self.nested:
            train, held_out = (parts["train"][side] for side in self.fold.cut(examples.take(parts["train"])))
            return Given({**parts, "train": train, "val": held_out}, parts["train"], held_out)
        pool = pooled(parts)
        train, stopping, held_out = (pool[side] for side in self.fold.cut_nested(examples.take(pool)))
        return Given({"train": train, "val": stopping, "test": held_out, "predict": held_out}, train, held_out)


@dataclass(frozen=True)
class SubsetShare:
    """So many of the training examples.

    Args:
        count: How many.
        seed: Which: of one seed, the larger subset contains the smaller.
    """

    count: int
    seed: int = 0

    @property
    def option(self) -> str:
        """How the command line asks for it."""
        return f"--subset {self.count}@{self.seed}"

    def given(self, parts: Mapping[str, Indices], examples: Examples) -> Given:
        """What this share gives of the configured parts."""
        known = examples.take(parts["train"])
        train = parts["train"][stratified_subset(known.labels, len(parts["train"]), self.count, self.seed)]
        return Given({**parts, "train": train}, train)


@dataclass(frozen=True)
class AllShare:
    """Training and validation examples together; the latter are still validated on, which judges nothing any more.

    Args:
        statistics: "anew" learns means and the like from both, "kept" from the training examples, as a fit without
            this share does, so that the network of such a fit can go on.
    """

    statistics: Statistics

    @property
    def option(self) -> str:
        """How the command line asks for it."""
        return f"--all_data {self.statistics}"

    def given(self, parts: Mapping[str, Indices], examples: Examples) -> Given:
        """What this share gives of the configured parts."""
        pool = pooled(parts)
        return Given({**parts, "train": pool}, pool if self.statistics == "anew" else parts["train"])


Share = FoldShare | SubsetShare | AllShare


def pooled(parts: Mapping[str, Indices]) -> Indices:
    """Training and validation examples in the order in which the data set is read."""
    return np.sort(np.concatenate([parts["train"], parts["val"]]))


def stratified_subset(labels: NDArray[np.int64] | None, available: int, count: int, seed: int) -> Indices:
    """So many examples with each class in proportion, one of each at least; smaller ones are within larger ones.

    Each class is shuffled. The first examples of all classes come first, then each class's others, evenly spaced; a
    subset is how that order begins. So it follows from the labels, the count and the seed alone.

    Args:
        labels: The class of each example; None where targets are no classes.
        available: How many examples there are.
        count: How many to take.
        seed: Seed of the shuffle, at least 0.

    Returns:
        Sorted indices.

    Raises:
        ValueError: If there are not so many, or more classes than that; if the seed is negative.
    """
    strata = np.zeros(available, dtype=np.int64) if labels is None else labels
    classes = np.unique(strata)
    if seed < 0 or not 1 <= count <= available:
        raise ValueError(
            f"A subset of {count} training examples with seed {seed} was asked for, but there are {available}: ask for "
            f"1 to {available}, and a seed of at least 0."
        )
    if count < len(classes):
        raise ValueError(
            f"A subset of {count} training examples was asked for, but there are {len(classes)} classes, each of which "
            f"needs one: ask for {len(classes)} or more."
        )
    place = np.empty(available)
    for label in classes:
        members = np.flatnonzero(strata == label)
        rank = np.random.default_rng([seed, int(label)]).permutation(len(members))
        place[members] = np.where(rank == 0, -1.0, (rank + 0.5) / len(members))
    ties = np.random.default_rng(seed).permutation(available)
    return np.sort(np.lexsort((ties, place))[:count])
