"""What labels must look like, checked before the loss turns a wrong one into an index error."""

from typing import Any

import torch
from torch import Tensor


def check_num_classes(num_classes: int) -> None:
    """Check that there is something to tell apart.

    Raises:
        ValueError: If there are fewer than 2 classes.
    """
    if num_classes < 2:
        raise ValueError(
            f"num_classes={num_classes} was given, but a classifier tells at least 2 classes apart: count them."
        )


def check_labels(labels: Tensor, num_classes: int, *, known: str = "The batch") -> None:
    """Check that class labels are integers in `0 .. num_classes - 1`.

    Reads the values, which makes the host wait for the device: call it once an epoch, not once a step.

    Args:
        labels: Integer labels [N].
        num_classes: Number of classes, at least 2.
        known: Where the labels come from, for the message.

    Raises:
        ValueError: If a label is not an integer or is out of range. Under DDP only the ranks that hold the
            bad label raise; Lightning's launcher then stops the others.
    """
    if labels.is_floating_point() or labels.is_complex():
        raise ValueError(
            f"{known} has labels of type {labels.dtype}, but class labels are integers from 0 to "
            f"{num_classes - 1}: convert them with `.long()`."
        )
    if labels.numel() == 0:
        return
    low, high = (int(value) for value in torch.aminmax(labels))
    if low < 0 or high >= num_classes:
        raise ValueError(
            f"{known} has labels from {low} to {high}, but num_classes={num_classes} expects 0 to "
            f"{num_classes - 1}: number the classes from 0, or set num_classes to {high + 1}."
        )


def check_datamodule(datamodule: Any, num_classes: int, *, splits: tuple[str, ...]) -> None:
    """Check that a data module's classes agree with the model's, on every rank alike.

    Data modules without `num_classes` or `labels` are left to [`check_labels`][] on the first batch.

    Args:
        datamodule: The trainer's data module, after its own `setup`; None if there is none.
        num_classes: The model's number of classes.
        splits: Which of its splits are in use: any of "train", "val", "test".

    Raises:
        ValueError: If the numbers of classes differ, or a label is out of range.
    """
    found = getattr(datamodule, "num_classes", None)
    if isinstance(found, int) and found != num_classes:
        raise ValueError(
            f"The model has num_classes={num_classes}, but {type(datamodule).__name__} has {found} classes: "
            f"set the model's num_classes to {found}."
        )
    read_labels = getattr(datamodule, "labels", None)
    if not callable(read_labels):
        return
    for split in splits:
        check_labels(torch.as_tensor(read_labels(split)), num_classes, known=f"The {split} split")
