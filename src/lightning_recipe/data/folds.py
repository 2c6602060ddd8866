"""Folds: the training examples cut into equal parts, of which one is held out in turn."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Fold:
    """One of `n` stratified parts of the training examples: it is held out, and the others are trained on.

    The parts follow from the labels, `n` and the seed alone, so that all ranks, and all runs of a procedure, cut alike.

    Args:
        k: Which part is held out, from 0 to `n` - 1.
        n: Number of parts, at least 2.
        seed: Seed of the cut, at least 0; runs whose parts must not overlap have the same.

    Raises:
        ValueError: If one of them is out of its range.
    """

    k: int
    n: int
    seed: int = 0

    def __post_init__(self) -> None:
        if self.n < 2 or not 0 <= self.k < self.n or self.seed < 0:
            raise ValueError(
                f"Fold {self.k} of {self.n} with seed {self.seed} was asked for, but there must be at least 2 folds, "
                "counted from 0 to one less than their number, and the seed must not be negative."
            )

    def split(
        self, targets: Sequence[int], class_names: Sequence[str] | None = None
    ) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Return the sorted indices of the examples to train on, and of those held out.

        Each class is shuffled, then all are dealt out in turn: the parts' sizes, and a class's share of them, differ
        by one example at most.

        Args:
            targets: The label of each training example, from 0.
            class_names: Names of the classes, for the message.

        Raises:
            ValueError: If a class has fewer examples than there are folds.
        """
        labels = np.asarray(targets, dtype=np.int64)
        order = [self._shuffled(labels, int(label), class_names) for label in np.unique(labels)]
        held_out = np.sort(np.concatenate(order)[self.k :: self.n])
        return np.setdiff1d(np.arange(len(labels)), held_out), held_out

    def _shuffled(self, labels: NDArray[np.int64], label: int, names: Sequence[str] | None) -> NDArray[np.int64]:
        members = np.flatnonzero(labels == label)
        if len(members) < self.n:
            raise ValueError(
                f"Class {names[label] if names else label!r} has {len(members)} training examples, which is too few "
                f"for {self.n} folds: ask for {len(members)} folds or fewer, at least 2, or add examples."
            )
        return np.random.default_rng([self.seed, label]).permutation(members)
