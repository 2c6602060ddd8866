"""Draws what a rule shows: one function a kind of content; the same figure for the page, for files and for loggers."""

from __future__ import annotations

import io
import math
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any

from lightning_rules.exhibit import (
    Bars,
    Content,
    Curve,
    Curves,
    Listing,
    Matrix,
    Panels,
    ParallelCoordinates,
    Picture,
    Role,
    Scatter,
)
from lightning_rules.report.draw_matrix import figure_of_matrix
from lightning_rules.report.draw_panels import figure_of_panels
from lightning_rules.report.draw_parallel import figure_of_parallel
from lightning_rules.report.draw_scatter import figure_of_scatter
from lightning_rules.report.style import (
    DASHES,
    INK,
    LINE,
    OTHERS,
    ROLES,
    SIZE,
    SMALL,
    THIN,
    WIDTH,
    around,
    finite,
    fitted,
    new_axes,
    new_figure,
    number,
    plain,
    set_scale,
    style,
    widen,
    width_of,
)
from lightning_rules.report.svg import inline

CURVES = 12  # on one pair of axes
MARKS = 6
BARS = 30
FEW_POINTS = 24  # are marked one by one
LABELLED = 4  # curves whose names stand at their ends, if these are apart
SHORT = 14  # letters of a name that may stand there
GREY = (INK, 0.5)  # of bars that belong to no split: half of the ink
ROW = 0.17  # inches, of a line of words
NAME = 2.4  # inches, of a name in a legend


def figure_of(content: Content) -> Any:
    """A matplotlib figure.

    Raises:
        ValueError: The content is a table or a picture, of which there is no figure.
    """
    with style():
        return _figure(content)


def svg_of(content: Content, name: str, label: str) -> str:
    """An ``<svg>`` element for the page; see :func:`~lightning_rules.report.svg.inline`."""
    with style():
        return inline(_figure(content), name, label)


def png_of(content: Content) -> bytes:
    """A PNG file on a white ground."""
    with style():
        stream = io.BytesIO()
        _figure(content).savefig(stream, format="png", metadata={"Software": None})
        return stream.getvalue()


def _figure(content: Content) -> Any:
    drawings: dict[type, Callable[[Any], Any]] = {
        Curves: _of_curves,
        Panels: figure_of_panels,
        Bars: _of_bars,
        Matrix: figure_of_matrix,
        Scatter: figure_of_scatter,
        ParallelCoordinates: figure_of_parallel,
    }
    if type(content) in drawings:
        return drawings[type(content)](content)
    kind = "table" if isinstance(content, Listing) else "picture"
    raise ValueError(f"Expected something to draw, but got a {kind}: {type(content).__name__} is shown as it is.")


def is_drawn(content: Content) -> bool:
    """Whether there is a figure of it; a table and a picture are shown as they are."""
    return not isinstance(content, (Listing, Picture))


def _of_curves(content: Curves) -> Any:
    drawn = [_points(curve, content) for curve in content.curves[:CURVES]]
    named = [(curve, place) for place, curve in enumerate(content.curves[:CURVES]) if curve.label and not curve.faint]
    short = len(named) <= LABELLED and all(len(curve.label) <= SHORT for curve, _ in named)
    at_ends = short and _apart(content, [drawn[place] for _, place in named])
    legend = rows_of([curve.label for curve, _ in named]) if not at_ends else []
    marks = [one for one in content.marks[:MARKS] if _is_number(one[0]) and not (content.log_x and one[0] <= 0)]
    above = 0.1 + ROW * (1 + len(legend) + min(3, len(marks)))
    right = max([0.15, *(min(1.4, 0.12 + width_of(curve.label)) for curve, _ in named if at_ends)])
    figure = new_figure(2.35 + above)
    axes = new_axes(figure, 0.55, 0.45, right, above)
    cut = ""
    handles = [
        _draw(axes, curve, place, *drawn[place], content.log_y) for place, curve in enumerate(content.curves[:CURVES])
    ]
    if not any(math.isfinite(value) for _, values in drawn for value in values):
        _say_nothing(axes)
    else:
        set_scale(axes, "x", content.log_x)
        set_scale(axes, "y", content.log_y)
        _draw_band(axes, content.band, content.log_y)
        _draw_marks(axes, marks)
        cut = _cut_off(axes, content, drawn)
        _open_flat(axes, drawn, content.log_y)
        widen(axes, right)
    axes.grid(axis="y", color=INK, alpha=0.12, linewidth=THIN)
    if at_ends:
        for curve, place in named:
            _label_end(axes, curve.label, *drawn[place])
    axes.set_xlabel(fitted(content.x_label, WIDTH - 0.9, SIZE))
    title = fitted(content.y_label, WIDTH - (1.6 if cut else 0.2), SIZE) + cut
    words_above(figure, title, [(curve.label, handles[place]) for curve, place in named], legend)
    return figure


