"""Suspects as pictures: what a person needs to see to tell a wrong label from a wrong probe."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from torch import Tensor

from lightning_rules.figures import as_picture

if TYPE_CHECKING:
    from lightning_rules.data.confident_learning import Suspect

COLUMNS = 3


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
