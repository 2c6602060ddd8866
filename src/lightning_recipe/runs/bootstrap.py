"""The option `--bootstrap SEED`: this fit trains on a bootstrap sample of its training data (Efron, 1979)."""

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
from torch.utils.data import DataLoader, Subset

from lightning_recipe.runs.changed_loaders import changed, source_of, with_data


def use_bootstrap(seed: int, datamodule: Any, model: Any) -> None:
    """Let whoever has the training data hand out a bootstrap sample of it: n of n examples, drawn with replacement.

    The sample follows from the seed and the number of examples alone: the same in each epoch and on all ranks, which
    then share it as they would share the data. Validation and test data stay as they are.

    Args:
        seed: Seed of the sample, at least 0.
        datamodule: The run's data; None where the model has its own loaders.
        model: The run's model.

    Raises:
        ValueError: If the seed is negative, or nobody has a `train_dataloader`; once that is called, if its data
            cannot be drawn from by number.
    """
    if seed < 0:
        raise ValueError(f"--bootstrap {seed} was given, but a seed is at least 0: give a whole number from 0.")
    source = source_of("train_dataloader", f"--bootstrap {seed}", datamodule, model)
    source.train_dataloader = partial(bootstrapped, source.train_dataloader, seed)


def bootstrapped(make: Callable[[], Any], seed: int) -> Any:
    """The loaders that `make` returns, over bootstrap samples; their order, workers and batches are as they were.

    Args:
        make: Returns a DataLoader, or a dict or list of them.
        seed: Seed of the sample; of the second loader, if there are several, one more, and so on.

    Raises:
        ValueError: If there is no DataLoader, or its examples have no numbers or are chosen by a sampler of its own.
    """
    purpose = "--bootstrap cannot draw a sample of the training data"
    return changed(make(), lambda loader, number: _over_sample(loader, seed + number), purpose)


def _over_sample(loader: DataLoader[Any], seed: int) -> DataLoader[Any]:
    count = len(loader.dataset)  # type: ignore[arg-type]
    drawn = np.sort(np.random.default_rng(seed).integers(count, size=count))
    return with_data(loader, Subset(loader.dataset, drawn.tolist()))
