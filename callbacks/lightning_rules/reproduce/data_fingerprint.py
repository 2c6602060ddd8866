"""Whether two runs trained on the same data, told from what can be had without reading it."""

from __future__ import annotations

import hashlib
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Subset, TensorDataset

from lightning_rules.labels import labels_of
from lightning_rules.loaders import each_loader
from lightning_rules.reproduce.plain_values import class_path
from lightning_rules.untouched import untouched

ROWS_SAMPLED = 64
VALUES_SAMPLED = 4096


def describe_data(trainer: Any) -> dict[str, Any]:
    """The training data of a run: classes, lengths and a fingerprint; reads no example, draws no random number.

    The loaders are known from ``on_train_start`` on; before that only the data module is, and loaders given to ``fit``.

    Returns:
        ``datamodule`` (its class, or None) and ``datasets``, one dict each: ``class``, ``length`` (None where it has
        none), ``fingerprint`` (16 hexadecimal digits, or None) and ``of``: what the fingerprint was taken of, or why
        there is none.
    """
    datamodule = getattr(trainer, "datamodule", None)
    described: dict[str, Any] = {"datamodule": None if datamodule is None else class_path(type(datamodule))}
    try:
        described["datasets"] = [describe_dataset(dataset) for dataset in _datasets(trainer)]
    except Exception as error:  # a loader of unknown kind
        described |= {"datasets": [], "why_not": f"{type(error).__name__}: {error}"}
    return described


def _datasets(trainer: Any) -> list[Any]:
    loaders = trainer.train_dataloader
    if loaders is None:  # not yet; those that were given to `fit` are known all the same
        source = getattr(getattr(trainer.fit_loop, "_data_source", None), "instance", None)
        loaders = None if hasattr(source, "train_dataloader") else source
    return [getattr(loader, "dataset", loader) for loader in each_loader(loaders)]


def describe_dataset(dataset: Any) -> dict[str, Any]:
    """Class, length and fingerprint of a data set; see :func:`describe_data`."""
    length = _length(dataset)
    described: dict[str, Any] = {"class": class_path(type(dataset)), "length": length}
    try:
        with untouched(None, dataset):
            parts = _parts(dataset)
    except Exception as error:
        return {**described, "fingerprint": None, "of": f"unknown data set ({type(error).__name__}: {error})"}
    if not parts:
        return {**described, "fingerprint": None, "of": "unknown data set: only class and length are known"}
    digest = hashlib.sha256(f"{described['class']} {length}".encode())
    for name, content in parts.items():
        digest.update(name.encode() + b"\0" + hashlib.sha256(content).digest())
    return {**described, "fingerprint": digest.hexdigest()[:16], "of": ", ".join(parts)}


def _length(dataset: Any) -> int | None:
    try:
        return len(dataset)
    except Exception:  # iterable, or a length that only its user knows
        return None


def _parts(dataset: Any) -> dict[str, bytes]:
    """What a data set tells of its contents, by name."""
    parts: dict[str, bytes] = {}
    known = getattr(dataset, "_fingerprint", None)  # of Hugging Face: a hash of data and transforms
    if isinstance(known, str):
        return {"Hugging Face's fingerprint": known.encode()}
    if _length(dataset) is None:
        return parts
    if isinstance(dataset, Subset):
        parts["indices"] = _bytes(torch.as_tensor(list(dataset.indices)))
        parts |= _parts(dataset.dataset)
    if isinstance(dataset, TensorDataset):
        parts["a sample of the tensors"] = b"".join(_sample(tensor) for tensor in dataset.tensors)
    labels = labels_of(dataset)
    if labels is not None:
        parts["labels"] = _bytes(labels)
    return parts


def _sample(tensor: Tensor) -> bytes:
    """Type, shape and some values, evenly spaced, of a tensor of any size."""
    rows = np.unique(np.linspace(0, max(len(tensor) - 1, 0), ROWS_SAMPLED).astype(int)).tolist()
    chosen = (
        tensor[rows].reshape(-1)[:: max(1, len(rows) * tensor[:1].numel() // VALUES_SAMPLED)] if len(tensor) else tensor
    )
    return f"{tensor.dtype} {tuple(tensor.shape)}".encode() + _bytes(chosen)


def _bytes(tensor: Tensor) -> bytes:
    values: Any = tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy()
    return bytes(values.tobytes())
