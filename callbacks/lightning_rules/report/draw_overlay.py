"""One metric of several runs on the same axes; each run looks the same in all figures of a page."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from lightning_rules.report.draw import ROW, rows_of, words_above
from lightning_rules.report.draw_panels import spans_decades, spread
from lightning_rules.report.style import (
    DASHES,
    INK,
    LINE,
    REST,
    RUNS,
    SIZE,
    THIN,
    WIDTH,
    finite,
    fitted,
    new_axes,
    new_figure,
    set_scale,
    style,
    widen,
)
from lightning_rules.report.svg import inline

HIGHLIGHTED = 5  # of more runs than there are colours
POINTS = 6_000  # in a figure
FEW_POINTS = 24  # are marked one by one


@dataclass(frozen=True)
class Look:
    """How a run is drawn.

    Attributes:
        place: Of its colour.
        is_faint: Whether it is one of many, in grey.
    """

    place: int
    is_faint: bool = False

    @property
    def color(self) -> str:
        """For a figure."""
        return REST if self.is_faint else RUNS[self.place % len(RUNS)]

    @property
    def dashes(self) -> Any:
        """For a figure; runs differ in them too, for those to whom colours say little."""
        return "-" if self.is_faint else DASHES[self.place % len(DASHES)]


@dataclass(frozen=True)
class Line:
    """One run's values.

    Attributes:
        name: Of the run.
        look: Of the run.
        x: Steps.
        y: Values; None or NaN where there is none.
    """

    name: str
    look: Look
    x: Sequence[float]
    y: Sequence[float | None]


def looks_of(count: int) -> list[Look]:
    """One for each of so many runs, the best first: colours for eight at most, of more the best five before grey."""
    if count <= len(RUNS):
        return [Look(place) for place in range(count)]
    return [Look(place, place >= HIGHLIGHTED) for place in range(count)]


def overlay_svg(lines: Sequence[Line], x_label: str, y_label: str, name: str, label: str) -> str:
    """An ``<svg>`` element; see :func:`~lightning_rules.report.svg.inline`."""
    with style():
        return inline(_figure(lines, x_label, y_label), name, label)


def _figure(lines: Sequence[Line], x_label: str, y_label: str) -> Any:
    drawn = [_thinned(one, max(12, POINTS // max(1, len(lines)))) for one in lines]
    is_log = spans_decades([value for _, y in drawn for value in y])
    drawn = [(x, finite(y, is_log)) for x, y in drawn]
    bold = [place for place, one in enumerate(lines) if not one.look.is_faint]
    legend = rows_of([lines[place].name for place in bold])
    above = 0.1 + ROW * (1 + len(legend))
    figure = new_figure(2.35 + above)
    axes = new_axes(figure, 0.55, 0.45, 0.15, above)
    _draw_faint(axes, [drawn[place] for place in range(len(lines)) if place not in bold])
    handles = [_draw(axes, lines[place].look, *drawn[place]) for place in bold]
    if any(math.isfinite(value) for _, y in drawn for value in y):
        set_scale(axes, "x", is_log=False)
        set_scale(axes, "y", is_log)
        widen(axes, 0.15)
    else:
        axes.set(xticks=[], yticks=[])
        axes.text(0.5, 0.5, "no finite value was measured", ha="center", va="center", transform=axes.transAxes)
    axes.grid(axis="y", color=INK, alpha=0.12, linewidth=THIN)
    axes.set_xlabel(fitted(x_label, WIDTH - 0.9, SIZE))
    named = [(lines[place].name, handle) for place, handle in zip(bold, handles, strict=True)]
    words_above(figure, fitted(y_label, WIDTH - 0.2, SIZE), named, legend)
    return figure


def _thinned(line: Line, points: int) -> tuple[list[float], list[float]]:
    both = min(len(line.x), len(line.y))
    kept = spread(both, points)
    return finite([line.x[place] for place in kept]), finite([line.y[place] for place in kept])


def _draw(axes: Any, look: Look, x: list[float], y: list[float]) -> Any:
    few = sum(map(math.isfinite, y)) <= FEW_POINTS
    return axes.plot(x, y, color=look.color, linestyle=look.dashes, linewidth=LINE, marker="o" if few else None,
                     markersize=2.8, zorder=4 - 0.05 * look.place)[0]  # fmt: skip


def _draw_faint(axes: Any, drawn: Sequence[tuple[list[float], list[float]]]) -> None:
    """All as one line with gaps: hundreds of them would take seconds."""
    if drawn:
        x = [value for one, _ in drawn for value in (*one, math.nan)]
        y = [value for _, one in drawn for value in (*one, math.nan)]
        axes.plot(x, y, color=REST, linewidth=THIN, zorder=2)
