"""What the classes are called, where the data says so."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

NAMES = ("class_names", "classes", "label_names")
WRAPPED = ("dataset", "data_set", "base", "base_dataset", "datasets")
DEEPEST = 4  # wrappers around a data set
LONGEST = 24  # characters of a name that are shown


def class_names(trainer: Any, loaders: Any = None) -> list[str]:
    """Names of the classes in the order of their labels; empty where nobody knows them.

    Asks the data module, the module, and the data set behind the loader (``classes`` as in torchvision, also through
    Subset and other wrappers).

    Args:
        trainer: The run's Trainer.
        loaders: Loaders whose data sets are asked, one or a list.
    """
    owners = [getattr(trainer, "datamodule", None), getattr(trainer, "lightning_module", None)]
    for loader in loaders if isinstance(loaders, (list, tuple)) else [loaders]:
        owners += _sets_in(getattr(loader, "dataset", None))
    for owner in owners:
        for name in NAMES:
            found = _names_in(getattr(owner, name, None))
            if found:
                return found
    return []


def name_of(names: list[str], label: int) -> str:
    """A class by its name where there is one: ``"cat"``, else ``"class 3"``."""
    if not 0 <= label < len(names):
        return f"class {label}"
    name = " ".join(names[label].split())
    return name if len(name) <= LONGEST else name[: LONGEST - 1] + "…"


def _sets_in(dataset: Any) -> list[Any]:
    found: list[Any] = []
    while dataset is not None and len(found) < DEEPEST:
        found.append(dataset)
        inside = next((getattr(dataset, name) for name in WRAPPED if getattr(dataset, name, None) is not None), None)
        dataset = inside[0] if isinstance(inside, (list, tuple)) and inside else inside
    return found


def _names_in(value: Any) -> list[str]:
    if isinstance(value, Mapping):  # of labels to names
        return [str(value[key]) for key in sorted(value)] if all(isinstance(key, int) for key in value) else []
    if isinstance(value, (list, tuple)) and value and all(isinstance(name, (str, int)) for name in value):
        return [str(name) for name in value]
    return []
