"""What our LightningDataModules have in common: folds, and checkpoints that say what inputs and outputs mean."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import lightning as L
import numpy as np
from lightning.pytorch.trainer.states import TrainerFn
from numpy.typing import NDArray

from lightning_recipe.data.folds import Fold
from lightning_recipe.data.normalisation import Normalisation

# Statistics measured on two machines differ by rounding; on other images they differ by more.
TOLERANCE = 1e-3


class LabelledDataModule(L.LightningDataModule):
    """A LightningDataModule of labelled examples whose training split can be cut into folds.

    A subclass sets `class_names` and `normalisation` in its `setup`, and takes its training and validation examples
    from `_cut`. What it says of itself is saved in each checkpoint, and compared when one is loaded.

    Attributes:
        class_names: Names of the classes in the order of the model's outputs.
        normalisation: Mean and std that inputs are normalised with; None before `setup`.
        fold: What part of the training split is held out; None where the configured validation split is used.
    """

    def __init__(self) -> None:
        super().__init__()
        self.class_names: list[str] = []
        self.normalisation: Normalisation | None = None
        self.fold: Fold | None = None
        self.datasets: dict[str, Any] = {}

    def setup_fold(self, k: int, n: int, seed: int = 0) -> None:
        """Train on all but one fold of the training split, and validate on that one; called before `setup`.

        The configured validation split is left out altogether, for whoever judges several such runs together.
        Inputs are normalised with the statistics of the whole training split, the same in all folds.

        Args:
            k: Which fold is validated on, from 0 to `n` - 1.
            n: Number of folds, at least 2.
            seed: Seed of the cut; runs whose folds must not overlap have the same.

        Raises:
            ValueError: If there is no such fold; in `setup`, if a class has fewer than `n` training examples.
        """
        self.fold = Fold(k, n, seed)
        self.datasets = {}

    def _cut(self, targets: Sequence[int]) -> tuple[NDArray[np.int64], NDArray[np.int64]] | None:
        """Which of the training split's examples to train on and which to validate on; None without a fold."""
        return None if self.fold is None else self.fold.split(targets, self.class_names)

    def state_dict(self) -> dict[str, Any]:
        """Return what a model of this data expects and answers, in plain values."""
        if self.normalisation is None:
            return {}
        described: dict[str, Any] = {"class_names": list(self.class_names)}
        described["normalisation"] = {"mean": list(self.normalisation.mean), "std": list(self.normalisation.std)}
        described |= {name: getattr(self, name) for name in ("image_size", "in_chans", "form") if hasattr(self, name)}
        fold = self.fold
        described["fold"] = None if fold is None else {"k": fold.k, "n": fold.n, "seed": fold.seed}
        return described

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Compare what a checkpoint's model expects and answers with the data at hand.

        Raises:
            ValueError: If classes, their order or the normalisation differ; when training goes on, if the fold does.
        """
        here = self.state_dict()
        if here:
            _check_classes(state_dict.get("class_names"), self.class_names)
            _check_normalisation(state_dict.get("normalisation"), here["normalisation"])
        trainer = self.trainer
        if here and trainer is not None and trainer.state.fn == TrainerFn.FITTING and "fold" in state_dict:
            _check_fold(state_dict["fold"], here["fold"])


def _check_classes(then: Sequence[str] | None, now: Sequence[str]) -> None:
    if then is None or list(then) == list(now):
        return
    if sorted(then) == sorted(now):
        what = f"in the order {', '.join(then)}, but the data has them in the order {', '.join(now)}"
    else:
        lacking, added = [name for name in then if name not in now], [name for name in now if name not in then]
        differences = [f"{verb} {_some(names)}" for verb, names in (("lacks", lacking), ("has", added)) if names]
        what = f"({_some(then)}; {len(then)} in all), but the data {' and '.join(differences)}"
    raise ValueError(
        f"The checkpoint's model answers with other classes {what}: give it data with the classes that it was trained "
        "on, in that order, or train anew."
    )


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:5]) + ", ..." * (len(names) > 5)


def _check_normalisation(then: Mapping[str, Sequence[float]] | None, now: Mapping[str, Sequence[float]]) -> None:
    if then is None:
        return
    same = all(len(then[name]) == len(now[name]) for name in now) and all(
        math.isclose(a, b, rel_tol=TOLERANCE, abs_tol=TOLERANCE * scale)
        for name in now
        for a, b, scale in zip(then[name], now[name], now["std"], strict=True)
    )
    if not same:
        raise ValueError(
            f"The checkpoint's model was trained on inputs normalised with {_shown(then)}, but this data is normalised "
            f"with {_shown(now)}: give it the training data (or normalise_for) that it was trained with, or train anew."
        )


def _shown(statistics: Mapping[str, Sequence[float]]) -> str:
    return " and ".join(f"{name} {', '.join(f'{value:.6g}' for value in statistics[name])}" for name in statistics)


def _check_fold(then: Mapping[str, int] | None, now: Mapping[str, int] | None) -> None:
    if then != now:
        raise ValueError(
            f"The checkpoint was trained {_named(then)}, and this run goes on {_named(now)}, so that it would train on "
            "what it is validated on: give the same --fold, or start anew without --ckpt_path."
        )


def _named(fold: Mapping[str, int] | None) -> str:
    return "without --fold" if fold is None else f"with --fold {fold['k'] + 1}/{fold['n']}@{fold['seed']}"
