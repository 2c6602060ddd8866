"""The option `--all_data anew|kept`: this fit trains on its training and validation data together."""

from collections.abc import Callable
from functools import partial
from typing import Any, Literal

from torch.utils.data import ConcatDataset, DataLoader

from lightning_recipe.runs.changed_loaders import single, source_of, with_data

PURPOSE = "--all_data cannot join training and validation data"


def use_all_data(statistics: Literal["anew", "kept"], datamodule: Any, model: Any) -> None:
    """Let whoever has the data train on its validation examples too; they are still validated on, which is no score.

    Data with a method `setup_all(statistics)` does it itself. Of other data the training loader reads both data sets,
    and what was fitted to the training examples stays so, whatever is asked for; validation examples come as they do
    for validation, without augmentation.

    Args:
        statistics: "anew" fits means and the like on both, "kept" on the training examples alone.
        datamodule: The run's data; None where the model has its own loaders.
        model: The run's model.

    Raises:
        ValueError: If nobody has training and validation data; once these are made, if they are not of one loader each
            whose examples have numbers.
    """
    if callable(getattr(datamodule, "setup_all", None)):
        datamodule.setup_all(statistics)
        return
    for hook in ("train_dataloader", "val_dataloader"):
        source = source_of(hook, f"--all_data {statistics}", datamodule, model)
    source.train_dataloader = partial(_together, source.train_dataloader, source.val_dataloader)


def _together(make_train: Callable[[], Any], make_val: Callable[[], Any]) -> DataLoader[Any]:
    train, val = single(make_train(), PURPOSE), single(make_val(), PURPOSE)
    return with_data(train, ConcatDataset([train.dataset, val.dataset]))
