"""`lightning.pytorch` and `pytorch_lightning` are two packages with distinct classes: pick the right one.

Nothing here imports `pytorch_lightning`: code that uses it has imported it already.
"""

from __future__ import annotations

import importlib
import sys
from types import ModuleType
from typing import Any

import lightning.pytorch


def callback_bases() -> tuple[type, ...]:
    """The Callback classes a rule inherits from: Lightning's, and that of pytorch_lightning if it is loaded.

    Either Trainer calls a rule's hooks whatever its base; pytorch_lightning's LightningCLI alone insists on its own
    class, so in such a program import pytorch_lightning before lightning_rules.
    """
    other = sys.modules.get("pytorch_lightning")
    bases = (lightning.pytorch.Callback,)
    return bases if other is None else (*bases, other.Callback)


def checkpoint_bases() -> tuple[type, ...]:
    """The ModelCheckpoint classes that a checkpoint callback inherits from, as :func:`callback_bases` has it.

    A Trainer that does not know its own ModelCheckpoint in a callback adds a second one, and finds no "best" or "last".
    """
    other = sys.modules.get("pytorch_lightning")
    bases = (lightning.pytorch.callbacks.ModelCheckpoint,)
    return bases if other is None else (*bases, other.callbacks.ModelCheckpoint)


def namespace_of(instance: Any) -> ModuleType:
    """The package that the class of a Trainer, LightningModule or DataModule comes from.

    Args:
        instance: The object whose class, or one of its base classes, is defined by either package.

    Returns:
        The module ``pytorch_lightning`` or ``lightning.pytorch``; both hold Trainer, Callback, callbacks, loggers.
    """
    roots = {base.__module__.partition(".")[0] for base in type(instance).__mro__}
    return importlib.import_module("pytorch_lightning" if "pytorch_lightning" in roots else "lightning.pytorch")
