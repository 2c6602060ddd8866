"""Suspects as pictures: what a person needs to see to tell a wrong label from a wrong probe."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from torch import Tensor

if TYPE_CHECKING:
    from lightning_rules.data.confident_learning import Suspect

COLUMNS = 3
SMALLEST = 6  # pixels a side; less is no picture


def draw(suspects: list[tuple[Suspect, Tensor]], path: Path) -> bool:
    """Write a PNG with the suspects' inputs, each with the given and the suggested label.

    Args:
        suspects: Each with its input.
        path: Where to write; missing folders are made, and the file appears whole.

    Returns:
        Whether there is anything to see: inputs that are no images are not drawn.

    Raises:
        OSError: The folder cannot be made or written.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    pictures = [(suspect, as_picture(inputs)) for suspect, inputs in suspects]
    shown = [(suspect, picture) for suspect, picture in pictures if picture is not None]
    if not shown:
        return False
    rows = -(-len(shown) // COLUMNS)
    figure = Figure(figsize=(2.2 * COLUMNS, 2.6 * rows), layout="constrained")
    FigureCanvasAgg(figure)
    figure.suptitle("Training labels that look wrong", fontsize=11)
    for place, (suspect, picture) in enumerate(shown, 1):
        axes = figure.add_subplot(rows, COLUMNS, place)
        axes.imshow(picture.numpy(), cmap="gray", vmin=0, vmax=1, interpolation="nearest")
        axes.set_title(f"example {suspect.index}\nlabelled {suspect.given}, looks like {suspect.suggested}", fontsize=8)
        axes.set_axis_off()
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f".{os.getpid()}.{path.name}")
    try:
        figure.savefig(beside, dpi=120, format="png")
        beside.replace(path)
    finally:
        beside.unlink(missing_ok=True)
    return True


def as_picture(inputs: Tensor) -> Tensor | None:
    """An input as ``[height, width]`` or ``[height, width, 3]`` with values from 0 to 1, or None if it is no image."""
    if inputs.dim() == 3 and inputs.shape[2] not in (1, 3, 4):
        inputs = inputs.permute(1, 2, 0)
    if inputs.dim() == 2:
        inputs = inputs[:, :, None]
    if inputs.dim() != 3 or inputs.shape[2] not in (1, 3, 4) or min(inputs.shape[:2]) < SMALLEST:
        return None
    picture = inputs[:, :, :3].float().nan_to_num()
    low, high = picture.min(), picture.max()
    picture = (picture - low) / (high - low).clamp(min=1e-12)
    return picture[:, :, 0] if picture.shape[2] == 1 else picture
