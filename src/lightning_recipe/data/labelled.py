"""What our LightningDataModules have in common: shares, loaders, and checkpoints that say what is in and out."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import lightning as L
import numpy as np
from lightning.pytorch.trainer.states import TrainerFn
from numpy.typing import NDArray
from torch.utils.data import DataLoader

from lightning_recipe.data.examples import Examples
from lightning_recipe.data.folds import Fold
from lightning_recipe.data.loaders import evaluation_loader, training_loader
from lightning_recipe.data.normalisation import Normalisation
from lightning_recipe.data.shares import AllShare, FoldShare, Given, Share, Statistics, SubsetShare

# Statistics measured on two machines differ by rounding; on other images they differ by more.
TOLERANCE = 1e-3


class LabelledDataModule(L.LightningDataModule):
    """A LightningDataModule of labelled examples, of which a fit may get a share.

    A subclass sets `class_names` and `normalisation` in its `setup`, and takes from `_given` which examples are trained
    on, validated, tested and predicted, and on which means and the like are fitted; and puts a data set for each of
    `train`, `val` and `test` into `datasets`, and where it has other examples to predict, one for `predict`. What it
    says of itself is saved in each checkpoint, and compared when one is loaded.

    Args:
        batch_size: Examples a batch and process, at least 1.
        num_workers: Worker processes for loading; 0 loads in the main process.

    Attributes:
        class_names: Names of the classes in the order of the model's outputs.
        normalisation: Mean and std that inputs are normalised with; None before `setup`.
        share: What part of the data this run gets; None where it gets what is configured.
        held_out: Indices of the examples that a fold holds out, in the order in which the data set is read, sorted;
            None before `setup` and without a fold.
        pool_size: Number of examples for training and validation together, as configured; 0 before `setup`.
        datasets: The examples of each part that this run gets; empty before `setup`.
    """

    def __init__(self, batch_size: int, num_workers: int) -> None:
        super().__init__()
        self.batch_size = batch_size
        self.num_workers = num_workers
        self.class_names: list[str] = []
        self.normalisation: Normalisation | None = None
        self.share: Share | None = None
        self.held_out: NDArray[np.int64] | None = None
        self.pool_size = 0
        self.datasets: dict[str, Any] = {}

    @property
    def fold(self) -> Fold | None:
        """Which fold is held out, if one is."""
        return self.share.fold if isinstance(self.share, FoldShare) else None

    def setup_fold(self, k: int, n: int, seed: int = 0, nested: bool = False) -> None:
        """Train on all but one fold; called before `setup`.

        Plainly, the fold is one of the training split, and validated on; the configured validation split is left out
        altogether, for whoever judges several such runs together, and inputs are normalised with the statistics of the
        whole training split, the same in all folds.

        Nested, the fold is one of training and validation split together. It is tested and predicted, and nothing that
        shapes the model sees it: a part of the rest is validated on, and statistics are those of what is trained on.
        The configured test split is left out.

        Args:
            k: Which fold is held out, from 0 to `n` - 1.
            n: Number of folds, at least 2.
            seed: Seed of the cut; runs whose folds must not overlap have the same.
            nested: Whether the fold is for scoring rather than for validation.

        Raises:
            ValueError: If there is no such fold; in `setup`, if the data cannot be cut so, as `Fold.cut` says.
        """
        self._set_share(FoldShare(Fold(k, n, seed), nested))

    def setup_subset(self, count: int, seed: int = 0) -> None:
        """Train on so many examples of the training split, each class in proportion; called before `setup`.

        Validation and test stay as they are; statistics are those of the subset.

        Args:
            count: How many; at least one a class.
            seed: Which; of one seed, the larger subset contains the smaller.

        Raises:
            ValueError: In `setup`, if there are not so many, or more classes than that.
        """
        self._set_share(SubsetShare(count, seed))

    def setup_all(self, statistics: Statistics) -> None:
        """Train on training and validation split together; called before `setup`.

        The validation split is still validated on, but its loss says nothing about new examples any more.

        Args:
            statistics: "anew" normalises with the statistics of both splits, "kept" with those of the training split,
                as the run did whose network goes on.

        Raises:
            ValueError: If it is neither.
        """
        if statistics not in ("anew", "kept"):
            raise ValueError(f"statistics={statistics!r} was given, but they are either anew or kept: choose one.")
        self._set_share(AllShare(statistics))

    def _set_share(self, share: Share) -> None:
        self.share, self.datasets = share, {}

    def _given(self, parts: dict[str, NDArray[np.int64]], examples: Examples) -> Given:
        """What this run gets of the configured parts `train`, `val` and `test`, all indices into the whole data set."""
        given = Given(parts, parts["train"]) if self.share is None else self.share.given(parts, examples)
        self.held_out, self.pool_size = given.held_out, len(parts["train"]) + len(parts["val"])
        return given

    def train_dataloader(self) -> DataLoader[Any]:
        """Return the shuffled training examples."""
        return training_loader(
            self.datasets["train"], self.trainer, batch_size=self.batch_size, num_workers=self.num_workers
        )

    def val_dataloader(self) -> DataLoader[Any]:
        """Return the validation examples in order."""
        return self._in_order("val")

    def test_dataloader(self) -> DataLoader[Any]:
        """Return the test examples in order."""
        return self._in_order("test")

    def predict_dataloader(self) -> DataLoader[Any]:
        """Return the examples to predict in order: those given for it, else the test examples."""
        return self._in_order("predict" if "predict" in self.datasets else "test")

    def _in_order(self, part: str) -> DataLoader[Any]:
        return evaluation_loader(
            self.datasets[part], self.trainer, batch_size=self.batch_size, num_workers=self.num_workers
        )

    def state_dict(self) -> dict[str, Any]:
        """Return what a model of this data expects and answers, in plain values."""
        if self.normalisation is None:
            return {}
        described: dict[str, Any] = {"class_names": list(self.class_names)}
        described["normalisation"] = {"mean": list(self.normalisation.mean), "std": list(self.normalisation.std)}
        described |= {name: getattr(self, name) for name in ("image_size", "in_chans", "form") if hasattr(self, name)}
        described["share"] = None if self.share is None else self.share.option
        return described

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Compare what a checkpoint's model expects and answers with the data at hand.

        Raises:
            ValueError: If classes, their order or the normalisation differ; when training goes on, if the share does.
        """
        here, trainer = self.state_dict(), self.trainer
        if not here:
            return
        _check_classes(state_dict.get("class_names"), self.class_names)
        if trainer is not None and trainer.state.fn == TrainerFn.FITTING and "share" in state_dict:
            _check_share(state_dict["share"], here["share"])
        _check_normalisation(state_dict.get("normalisation"), here["normalisation"])


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
    return " and ".join(f"{name} {_some([f'{value:.6g}' for value in statistics[name]])}" for name in statistics)


def _check_share(then: str | None, now: str | None) -> None:
    goes_on_with_more = then is None and now == AllShare("kept").option
    if then != now and not goes_on_with_more:
        option = (then or now or "").partition(" ")[0]
        raise ValueError(
            f"The checkpoint was trained {_named(then, option)}, and this run goes on {_named(now, option)}, so that "
            "what it is trained on and what it is judged by would be mixed: "
            f"give the same {option}, or start anew without --ckpt_path."
        )


def _named(share: str | None, option: str) -> str:
    return f"without {option}" if share is None else f"with {share}"
