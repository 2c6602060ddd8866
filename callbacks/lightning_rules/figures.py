"""Figures of the rules: examples as a person can read them, drawn without a display and without matplotlib's state."""

from __future__ import annotations

import logging
import os
from pathlib import Path
from typing import Any

import fsspec
import torch
from torch import Tensor

INK = "#333333"
RIGHT, WRONG = "#2a7f8e", "#c44e2f"
SMALLEST = 6  # pixels a side; less is no picture
LARGEST_SIDE = 224  # pixels a side that are kept of an example
LARGEST = 4 * 2**20  # bytes of an example; more is not kept
TOKENS = 24  # of a sequence of whole numbers that are shown
CURVES = 8  # channels of a sequence that are drawn as curves; more are a heat map
POINTS = 40  # values of a vector that are drawn as bars; more are a line

log = logging.getLogger("lightning_rules")


def new_figure(width: float, height: float, title: str) -> Any:
    """A figure on a canvas that needs no display.

    Args:
        width: In inches.
        height: In inches.
        title: Stands above it.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained", dpi=120)
    FigureCanvasAgg(figure)
    figure.suptitle(plain(title), fontsize=10, color=INK)
    return figure


def plain(text: object) -> str:
    """Text as matplotlib shows it letter by letter: it would read what stands between dollars as a formula."""
    return str(text).replace("$", r"\$")


def save(figure: Any, folder: str | None, name: str) -> str | None:
    """Write ``rules/<name>.png`` below a run's log folder (local, or any address fsspec knows).

    The file appears whole. A folder that cannot be written is a warning, not the end of the run.

    Returns:
        Where it is; None where there is no folder, or where it could not be written.
    """
    if folder is None:
        return None
    path = f"{folder}/rules/{name}.png"
    try:
        if "://" in path:  # an object store: a write there is whole or not at all
            with fsspec.open(path, "wb") as file:
                figure.savefig(file, format="png")
        else:
            _save_whole(figure, Path(path))
    except Exception as error:
        log.warning(f"The figure could not be written to {path} ({error}); the run goes on without it.")
        return None
    return path


def _save_whole(figure: Any, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f".{os.getpid()}.{path.name}")
    try:
        figure.savefig(beside, format="png")
        beside.replace(path)
    finally:
        beside.unlink(missing_ok=True)


def small(inputs: Tensor) -> Tensor | None:
    """Examples [N, ...] thinned out until one can be kept for a picture; None where that is not enough.

    Of images and volumes every k-th pixel is left, so that the last two sides are at most 224.
    """
    if inputs.dim() >= 4:
        steps = [-(-side // LARGEST_SIDE) for side in inputs.shape[-2:]]
        inputs = inputs[..., :: steps[0], :: steps[1]]
    each = inputs[0].numel() * inputs.element_size() if len(inputs) else 0
    return inputs if each <= LARGEST else None


def draw_example(axes: Any, example: Tensor, scaled: bool = True) -> None:
    """Draw one example: an image, a curve for each channel, a heat map, bars, or the beginning of a list of tokens.

    Args:
        axes: Where to draw.
        example: On the host, without a batch dimension.
        scaled: Whether an image is shown from its least to its largest value; else its values are taken to go from
            0 to 1.
    """
    example = example.detach()
    picture = as_picture(example, scaled)
    axes.tick_params(labelsize=6, colors=INK)
    if picture is not None:
        axes.imshow(picture.numpy(), cmap="gray", vmin=0, vmax=1, interpolation="nearest")
        axes.set_axis_off()
    elif not example.is_floating_point() and example.dim() <= 1:
        _draw_tokens(axes, example)
    elif example.dim() <= 1:
        _draw_vector(axes, example.float().reshape(-1))
    else:
        _draw_table(axes, example.float().nan_to_num().flatten(0, -2))


def _draw_tokens(axes: Any, tokens: Tensor) -> None:
    listed = [str(value) for value in tokens.reshape(-1)[:TOKENS].tolist()]
    more = " …" if tokens.numel() > TOKENS else ""
    lines = [" ".join(listed[start : start + 6]) for start in range(0, len(listed), 6)]
    axes.text(0.5, 0.5, "\n".join(lines) + more, ha="center", va="center", fontsize=7, transform=axes.transAxes)
    axes.set_axis_off()


def _draw_vector(axes: Any, values: Tensor) -> None:
    if len(values) <= POINTS:
        axes.bar(range(len(values)), values.tolist(), color=RIGHT, width=0.8)
        axes.axhline(0, color=INK, linewidth=0.5)
    else:
        axes.plot(values.tolist(), color=RIGHT, linewidth=0.8)
    axes.spines[["top", "right"]].set_visible(False)


def _draw_table(axes: Any, table: Tensor) -> None:
    """Of two dimensions the longer one runs to the right: as curves where the other is short, else as a heat map."""
    table = table if table.shape[1] >= table.shape[0] else table.T
    if len(table) <= CURVES:
        axes.plot(table.T.numpy(), linewidth=0.7)
        axes.spines[["top", "right"]].set_visible(False)
    else:
        axes.imshow(table.numpy(), cmap="viridis", aspect="auto", interpolation="nearest")


def as_picture(inputs: Tensor, scaled: bool = True) -> Tensor | None:
    """An input as ``[height, width]`` or ``[height, width, 3]`` with values from 0 to 1, or None if it is no image.

    Args:
        inputs: With channels first, last, or none; one, three or four of them.
        scaled: Whether to stretch its values from 0 to 1; else they are cut off there.
    """
    if inputs.dim() == 3 and inputs.shape[0] in (1, 3, 4):
        inputs = inputs.permute(1, 2, 0)
    elif inputs.dim() == 2:
        inputs = inputs[:, :, None]
    if inputs.dim() != 3 or inputs.shape[2] not in (1, 3, 4) or min(inputs.shape[:2]) < SMALLEST:
        return None
    picture = inputs[:, :, :3].float().nan_to_num()
    if scaled:
        low, high = picture.min(), picture.max()
        picture = (picture - low) / (high - low).clamp(min=1e-12)
    picture = torch.clamp(picture, 0, 1)
    return picture[:, :, 0] if picture.shape[2] == 1 else picture
