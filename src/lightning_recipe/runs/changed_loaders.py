"""DataLoaders over other examples than they were made with; their workers, batches and order stay as they were."""

import copy
from collections.abc import Callable
from typing import Any

from lightning.pytorch.utilities import CombinedLoader
from lightning.pytorch.utilities.model_helpers import is_overridden
from torch.utils.data import (
    BatchSampler,
    DataLoader,
    Dataset,
    IterableDataset,
    RandomSampler,
    Sampler,
    SequentialSampler,
)
from torch.utils.data.distributed import DistributedSampler

PLAIN = (RandomSampler, SequentialSampler, DistributedSampler)


def source_of(hook: str, option: str, datamodule: Any, model: Any) -> Any:
    """Who has the loaders of a run: its data, else its model.

    Args:
        hook: "train_dataloader" or another.
        option: What needs it, for the message.
        datamodule: The run's data; None where the model has its own loaders.
        model: The run's model.

    Raises:
        ValueError: If that one has no such hook.
    """
    source = model if datamodule is None else datamodule
    if not is_overridden(hook, source):
        kind = "training" if hook == "train_dataloader" else "validation"
        raise ValueError(f"{option} needs {kind} data, but {type(source).__name__} has no {hook}.")
    return source


def changed(made: Any, change: Callable[[DataLoader[Any], int], DataLoader[Any]], purpose: str) -> Any:
    """What a hook has returned, with each loader in it changed.

    Args:
        made: A DataLoader, or a dict or list of them.
        change: Makes the new loader of the old one and its number, from 0.
        purpose: What is done to the data, as in "--subset cannot take a part of the training data".

    Raises:
        ValueError: If one is no DataLoader, or its examples have no numbers or are chosen by a sampler of its own.
    """
    loaders = copy.copy(made) if isinstance(made, CombinedLoader) else CombinedLoader(made)
    for loader in loaders.flattened:
        refuse_unnumbered(loader, purpose)
    loaders.flattened = [change(loader, number) for number, loader in enumerate(loaders.flattened)]
    return loaders if isinstance(made, CombinedLoader) else loaders.iterables


def single(made: Any, purpose: str) -> DataLoader[Any]:
    """The one loader that a hook has returned.

    Raises:
        ValueError: If there are several, or none whose examples have numbers.
    """
    loaders = (made if isinstance(made, CombinedLoader) else CombinedLoader(made)).flattened
    if len(loaders) != 1:
        raise ValueError(f"{purpose}, for there are {len(loaders)} DataLoaders: give one.")
    refuse_unnumbered(loaders[0], purpose)
    found: DataLoader[Any] = loaders[0]
    return found


def refuse_unnumbered(loader: Any, purpose: str) -> None:
    """Refuse what is no DataLoader over numbered examples, in an order of torch's own.

    Raises:
        ValueError: With `purpose` and the reason.
    """
    complaint = _complaint(loader)
    if complaint:
        raise ValueError(f"{purpose}, for {complaint}.")


def _complaint(loader: Any) -> str | None:
    """Why the examples of a loader cannot be exchanged, if they cannot."""
    if not isinstance(loader, DataLoader):
        return f"{type(loader).__name__} is no DataLoader of torch: return one from its hook"
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


def with_data(loader: DataLoader[Any], dataset: Dataset[Any], in_order: bool = False) -> DataLoader[Any]:
    """A copy of a loader over another data set.

    Where the loader leaves out a last batch that is not full, and the data set has no full one, the copy keeps it.
    Lightning makes loaders anew for several ranks, from the arguments that it has seen; they are replaced too.

    Args:
        loader: One that `refuse_unnumbered` lets pass.
        dataset: The examples.
        in_order: Whether to read each of them once, in order; else in the loader's way.
    """
    again, kept = copy.copy(loader), vars(loader)
    sampler = SequentialSampler(dataset) if in_order else _over(loader.sampler, dataset)  # type: ignore[arg-type]
    assert loader.batch_size is not None
    drop_last = loader.drop_last and not in_order and len(dataset) >= loader.batch_size  # type: ignore[arg-type]
    changes: dict[str, Any] = {"dataset": dataset, "drop_last": drop_last, "sampler": sampler}
    changes["batch_sampler"] = BatchSampler(sampler, loader.batch_size, drop_last)
    if "__pl_saved_args" in kept:
        arguments, by_name = list(kept["__pl_saved_args"]), dict(kept["__pl_saved_kwargs"])
        saved = {"dataset": dataset, "drop_last": drop_last, **({"shuffle": False} if in_order else {})}
        for name, value in saved.items():
            if name in kept["__pl_saved_arg_names"]:
                arguments[kept["__pl_saved_arg_names"].index(name)] = value
            elif name in by_name:
                by_name[name] = value
        changes |= {"__dataset": dataset, "__pl_saved_args": tuple(arguments), "__pl_saved_kwargs": by_name}
    vars(again).update({**changes, "_iterator": None})  # DataLoader forbids setting them as attributes
    return again


def _over(sampler: Sampler[Any], dataset: Dataset[Any]) -> Sampler[Any]:
    """The same sampler for other examples."""
    if isinstance(sampler, DistributedSampler):
        names = ("num_replicas", "rank", "shuffle", "seed", "drop_last")
        return type(sampler)(dataset, **{name: getattr(sampler, name) for name in names})
    again = copy.copy(sampler)
    vars(again)["data_source"] = dataset
    return again
