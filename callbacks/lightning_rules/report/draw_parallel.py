"""Parallel coordinates: a line for each trial, through an axis for each quantity, the best drawn last and strongest."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from lightning_rules.exhibit import ParallelCoordinates
from lightning_rules.report.scales import Scale, scale_of, steps_of
from lightning_rules.report.style import GROUND, INK, RAMP, SMALL, THIN, WIDTH, fitted, new_figure, width_of

AXES = 12  # that are shown: the first ones and the last
HEIGHT, BELOW, ROW = 1.9, 0.14, 0.17  # inches, of the axes, below them, of a row of names
LEFT, TAIL = 0.3, 0.62  # inches, before the first axis, and after the last for its numbers
TICKS = 4


def figure_of_parallel(content: ParallelCoordinates) -> Any:
    """Axes side by side, their names above them in as many rows as keep them apart."""
    number_of = len(content.axes)
    shown = list(range(number_of)) if number_of <= AXES else [*range(AXES - 1), number_of - 1]
    lines = [[line[place] if place < len(line) else None for place in shown] for line in content.lines]
    axes_shown = [content.axes[place] for place in shown]
    scales = [scale_of(axis, [line[place] for line in lines]) for place, axis in enumerate(axes_shown)]
    gap = (WIDTH - LEFT - TAIL) / max(1, len(scales) - 1)
    rows = 1 if gap > 1.0 else 2 if gap > 0.55 else 3
    height = BELOW + HEIGHT + 0.1 + rows * ROW
    figure = new_figure(height)
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set(xlim=(0, WIDTH), ylim=(0, height))
    axes.set_axis_off()
    if not scales:
        axes.text(WIDTH / 2, height / 2, "there is nothing to compare", ha="center", va="center")
        return figure
    _draw_lines(axes, lines, scales, gap, content.better)
    for place, scale in enumerate(scales):
        _draw_axis(axes, scale, LEFT + place * gap, gap if place < len(scales) - 1 else TAIL)
    _draw_names(axes, [scale.axis.label for scale in scales], gap, rows)
    return figure


def _draw_lines(
    axes: Any, lines: Sequence[Sequence[float | None]], scales: Sequence[Scale], gap: float, better: str
) -> None:
    last = [line[-1] for line in lines]
    steps = steps_of([None if value is None else -value if better == "low" else value for value in last], len(RAMP))
    heights = [scale.shares([line[place] for line in lines]) for place, scale in enumerate(scales)]
    order = sorted(range(len(lines)), key=lambda place: (_goodness(last[place], better), -place))
    for place in order:
        x = [LEFT + at * gap for at in range(len(scales))]
        y = [BELOW + HEIGHT * column[place] for column in heights]
        if math.isnan(y[-1]):  # nothing came of it
            axes.plot(x, y, color=RAMP[0], linewidth=THIN, linestyle=(0, (1, 1.5)), zorder=2)
        else:
            axes.plot(x, y, color=RAMP[steps[place]], linewidth=0.6 + 0.12 * steps[place], zorder=2 + steps[place] / 10)
    if order and _goodness(last[order[-1]], better) > -math.inf:
        y = [BELOW + HEIGHT * column[order[-1]] for column in heights]
        axes.plot([LEFT + at * gap for at in range(len(scales))], y, color=INK, linewidth=1.8, marker="o",
                  markersize=3.2, zorder=3)  # fmt: skip


def _goodness(value: float | None, better: str) -> float:
    if value is None or not math.isfinite(value):
        return -math.inf
    return -value if better == "low" else value


def _draw_axis(axes: Any, scale: Scale, x: float, room: float) -> None:
    axes.plot([x, x], [BELOW, BELOW + HEIGHT], color=INK, linewidth=THIN, zorder=4)
    ticks = scale.ticks(TICKS)
    if len(ticks) > 12:  # categories too many to be read
        ticks = [ticks[0], ticks[-1]]
    for share, words in ticks:
        y = BELOW + HEIGHT * share
        axes.plot([x, x + 0.04], [y, y], color=INK, linewidth=THIN, zorder=4)
        axes.text(x + 0.06, y, fitted(words, max(0.2, room - 0.08)), fontsize=SMALL, va="center", zorder=5,
                  bbox={"facecolor": GROUND, "edgecolor": "none", "pad": 0.6, "alpha": 0.8})  # fmt: skip


def _draw_names(axes: Any, names: Sequence[str], gap: float, rows: int) -> None:
    """In turn in one row and the next, so that each has the room of several axes."""
    top = BELOW + HEIGHT + 0.1
    for place, name in enumerate(names):
        row = place % rows
        x = LEFT + place * gap
        is_last = place == len(names) - 1
        room = (x - 0.05 if len(names) > 1 else WIDTH - LEFT) if is_last else rows * gap
        words = fitted(name, min(room, WIDTH - 0.1) - 0.06)
        if is_last:
            axes.text(WIDTH - 0.05, top + row * ROW, words, fontsize=SMALL, ha="right", weight="bold")
        else:
            begins = max(0.05, min(x - 0.1, WIDTH - 0.05 - width_of(words)))
            axes.text(begins, top + row * ROW, words, fontsize=SMALL)
        if row:
            axes.plot([x, x], [BELOW + HEIGHT, top + row * ROW - 0.03], color=INK, linewidth=0.4, alpha=0.3)
