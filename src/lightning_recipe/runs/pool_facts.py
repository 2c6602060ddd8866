"""What a procedure must know of the data before it trains: how many examples there are, and of which classes."""

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import lightning as L
import numpy as np
from lightning.pytorch.cli import LightningArgumentParser
from lightning.pytorch.utilities import CombinedLoader
from lightning.pytorch.utilities.model_helpers import is_overridden
from lightning.pytorch.utilities.seed import isolate_rng
from numpy.typing import NDArray

from lightning_recipe.runs.share import use_share


@dataclass(frozen=True)
class PoolFacts:
    """The data of a fit.

    Args:
        training: Number of training examples; None where they are streamed.
        validation: Number of validation examples; None where they are streamed.
        training_labels: Their classes, where the data tells them by `labels("train")`.
        validation_labels: The same by `labels("val")`.
        class_names: Names of the classes, where the data tells them.
        held_out: Which examples a fold holds out, where the data tells them.
    """

    training: int | None
    validation: int | None
    training_labels: NDArray[np.int64] | None
    validation_labels: NDArray[np.int64] | None
    class_names: tuple[str, ...]
    held_out: tuple[int, ...] | None = None


def training_examples(settings: Mapping[str, Any]) -> PoolFacts:
    """Set up the data of a fit as the fit would, share included, without a model or a trainer, and count.

    What the data refuses (more folds than examples of a class, a subset larger than the data) it refuses here, before
    anything is trained. Random generators and the environment stay as they are.

    Args:
        settings: All settings of `fit`.

    Raises:
        ValueError: If the settings name no data, or it cannot give the share that they ask for.
    """
    with _as_seeded(settings.get("seed_everything")):
        datamodule = _build(settings.get("data"))
        use_share(settings, datamodule)
        datamodule.prepare_data()
        datamodule.setup("fit")
        held_out = getattr(datamodule, "held_out", None)
        return PoolFacts(
            _count(datamodule, "train_dataloader"),
            _count(datamodule, "val_dataloader"),
            _labels(datamodule, "train"),
            _labels(datamodule, "val"),
            tuple(map(str, getattr(datamodule, "class_names", None) or ())),
            None if held_out is None else tuple(int(one) for one in held_out),
        )


def _build(data: Any) -> L.LightningDataModule:
    if not data:
        raise ValueError("The settings name no data, but its examples must be counted: give --data.")
    parser = LightningArgumentParser()
    parser.add_lightning_class_args(L.LightningDataModule, "data", subclass_mode=True)
    given = {"class_path": data} if isinstance(data, str) else dict(data)
    built: L.LightningDataModule = parser.instantiate_classes(parser.parse_object({"data": given})).data
    return built


def _count(datamodule: L.LightningDataModule, hook: str) -> int | None:
    """How many examples the loaders of a hook have together."""
    if not is_overridden(hook, datamodule):
        return 0
    made = getattr(datamodule, hook)()
    loaders = (made if isinstance(made, CombinedLoader) else CombinedLoader(made)).flattened
    sets: list[Any] = [getattr(loader, "dataset", None) for loader in loaders]
    return sum(map(len, sets)) if all(hasattr(one, "__len__") for one in sets) else None


def _labels(datamodule: Any, split: str) -> NDArray[np.int64] | None:
    read = getattr(datamodule, "labels", None)
    return np.asarray(read(split), dtype=np.int64) if callable(read) else None


@contextmanager
def _as_seeded(seed: Any) -> Iterator[None]:
    """With the seed that the fit would have, for data that draws its split from the global generators."""
    before = dict(os.environ)
    with isolate_rng():
        if isinstance(seed, int) and not isinstance(seed, bool):
            L.seed_everything(seed, workers=True, verbose=False)
        try:
            yield
        finally:
            os.environ.clear()
            os.environ.update(before)
