"""The option `--bootstrap SEED`: this fit trains on a bootstrap sample of its training data (Efron, 1979)."""

import copy
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
from lightning.pytorch.utilities import CombinedLoader
from lightning.pytorch.utilities.model_helpers import is_overridden
from torch.utils.data import BatchSampler, DataLoader, IterableDataset, RandomSampler, SequentialSampler, Subset
from torch.utils.data.distributed import DistributedSampler

PLAIN = (RandomSampler, SequentialSampler, DistributedSampler)


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
    source = model if datamodule is None else datamodule
    if not is_overridden("train_dataloader", source):
        raise ValueError(
            f"--bootstrap {seed} needs training data, but {type(source).__name__} has no train_dataloader."
        )
    source.train_dataloader = partial(bootstrapped, source.train_dataloader, seed)


def bootstrapped(make: Callable[[], Any], seed: int) -> Any:
    """The loaders that `make` returns, over bootstrap samples; their order, workers and batches are as they were.

    Args:
        make: Returns a DataLoader, or a dict or list of them.
        seed: Seed of the sample; of the second loader, if there are several, one more, and so on.

    Raises:
        ValueError: If there is no DataLoader, or its examples have no numbers or are chosen by a sampler of its own.
    """
    made = make()
    loaders = copy.copy(made) if isinstance(made, CombinedLoader) else CombinedLoader(made)
    loaders.flattened = [_over_sample(loader, seed + number) for number, loader in enumerate(loaders.flattened)]
    return loaders if isinstance(made, CombinedLoader) else loaders.iterables


def _over_sample(loader: Any, seed: int) -> Any:
    complaint = _complaint(loader)
    if complaint:
        raise ValueError(f"--bootstrap cannot draw a sample of the training data, for {complaint}.")
    count = len(loader.dataset)
    drawn = np.sort(np.random.default_rng(seed).integers(count, size=count))
    return _with_dataset(loader, Subset(loader.dataset, drawn.tolist()))


def _complaint(loader: Any) -> str | None:
    """Why no sample can be drawn of what a loader reads, if none can."""
    if not isinstance(loader, DataLoader):
        return f"{type(loader).__name__} is no DataLoader of torch: return one from train_dataloader"
    dataset = loader.dataset
    if isinstance(dataset, IterableDataset) or not hasattr(dataset, "__len__"):
        return f"{type(dataset).__name__} streams its examples: give a data set whose examples have numbers"
    if type(loader.batch_sampler) is not BatchSampler or not isinstance(loader.sampler, PLAIN):
        chooser = loader.sampler if type(loader.batch_sampler) is BatchSampler else loader.batch_sampler
        return f"{type(chooser).__name__} chooses the examples: shuffle instead, or choose them in the data set"
    saved = vars(loader).get("__pl_saved_args")
    if saved is not None and "dataset" not in _saved_names(loader):
        return f"{type(loader).__name__} makes its data set itself: give it one as the argument `dataset`"
    return None


def _saved_names(loader: DataLoader[Any]) -> set[str]:
    kept = vars(loader)
    return {*kept["__pl_saved_arg_names"], *kept["__pl_saved_kwargs"]}


def _with_dataset(loader: DataLoader[Any], dataset: Subset[Any]) -> DataLoader[Any]:
    """A copy of a loader over other data of the same length.

    Lightning makes loaders anew for several ranks, from the arguments that it has seen; they are replaced too.
    """
    again, kept = copy.copy(loader), vars(loader)
    changed: dict[str, Any] = {"dataset": dataset, "_iterator": None}  # DataLoader forbids setting it as an attribute
    if "__pl_saved_args" in kept:
        arguments, by_name = list(kept["__pl_saved_args"]), dict(kept["__pl_saved_kwargs"])
        if "dataset" in by_name:
            by_name["dataset"] = dataset
        else:
            arguments[kept["__pl_saved_arg_names"].index("dataset")] = dataset
        changed |= {"__dataset": dataset, "__pl_saved_args": tuple(arguments), "__pl_saved_kwargs": by_name}
    vars(again).update(changed)
    return again
