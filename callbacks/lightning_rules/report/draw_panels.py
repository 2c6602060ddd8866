"""Small multiples, all on one pair of matplotlib's axes: a hundred pairs would take seconds."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from lightning_rules.exhibit import Curves, Panels
from lightning_rules.report.style import (
    DASHES,
    INK,
    OTHERS,
    ROLES,
    SIZE,
    SMALL,
    THIN,
    WIDTH,
    around,
    finite,
    fitted,
    new_figure,
    number,
    power_of_ten,
    shortened,
    width_of,
)

PANELS = 24
FEW = 6  # are shown in two columns
HEIGHT, GAP, TITLE = 0.62, 0.14, 0.17  # inches, of a panel, between two, of its title
BELOW, ABOVE = 0.27, 0.3
DECADES = 100.0  # from the least to the greatest value: then a logarithmic axis


@dataclass(frozen=True)
class _Scale:
    """From values to shares of a panel's side."""

    low: float
    high: float
    is_log: bool

    def __call__(self, values: Sequence[float | None]) -> list[float]:
        known = finite(values, self.is_log)
        return [(self._bent(value) - self._bent(self.low)) / self._span for value in known]

    def ticks(self, most: int) -> list[float]:
        from matplotlib.ticker import LogLocator, MaxNLocator

        locator = LogLocator(10, (1.0,), numticks=most) if self.is_log else MaxNLocator(most)
        found = [float(tick) for tick in locator.tick_values(self.low, self.high)]
        return [tick for tick in found if -0.001 <= self([tick])[0] <= 1.001]

    def _bent(self, value: float) -> float:
        return math.log10(value) if self.is_log else value

    @property
    def _span(self) -> float:
        return self._bent(self.high) - self._bent(self.low)


def spread(count: int, most: int = PANELS) -> list[int]:
    """Which of so many things are shown: all, or some evenly from the first to the last."""
    if count <= most:
        return list(range(count))
    return sorted({round(place * (count - 1) / (most - 1)) for place in range(most)})


def spans_decades(values: Sequence[float | None]) -> bool:
    """Whether values ask for a logarithmic axis: none is negative, and the least and greatest are far apart."""
    known = [value for value in finite(values) if not math.isnan(value)]
    above = [value for value in known if value > 0]
    return len(above) > 0.5 * len(known) and len(above) > 1 and min(known) >= 0 and max(above) / min(above) > DECADES


