"""The option `--subset COUNT`: this fit trains on so many of its training examples, each class in proportion."""

import re
from collections.abc import Callable
from functools import partial
from typing import Any

from torch.utils.data import DataLoader, Subset

from lightning_recipe.data.shares import stratified_subset
from lightning_recipe.runs.changed_loaders import single, source_of, with_data
from lightning_recipe.runs.held_out import class_labels

PURPOSE = "--subset cannot take a part of the training data"


def use_subset(text: str, datamodule: Any, model: Any) -> None:
    """Let whoever has the training data hand out so many examples of it; validation and test data stay as they are.

    Data with a method `setup_subset(count, seed)` does it itself, and fits its statistics on the subset. Of other data
    the training loader is read in part: stratified where labels can be told without reading inputs, else at random.
    Of one seed, the larger subset contains the smaller.

    Args:
        text: "100" is a hundred examples, "100@7" is another hundred.
        datamodule: The run's data; None where the model has its own loaders.
        model: The run's model.

    Raises:
        ValueError: If the text is not of that form, or nobody has training data; later, if there are not so many
            examples, or more classes than that, or they cannot be chosen by number.
    """
    found = re.fullmatch(r"(\d+)(?:@(\d+))?", text)
    count, seed = (int(number or 0) for number in found.groups()) if found else (0, 0)
    if count < 1:
        raise ValueError(f"--subset {text} was given, but it must be COUNT or COUNT@SEED, as in 100 or 100@7.")
    if callable(getattr(datamodule, "setup_subset", None)):
        datamodule.setup_subset(count, seed)
        return
    source = source_of("train_dataloader", f"--subset {text}", datamodule, model)
    source.train_dataloader = partial(_in_part, source.train_dataloader, count, seed)


def _in_part(make: Callable[[], Any], count: int, seed: int) -> DataLoader[Any]:
    loader = single(make(), PURPOSE)
    dataset: Any = loader.dataset
    chosen = stratified_subset(class_labels(dataset), len(dataset), count, seed)
    return with_data(loader, Subset(dataset, chosen.tolist()))