def _points(curve: Curve, content: Curves) -> tuple[list[float], list[float]]:
    both = min(len(curve.x), len(curve.y))
    return finite(curve.x[:both], content.log_x), finite(curve.y[:both], content.log_y)


def _is_number(value: float | None) -> bool:
    return value is not None and math.isfinite(value)


def _draw(axes: Any, curve: Curve, place: int, x: list[float], y: list[float], is_log: bool) -> Any:
    color = ROLES.get(curve.role, INK) if curve.role != "other" else OTHERS[place % len(OTHERS)]
    dashes = DASHES[(place // len(OTHERS) if curve.role != "other" else place) % len(DASHES)]
    few = sum(map(math.isfinite, y)) <= FEW_POINTS and not curve.faint and curve.look != "dashes" and not curve.low
    looks: dict[str, Any] = {"color": color, "linestyle": dashes, "linewidth": LINE, "zorder": 3}
    if curve.look == "dashes":
        looks["linestyle"] = DASHES[1]
    if curve.look == "points":
        looks, few = looks | {"linestyle": "none", "alpha": 0.6}, True
    if curve.faint:
        looks |= {"alpha": 0.35, "linewidth": THIN, "linestyle": "-", "zorder": 2}
    if curve.low and curve.high:
        both = min(len(x), len(curve.low), len(curve.high))
        ends = (finite(one[:both], is_log) for one in (curve.low, curve.high))
        axes.fill_between(x[:both], *ends, color=color, alpha=0.16, linewidth=0, zorder=1)
    return axes.plot(x, y, marker="o" if few else None, markersize=2.8, **looks)[0]


def _open_flat(axes: Any, drawn: Sequence[tuple[list[float], list[float]]], is_log: bool) -> None:
    values = [value for _, y in drawn for value in y if math.isfinite(value)]
    if not is_log and max(values) - min(values) <= 1e-9 * abs(max(values)):
        low, high = around(max(values))
        axes.set_ylim(low - 0.04 * (high - low), high)


def _cut_off(axes: Any, content: Curves, drawn: Sequence[tuple[list[float], list[float]]]) -> str:
    """In a search over decades what explodes at its end would flatten the rest: the axis ends before; says so."""
    values = sorted(value for _, y in drawn for value in y if math.isfinite(value))
    if not content.log_x or content.log_y or len(values) < FEW_POINTS:
        return ""
    low, usual = values[0], values[int(0.7 * len(values))]
    top = usual + 0.75 * (usual - low)
    if values[-1] <= usual + 4 * (usual - low) or top <= low:
        return ""
    axes.set_ylim(low - 0.05 * (top - low), top)
    return f" (goes on to {number(values[-1])})"


def _ends(y: list[float]) -> float | None:
    return next((value for value in reversed(y) if math.isfinite(value)), None)


def _apart(content: Curves, drawn: Sequence[tuple[list[float], list[float]]]) -> bool:
    """Whether the last values lie so far apart that names beside them do not touch, and all curves end together."""
    values = [value for _, y in drawn for value in y if math.isfinite(value)]
    ends = [_ends(y) for _, y in drawn]
    lasts = [max((x for x, y in zip(*one, strict=True) if math.isfinite(y)), default=0.0) for one in drawn]
    firsts = [x for one in drawn for x in one[0] if math.isfinite(x)]
    if not values or None in ends or content.log_x:
        return False
    if max(lasts) - min(lasts) > 0.05 * (max(firsts) - min(firsts)):
        return False
    scale = math.log10 if content.log_y else float
    span = scale(max(values)) - scale(min(values)) or 1.0
    heights = sorted(scale(end) / span for end in ends if end is not None)
    return all(high - low > 0.09 for low, high in pairwise(heights))


def _label_end(axes: Any, label: str, x: list[float], y: list[float]) -> None:
    place = next(at for at in range(len(y) - 1, -1, -1) if math.isfinite(y[at]))
    axes.annotate(plain(label, 22), (x[place], y[place]), (5, 0), textcoords="offset points", va="center",
                  fontsize=SMALL, annotation_clip=False)  # fmt: skip


def _draw_band(axes: Any, band: tuple[float, float] | None, is_log: bool) -> None:
    if band is not None and all(_is_number(end) and not (is_log and end <= 0) for end in band):
        axes.axhspan(*sorted(band), color=ROLES["test"], alpha=0.13, linewidth=0, zorder=0)


def _draw_marks(axes: Any, marks: Sequence[tuple[float, str]]) -> None:
    """Lines with words above the axes, each on a line of its own as far as there are three."""
    low, high = axes.get_xlim()
    is_log = axes.get_xscale() == "log"
    wide, height = axes.get_position().size * axes.figure.get_size_inches()
    for place, (x, words) in enumerate(sorted(marks)):
        axes.axvline(x, color=INK, linewidth=THIN, linestyle=(0, (3, 2)), zorder=1)
        share = (math.log(x / low) / math.log(high / low)) if is_log else (x - low) / (high - low)
        side = "left" if share < 0.35 else "center" if share < 0.65 else "right"
        room = wide * {"left": 1 - share, "center": 2 * min(share, 1 - share), "right": share}[side] - 0.1
        axes.text(x, 1 + (0.05 + ROW * (place % 3)) / height, fitted(words, room), fontsize=SMALL, ha=side,
                  transform=axes.get_xaxis_transform())  # fmt: skip
    axes.set_xlim(low, high)


def rows_of(labels: Sequence[str]) -> list[int]:
    """How many names of a legend stand in each of its rows."""
    rows, left = [0], 0.0
    for label in labels:
        width = 0.4 + width_of(fitted(label, NAME))
        if rows[-1] and left + width > WIDTH - 0.3:
            rows, left = [*rows, 0], 0.0
        rows[-1] += 1
        left += width
    return rows


def words_above(figure: Any, title: str, waiting: list[tuple[str, Any]], rows: list[int]) -> None:
    """What the y axis shows stands above it, to be read without turning the head; below it the legend."""
    from matplotlib.lines import Line2D

    width, height = figure.get_size_inches()
    figure.text(0.08 / width, 1 - 0.16 / height, title)
    for row, count in enumerate(rows):
        x, y = 0.08, height - 0.16 - ROW * (row + 1)
        for label, handle in waiting[:count]:
            words = fitted(label, NAME)
            is_points = handle.get_linestyle() == "None"
            ends = (x + 0.11, x + 0.11) if is_points else (x, x + 0.22)
            sample = Line2D([end / width for end in ends], [(y + 0.035) / height] * 2, color=handle.get_color(),
                            linewidth=LINE, linestyle=handle.get_linestyle(), alpha=handle.get_alpha(),
                            marker="o" if is_points else None, markersize=2.8)  # fmt: skip
            figure.add_artist(sample)
            figure.text((x + 0.28) / width, y / height, words, fontsize=SMALL)
            x += 0.4 + width_of(words)
        waiting = waiting[count:]


def _say_nothing(axes: Any) -> None:
    axes.set_xticks([])
    axes.set_yticks([])
    axes.text(0.5, 0.5, "no finite value was measured", ha="center", va="center", transform=axes.transAxes)


def _of_bars(content: Bars) -> Any:
    both = min(len(content.labels), len(content.values), BARS)
    labels = [fitted(label, 1.9) for label in content.labels[:both]]
    values = finite(content.values[:both])
    left = min(2.2, 0.2 + max([0.2, *(width_of(label) for label in labels)]))
    roles: list[Role] = [*content.roles[:both], *["other"] * (both - len(content.roles))]  # type: ignore[list-item]
    grouped = len(set(roles)) > 1 and not all(labels)  # else the names tell
    above = 0.1 + ROW * grouped
    figure = new_figure(0.65 + above + (0.2 if both <= 12 else 0.15) * max(2, both))
    axes = new_axes(figure, left, 0.45, 0.65, above)
    colors = [ROLES[role] if role in ROLES and role != "other" else GREY for role in roles]
    lengths = [0.0 if math.isnan(value) else value for value in values]
    bars = axes.barh(range(both), lengths, color=colors, height=0.68, zorder=2)
    axes.bar_label(bars, [number(value) for value in values], padding=3, fontsize=SMALL)
    axes.set_yticks(range(both), labels)
    axes.set_ylim(max(2, both) - 0.4, -0.6)  # the first on top
    set_scale(axes, "x", is_log=False)
    axes.axvline(0, color=INK, linewidth=THIN)
    axes.spines["left"].set_visible(False)
    axes.tick_params(axis="y", length=0)
    if grouped:
        handles = dict(zip(roles, bars, strict=True))
        figure.legend(handles.values(), handles, loc="upper left", ncols=len(handles), frameon=False, fontsize=SMALL,
                      bbox_to_anchor=(0, 1), borderaxespad=0.2)  # fmt: skip
    left_out = len(content.labels) - both
    axes.set_xlabel(fitted(content.x_label, 2.0, SIZE) + (f" ({left_out} more are not shown)" if left_out > 0 else ""))
    return figure