def figure_of_panels(content: Panels) -> Any:
    """At most 24 panels on shared axes, with their titles above them."""
    both = min(len(content.titles), len(content.panels))
    shown = spread(both)
    panels = [content.panels[place] for place in shown]
    columns = 1 if len(shown) < 2 else 2 if len(shown) <= FEW else 3
    rows = max(1, -(-len(shown) // columns))
    height = ABOVE + rows * (TITLE + HEIGHT + GAP) + BELOW
    figure = new_figure(height)
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set(xlim=(0, WIDTH), ylim=(0, height))
    axes.set_axis_off()
    first = panels[0] if panels else Curves([], "", "")
    several = len({curve.label for panel in panels for curve in panel.curves if curve.label}) > 1
    axes.text(0.08, height - 0.16, fitted(first.y_label, 2.6 if several else WIDTH - 0.2, SIZE))
    _draw_legend(axes, panels, height)
    axes.text(WIDTH / 2, 0.08, fitted(first.x_label, WIDTH - 0.4, SIZE), ha="center")
    x_scale, y_scale = _scale(panels, "x", first.log_x), _scale(panels, "y", first.log_y)
    left = max([0.3, *(0.16 + width_of(_told(tick, y_scale.is_log)) for tick in y_scale.ticks(3))])
    wide = (WIDTH - left - 0.12 - GAP * (columns - 1)) / columns
    titles = _titles([content.titles[place] for place in shown], wide)
    for number_of, panel in enumerate(panels):
        row, column = divmod(number_of, columns)
        corner = (left + column * (wide + GAP), height - ABOVE - row * (TITLE + HEIGHT + GAP) - TITLE - HEIGHT)
        axes.text(corner[0], corner[1] + HEIGHT + 0.045, titles[number_of], fontsize=SMALL)
        is_last = number_of + columns >= len(shown)
        _draw_panel(axes, panel, corner, wide, (x_scale, y_scale), (is_last, column == 0))
    return figure


def _titles(titles: Sequence[str], wide: float) -> list[str]:
    """So wide, in inches: where one is too long, all lose the parts that they begin with alike."""
    while max(map(width_of, titles), default=0.0) > wide:
        first = {title.partition(".")[0] for title in titles if "." in title}
        if len(first) != 1 or sum("." in title for title in titles) < 2:
            break
        titles = [title.partition(".")[2] or title for title in titles]
    return [fitted(_abbreviated(title, wide), wide) for title in titles]


def _abbreviated(title: str, wide: float) -> str:
    """A name with dots, its longest words cut off, but none that holds a number: that tells it from others."""
    parts = shortened(title, 60).split(".")
    while len(parts) > 1 and width_of(".".join(parts)) > wide:
        longest = max((part for part in parts if not any(map(str.isdigit, part))), key=len, default="")
        if len(longest) < 5:
            break
        parts[parts.index(longest)] = longest[:-2] + "…"
    return ".".join(parts)


def _scale(panels: Sequence[Curves], which: str, is_log: bool) -> _Scale:
    each = (curve.x if which == "x" else curve.y for panel in panels for curve in panel.curves)
    found = [value for values in each for value in finite(values, is_log) if not math.isnan(value)]
    low, high = (min(found), max(found)) if found else (1.0, 10.0)
    if is_log:
        low, high = (low, high) if high > 1.001 * low else (low / 3, high * 3)
    elif high - low <= 1e-9 * max(abs(low), abs(high)):
        low, high = around(low)
    return _Scale(low, high, is_log)


def _told(tick: float, is_log: bool) -> str:
    return power_of_ten(tick) if is_log else number(tick)


def _draw_panel(
    axes: Any,
    panel: Curves,
    corner: tuple[float, float],
    wide: float,
    scales: tuple[_Scale, _Scale],
    has_ticks: tuple[bool, bool],
) -> None:
    left, bottom = corner
    axes.plot([left, left, left + wide], [bottom + HEIGHT, bottom, bottom], color=INK, linewidth=THIN, alpha=0.6)
    for tick in scales[1].ticks(3):
        level = bottom + HEIGHT * scales[1]([tick])[0]
        axes.plot([left, left + wide], [level, level], color=INK, linewidth=0.4, alpha=0.2)
        if has_ticks[1]:
            axes.text(left - 0.05, level, _told(tick, scales[1].is_log), ha="right", va="center", fontsize=SMALL)
    if has_ticks[0]:
        low, high = scales[0].low, scales[0].high
        axes.text(left, bottom - 0.05, number(low), va="top", fontsize=SMALL)
        axes.text(left + wide, bottom - 0.05, number(high), ha="right", va="top", fontsize=SMALL)
    for place, curve in enumerate(panel.curves):
        both = min(len(curve.x), len(curve.y))
        x = [left + wide * share for share in scales[0](curve.x[:both])]
        y = [bottom + HEIGHT * share for share in scales[1](curve.y[:both])]
        color, dashes = _looks(curve.role, place)
        alone = sum(map(math.isfinite, y)) == 1
        axes.plot(x, y, color=color, linestyle=dashes, linewidth=0.6 if curve.faint else 1.2,
                  alpha=0.4 if curve.faint else 1, marker="o" if alone else None, markersize=2.5)  # fmt: skip


def _looks(role: str, place: int) -> tuple[str, Any]:
    if role == "other":
        return OTHERS[place % len(OTHERS)], DASHES[place % len(DASHES)]
    return ROLES.get(role, INK), "-"


def _draw_legend(axes: Any, panels: Sequence[Curves], height: float) -> None:
    """Names of curves, where panels hold several."""
    looks = {
        curve.label: _looks(curve.role, place)
        for panel in panels
        for place, curve in enumerate(panel.curves)
        if curve.label and not curve.faint
    }
    named = [(fitted(label, 0.6), look) for label, look in looks.items()][:3] if len(looks) > 1 else []
    x = WIDTH - sum(0.45 + width_of(words) for words, _ in named)
    for words, (color, dashes) in named:
        axes.plot([x, x + 0.22], [height - 0.12] * 2, color=color, linestyle=dashes)
        axes.text(x + 0.28, height - 0.16, words, fontsize=SMALL)
        x += 0.45 + width_of(words)
