"""What came of trials over each of the quantities in which they differ: a panel each, with a shared y axis."""

from __future__ import annotations

import math
from typing import Any

from lightning_rules.exhibit import Scatter
from lightning_rules.report.scales import Scale, scale_of, steps_of
from lightning_rules.report.style import INK, RAMP, SIZE, SMALL, THIN, WIDTH, fitted, new_figure, width_of

PANELS = 12
HEIGHT, GAP, NAME = 1.05, 0.22, 0.19  # inches, of a panel, between two, of a name or a row of ticks
ABOVE, LEGEND = 0.24, 0.17
INSET = 0.05  # share of a panel that stays free at each end
GOLDEN = 0.618034  # multiples of it, less the whole, fill an interval evenly


def figure_of_scatter(content: Scatter) -> Any:
    """At most 12 panels, two beside one another, each named below."""
    panels = min(len(content.x_axes), len(content.x), PANELS)
    columns = 1 if panels < 2 else 2
    rows = max(1, -(-panels // columns))
    height = ABOVE + LEGEND * _legend_rows(content) + rows * (HEIGHT + 2 * NAME) + (rows - 1) * 0.08
    figure = new_figure(height)
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set(xlim=(0, WIDTH), ylim=(0, height))
    axes.set_axis_off()
    y_scale = scale_of(content.y_axis, content.y)
    left = max([0.3, *(0.16 + width_of(words) for _, words in y_scale.ticks(4))])
    wide = (WIDTH - left - 0.12 - GAP * (columns - 1)) / columns
    axes.text(0.08, height - 0.16, fitted(content.y_axis.label, WIDTH - 0.2, SIZE))
    _draw_legend(axes, content, height - 0.16 - LEGEND)
    top = height - ABOVE - LEGEND * _legend_rows(content)
    for place in range(panels):
        row, column = divmod(place, columns)
        corner = (left + column * (wide + GAP), top - HEIGHT - row * (HEIGHT + 2 * NAME + 0.08))
        x_scale = scale_of(content.x_axes[place], content.x[place])
        _draw_frame(axes, corner, wide, x_scale, y_scale, column == 0)
        _draw_points(axes, content, place, (x_scale, y_scale), corner, wide)
    return figure


def _inside(share: float) -> float:
    return INSET + (1 - 2 * INSET) * share


def _draw_frame(
    axes: Any, corner: tuple[float, float], wide: float, x_scale: Scale, y_scale: Scale, is_first: bool
) -> None:
    left, bottom = corner
    axes.plot([left, left, left + wide], [bottom + HEIGHT, bottom, bottom], color=INK, linewidth=THIN, alpha=0.6)
    for share, words in y_scale.ticks(4):
        y = bottom + HEIGHT * _inside(share)
        axes.plot([left, left + wide], [y, y], color=INK, linewidth=0.4, alpha=0.2, zorder=1)
        if is_first:
            axes.text(left - 0.05, y, words, ha="right", va="center", fontsize=SMALL)
    ticks = x_scale.ticks(5)
    room = wide / max(1, len(ticks)) - 0.03
    for share, words in ticks if len(ticks) <= 12 else [ticks[0], ticks[-1]]:
        x = left + wide * _inside(share)
        axes.plot([x, x], [bottom, bottom - 0.03], color=INK, linewidth=THIN, alpha=0.6)
        axes.text(x, bottom - 0.05, fitted(words, room), ha="center", va="top", fontsize=SMALL)
    name = fitted(x_scale.axis.label, wide)
    axes.text(left + wide / 2, bottom - NAME - 0.03, name, ha="center", va="top", fontsize=SMALL, weight="bold")


def _draw_points(
    axes: Any, content: Scatter, panel: int, scales: tuple[Scale, Scale], corner: tuple[float, float], wide: float
) -> None:
    steps = steps_of(content.colours, len(RAMP)) if content.colours else []
    shares = zip(scales[0].shares(content.x[panel]), scales[1].shares(content.y), strict=False)
    best = _best(content)
    crowded = 0.5 / len(content.x_axes[panel].categories) if content.x_axes[panel].categories else 0.0
    for trial, (x_share, y_share) in enumerate(shares):
        if math.isnan(x_share):
            continue
        aside = crowded * ((trial * GOLDEN) % 1 - 0.5)
        x = corner[0] + wide * _inside(x_share + aside)
        color = RAMP[steps[trial]] if trial < len(steps) else RAMP[-1]
        end = content.ends[trial] if trial < len(content.ends) else "finished"
        if end == "failed" or math.isnan(y_share):
            _mark(axes, x, corner[1] + 0.04, "failed", color)
        else:
            y = corner[1] + HEIGHT * _inside(y_share)
            _mark(axes, x, y, end, color)
            if trial == best:
                axes.plot([x], [y], marker="o", markersize=7.5, markerfacecolor="none", markeredgecolor=INK,
                          markeredgewidth=1.2, linestyle="", zorder=4)  # fmt: skip


def _mark(axes: Any, x: float, y: float, end: str, color: str) -> None:
    looks: dict[str, Any] = {"marker": "o", "markersize": 4.0, "markerfacecolor": color, "markeredgecolor": "none"}
    if end == "stopped":
        looks |= {"markerfacecolor": "none", "markeredgecolor": color, "markeredgewidth": 1.0}
    if end == "failed":
        looks = {"marker": "x", "markersize": 3.8, "markeredgecolor": INK, "markeredgewidth": 0.9}
    axes.plot([x], [y], linestyle="", zorder=3, clip_on=False, **looks)


def _best(content: Scatter) -> int | None:
    """The trial to be ringed: of those that were not stopped, that with the best value."""
    sign = 1.0 if content.better == "low" else -1.0
    ends = [*content.ends, *["finished"] * (len(content.y) - len(content.ends))]
    known = [
        (sign * value, place)
        for place, (value, end) in enumerate(zip(content.y, ends, strict=False))
        if value is not None and math.isfinite(value) and end == "finished"
    ]
    return min(known)[1] if known else None


def _kinds(content: Scatter) -> list[tuple[str, str]]:
    names = {"finished": "finished", "stopped": "ended early", "failed": "failed (on the axis)"}
    there = set(content.ends)
    return [(kind, words) for kind, words in names.items() if kind in there] if len(there) > 1 else []


def _legend_rows(content: Scatter) -> int:
    return 2 if _kinds(content) and content.colour_label else 1


def _draw_legend(axes: Any, content: Scatter, y: float) -> None:
    x = 0.14
    for kind, words in [*_kinds(content), ("best", "best")]:
        if kind == "best":
            axes.plot([x], [y + 0.04], marker="o", markersize=6.5, markerfacecolor="none", markeredgecolor=INK,
                      markeredgewidth=1.2, linestyle="")  # fmt: skip
        else:
            _mark(axes, x, y + 0.04, kind, RAMP[-1])
        axes.text(x + 0.1, y, words, fontsize=SMALL)
        x += 0.32 + width_of(words)
    if content.colour_label:
        room, below = WIDTH - x - 0.1, LEGEND if _kinds(content) else 0.0
        start = 0.08 if below else x
        axes.text(start, y - below, fitted(content.colour_label, WIDTH - 0.2 if below else room), fontsize=SMALL)
