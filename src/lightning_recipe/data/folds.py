"""Folds: examples cut into parts alike in size, of which one is held out in turn."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from lightning_recipe.data.examples import Examples
from lightning_recipe.data.splits import split

# Of what a fold leaves, this share tells when to stop, where nothing may be seen of the fold.
STOPPING_SHARE = 0.2

Cut = tuple[NDArray[np.int64], NDArray[np.int64]]


@dataclass(frozen=True)
class Fold:
    """One of `n` parts of the examples: it is held out, and the others are trained on.

    The parts follow from what is known of the examples, `n` and the seed alone, so that all ranks, and all runs of a
    procedure, cut alike. They are stratified by class; no group is on both sides where examples have groups
    (scikit-learn's StratifiedGroupKFold); where they have times, a part is held out that comes after all that is
    trained on, so that the earliest examples are never held out (forward chaining, scikit-learn's TimeSeriesSplit);
    and where targets are no classes, they are shuffled (KFold).

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

    def cut(self, examples: Examples) -> Cut:
        """Return the sorted indices of the examples to train on, and of those held out, in the way that suits them.

        Raises:
            ValueError: If a class has fewer examples than there are folds, or all of them in one group; if there are
                more folds than groups, or not one more point in time than folds; if there are more folds than examples.
        """
        return self._cuts(examples)[self.k]

    def _cuts(self, examples: Examples) -> list[Cut]:
        """The cuts of all folds, in order."""
        if examples.times is not None:
            return self._cuts_in_time(examples.times)
        if examples.groups is not None:
            return self._cuts_by_group(examples)
        if examples.labels is not None:
            labels = examples.labels.tolist()
            return [Fold(k, self.n, self.seed).split(labels, examples.class_names) for k in range(self.n)]
        if examples.count < self.n:
            raise ValueError(f"There are {examples.count} examples, too few for {self.n} folds: ask for fewer folds.")
        from sklearn.model_selection import KFold

        return list(KFold(self.n, shuffle=True, random_state=self.seed).split(np.arange(examples.count)))

    def cut_nested(self, examples: Examples) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
        """Return the sorted indices to train on, those to stop by, and those held out.

        About a fifth of what the fold leaves tells when to stop: by class, in whole groups, or the latest of it. So
        nothing that shapes the model has seen what it is scored on (Cawley and Talbot, 2010).

        Raises:
            ValueError: As `cut`, or if any of the folds leaves too little for a part to stop by.
        """
        if examples.times is not None and len(np.unique(examples.times)) < self.n + 2:
            raise ValueError(
                f"There are {len(np.unique(examples.times))} points in time, too few for {self.n} folds with a part "
                f"before each to stop by: there must be {self.n + 2} at least."
            )
        cuts = self._cuts(examples)
        for k, (rest, _) in enumerate(cuts):  # all of them, so that none fails when others are trained already
            Fold(k, self.n, self.seed)._check_left(examples.take(rest))
        rest, held_out = cuts[self.k]
        parts = self._with_stopping(examples.take(rest))
        return rest[parts["train"]], rest[parts["stopping"]], held_out

    def _with_stopping(self, left: Examples) -> dict[str, NDArray[np.int64]]:
        seed = int(np.random.default_rng([self.seed, self.n, self.k]).integers(2**31))
        return split(left, {"stopping": STOPPING_SHARE}, seed)

    def _check_left(self, left: Examples) -> None:
        """Refuse what cannot be cut once more, with the reason that it was cut before."""
        said = f"once fold {self.k + 1} of {self.n} is held out, too few to train on and to stop by: "
        if left.groups is not None:
            if len(np.unique(left.groups)) < 2:
                raise ValueError(f"1 group is left {said}ask for more folds, or add groups.")
            pairs = {*zip(left.strata().tolist(), left.groups.tolist(), strict=True)}
            if 1 in Counter(label for label, _ in pairs).values():  # a class of one group, which must not be taken away
                self._with_stopping(left)
        elif left.times is None:
            labels, counts = np.unique(left.strata(), return_counts=True)
            if counts.min() < 2:
                name = "" if left.labels is None else f" of class {left.class_name(int(labels[counts.argmin()]))}"
                raise ValueError(f"{counts.min()} example{name} is left {said}ask for more folds, or add examples.")

    def _cuts_in_time(self, times: NDArray[np.float64]) -> list[Cut]:
        points, when = np.unique(times, return_inverse=True)
        if len(points) < self.n + 1:
            raise ValueError(
                f"There are {len(points)} points in time, too few for {self.n} folds, each of which needs one before "
                f"it to train on: ask for {len(points) - 1} folds or fewer, at least 2, or add examples of other times."
            )
        from sklearn.model_selection import TimeSeriesSplit

        parts = TimeSeriesSplit(self.n).split(points)
        return [(np.flatnonzero(np.isin(when, before)), np.flatnonzero(np.isin(when, held))) for before, held in parts]

    def _cuts_by_group(self, examples: Examples) -> list[Cut]:
        names, groups = np.unique(np.asarray(examples.groups), return_inverse=True)
        if len(names) < self.n:
            raise ValueError(
                f"There are {len(names)} groups ({', '.join(names[:5])}{', ...' * (len(names) > 5)}), too few for "
                f"{self.n} folds: ask for {len(names)} folds or fewer, at least 2, or add groups."
            )
        labels = examples.strata()
        for label in np.unique(labels):
            if len(np.unique(groups[labels == label])) < 2:
                raise ValueError(
                    f"Class {examples.class_name(int(label))} has all its examples in the group "
                    f"{names[groups[labels == label][0]]}, so that nothing of it is left to train on when that is held "
                    "out: add examples of it in other groups, or leave the class out."
                )
            self._check_count(int((labels == label).sum()), examples.class_name(int(label)))
        from sklearn.model_selection import StratifiedGroupKFold

        deal = StratifiedGroupKFold(self.n, shuffle=True, random_state=self.seed)
        return list(deal.split(labels, labels, groups))

    def split(self, targets: Sequence[int], class_names: Sequence[str] | None = None) -> Cut:
        """Return the sorted indices of the examples to train on, and of those held out, stratified by class.

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
        self._check_count(len(members), repr(names[label] if names else label))
        return np.random.default_rng([self.seed, label]).permutation(members)

    def _check_count(self, count: int, name: str) -> None:
        if count < self.n:
            raise ValueError(
                f"Class {name} has {count} examples, which is too few for {self.n} folds: ask for {count} "
                "folds or fewer, at least 2, or add examples."
            )
