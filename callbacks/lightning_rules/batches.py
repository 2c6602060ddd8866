"""Which part of a batch enters the network, and which part says what should come out."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any

from torch import Tensor

INPUTS = (
    *("x", "image", "images", "img", "imgs", "input", "inputs", "data", "feature", "features"),
    *("pixel_values", "input_ids", "input_values", "input_features"),
    *("audio", "waveform", "text", "sequence", "signal"),
)
TARGETS = ("y", "label", "labels", "target", "targets", "class", "classes", "label_ids")


def split_batch(batch: Any, module: Any = None) -> tuple[Any, Any]:
    """Split a batch into inputs and targets.

    Understands ``(inputs, targets, ...)``, mappings with the usual keys (``x/y``, ``image/label``,
    ``pixel_values/labels``, ...), named tuples, dataclasses and objects with such attributes (graph batches), and a
    single tensor (inputs without targets). A module with a method ``unpack(batch) -> (inputs, targets)`` overrides
    all of it.

    Args:
        batch: What the loader gave.
        module: The LightningModule, asked for ``unpack``.

    Returns:
        ``(inputs, targets)``; targets are None where the batch has none, as in self-supervised training.

    Raises:
        ValueError: ``unpack`` returned something else than a pair.
    """
    unpack = getattr(module, "unpack", None)
    if callable(unpack):
        pair = unpack(batch)
        if not isinstance(pair, (tuple, list)) or len(pair) != 2:
            raise ValueError(f"Expected `unpack(batch)` to return (inputs, targets), but got {type(pair).__name__}.")
        return pair[0], pair[1]
    named = fields_of(batch)
    if named is not None:
        return _split_fields(named)
    if isinstance(batch, (tuple, list)):
        # A batch of one part is wrapped, as TensorDataset(x) gives it.
        return (batch[0], batch[1]) if len(batch) > 1 else ((batch[0] if batch else None), None)
    return batch, None


def fields_of(batch: Any) -> dict[str, Any] | None:
    """The parts of a batch that have names, or None where it has none."""
    if isinstance(batch, Tensor):
        return None
    if isinstance(batch, Mapping):
        return dict(batch)
    if hasattr(batch, "_asdict"):
        return dict(batch._asdict())
    if dataclasses.is_dataclass(batch) and not isinstance(batch, type):
        return {field.name: getattr(batch, field.name) for field in dataclasses.fields(batch)}
    if callable(getattr(batch, "to_dict", None)):  # graph batches, TensorDict
        return dict(batch.to_dict())
    return None


def _split_fields(named: dict[str, Any]) -> tuple[Any, Any]:
    lower = {str(key).lower(): key for key in named}
    inputs = next((lower[name] for name in INPUTS if name in lower), None)
    target = next((lower[name] for name in TARGETS if name in lower), None)
    rest = {key: value for key, value in named.items() if key != target}
    return (rest if inputs is None else named[inputs]), (None if target is None else named[target])


def leaves(batch: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[tuple[Any, ...], Tensor]]:
    """All tensors in a batch, each with the keys and positions that lead to it."""
    if isinstance(batch, Tensor):
        yield path, batch
        return
    named = fields_of(batch)
    parts = named.items() if named is not None else enumerate(batch) if isinstance(batch, (list, tuple)) else ()
    for key, part in parts:
        yield from leaves(part, (*path, key))


def leaf_at(batch: Any, path: tuple[Any, ...]) -> Any:
    """The part of a batch that a path from :func:`leaves` leads to."""
    for key in path:
        named = fields_of(batch)
        batch = named[key] if named is not None else batch[key]
    return batch
