"""The confusion matrix: with numbers where there are few classes, as a heat map where there are many."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from lightning_rules.exhibit import Matrix
from lightning_rules.report.style import RIGHT, SMALL, WIDTH, WRONG, fitted, new_axes, new_figure, number, width_of

NUMBERS = 15  # classes, up to which each cell says its number
NAMES = 40  # classes, up to which each has its name
LEAST = 0.2  # of the colour of a mistake, so that a single one is seen
STRONGEST = 0.45  # of a cell's colour under a number, which can be read in light and dark pages


def figure_of_matrix(content: Matrix) -> Any:
    """Rows are labels, columns answers; the colour is the share of the row, blue where right, orange where wrong."""
    counts = _square(content)
    classes = len(counts)
    labels = [fitted(label, 1.0) for label in content.labels[:classes]]
    named = classes <= NAMES
    widest = max([0.2, *(width_of(label) for label in labels)]) if named else 0.3
    is_turned = named and widest > 0.9 * (WIDTH - 1.2) / max(1, classes)
    left, below = 0.35 + widest, 0.38 + (widest if is_turned else 0.12)
    side = min(WIDTH - left - 0.15, max(1.2, 0.42 * classes) if classes <= NUMBERS else 4.2)
    figure = new_figure(side + below + 0.1)
    axes = new_axes(figure, left, below, WIDTH - left - side, 0.1)
    axes.spines[:].set_visible(False)
    axes.imshow(_colours(counts), interpolation="none", aspect="auto")
    axes.tick_params(length=0)
    if named:
        size = min(SMALL, 0.8 * 72 * side / max(1, classes))
        axes.set_xticks(range(classes), labels, rotation=90 if is_turned else 0, fontsize=size)
        axes.set_yticks(range(classes), labels, fontsize=size)
    if classes <= NUMBERS:
        _write_numbers(axes, counts)
    axes.set_xlabel("answered")
    figure.text(0.02, 1 - (0.1 + side / 2) / (side + below + 0.1), "labelled", rotation=90, va="center")
    return figure


def _square(content: Matrix) -> NDArray[np.float64]:
    classes = len(content.labels)
    counts = np.zeros((classes, classes))
    for row, values in enumerate(content.counts[:classes]):
        known = [float(value) if value is not None else 0.0 for value in values[:classes]]
        counts[row, : len(known)] = np.nan_to_num(known, posinf=0, neginf=0)
    return counts.clip(0)


def _colours(counts: NDArray[np.float64]) -> NDArray[np.float64]:
    """``[classes, classes, 4]``: transparent where a cell is empty, so that the page shows through."""
    from matplotlib.colors import to_rgb

    classes = len(counts)
    strongest = STRONGEST if classes <= NUMBERS else 1.0
    share = counts / np.maximum(counts.sum(1, keepdims=True), 1)
    colours = np.zeros((max(1, classes), max(1, classes), 4))
    colours[..., :3] = to_rgb(WRONG)
    colours[range(len(colours)), range(len(colours)), :3] = to_rgb(RIGHT)
    wrong = strongest * np.sqrt(share)  # so that few errors of many can be seen
    visible = np.where(counts > 0, np.maximum(wrong, LEAST), 0)
    colours[:classes, :classes, 3] = np.where(np.eye(classes) > 0, strongest * share, visible)
    return colours


def _write_numbers(axes: Any, counts: NDArray[np.float64]) -> None:
    for row, column in np.ndindex(*counts.shape):
        if counts[row, column] or row == column:
            size = SMALL if counts.max() < 1e4 and len(counts) <= 12 else SMALL - 1.5
            axes.text(column, row, number(float(counts[row, column])), ha="center", va="center", fontsize=size)
