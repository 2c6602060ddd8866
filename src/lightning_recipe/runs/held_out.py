"""The option `--held_out K/N`: this fit is scored on one part of its data, which nothing that shapes the model sees.

Early stopping and the choice of a checkpoint look at validation data. Who then takes the same data for a score gets one
that is too good (Cawley and Talbot, 2010, section 5.2). So the fold is tested here, and another part validated on.
"""

import inspect
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch.utils.data import DataLoader, Subset

from lightning_recipe.data.examples import Examples
from lightning_recipe.data.folds import STOPPING_SHARE
from lightning_recipe.data.splits import split
from lightning_recipe.runs.changed_loaders import single, source_of, with_data
from lightning_recipe.runs.folds import fold_in, require_folds
from lightning_rules.labels import labels_of

Cut = Callable[[DataLoader[Any]], tuple[NDArray[np.int64], NDArray[np.int64]]]
PURPOSE = "--held_out cannot take a part of the training data to stop by"


def use_held_out(text: str, datamodule: Any) -> None:
    """Let the data hold a fold out for test and prediction, before its `setup`.

    Data whose `setup_fold` has an argument `nested` does it itself. Of other data the validation loader becomes the one
    for test and prediction, and a fifth of the training examples is validated on in its place: stratified where their
    labels can be told without reading inputs, else at random, and read as training examples are, in order.

    Args:
        text: As for `use_fold`.
        datamodule: Data with a method `setup_fold(k, n, seed)`.

    Raises:
        ValueError: If the text is not of that form, or the data has no such method or no loaders; once these are
            called, if the training data is not of one loader whose examples have numbers.
    """
    k, n, seed = fold_in(text, "--held_out")
    require_folds(datamodule, "--held_out")
    if "nested" in inspect.signature(datamodule.setup_fold).parameters:
        datamodule.setup_fold(k, n, seed, nested=True)
        return
    for hook in ("train_dataloader", "val_dataloader"):
        source_of(hook, f"--held_out {text}", datamodule, None)
    datamodule.setup_fold(k, n, seed)
    train, held_out = datamodule.train_dataloader, datamodule.val_dataloader
    cut = partial(_train_and_stop, seed=int(np.random.default_rng([seed, n, k]).integers(2**31)))
    datamodule.train_dataloader = partial(_to_train_on, train, cut)
    datamodule.val_dataloader = partial(_to_stop_by, train, cut)
    datamodule.test_dataloader = partial(_handed_out, held_out)
    datamodule.predict_dataloader = partial(_handed_out, held_out)


def _train_and_stop(loader: DataLoader[Any], seed: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Which examples to train on and which to stop by; from their number, labels and the seed alone."""
    dataset: Any = loader.dataset
    if len(dataset) < 2:
        raise ValueError(f"{PURPOSE}, for it has {len(dataset)} examples: give more.")
    labels = class_labels(dataset)
    if labels is not None and np.unique(labels, return_counts=True)[1].min() < 2:
        labels = None
    parts = split(Examples(len(dataset), labels), {"stopping": STOPPING_SHARE}, seed)
    return parts["train"], parts["stopping"]


def class_labels(dataset: Any) -> NDArray[np.int64] | None:
    """The class of each example, where it can be told without reading inputs; else None."""
    labels = labels_of(dataset)
    whole = labels is not None and labels.dim() == 1 and not (labels.is_floating_point() or labels.is_complex())
    return labels.cpu().numpy().astype(np.int64) if labels is not None and whole and bool((labels >= 0).all()) else None


def _to_train_on(make: Callable[[], Any], cut: Cut) -> DataLoader[Any]:
    loader = single(make(), PURPOSE)
    return with_data(loader, Subset(loader.dataset, cut(loader)[0].tolist()))


def _to_stop_by(make: Callable[[], Any], cut: Cut) -> DataLoader[Any]:
    loader = single(make(), PURPOSE)
    return with_data(loader, Subset(loader.dataset, cut(loader)[1].tolist()), in_order=True)


def _handed_out(make: Callable[[], Any]) -> Any:
    return make()
