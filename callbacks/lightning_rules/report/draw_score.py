"""The score of a run beside what it is held against: dots on one line of numbers."""

from __future__ import annotations

import math
from typing import Any

from lightning_rules.report.score import Score
from lightning_rules.report.style import (
    INK,
    LINE,
    RIGHT,
    SIZE,
    SMALL,
    THIN,
    fitted,
    new_axes,
    new_figure,
    number,
    set_scale,
    style,
)
from lightning_rules.report.svg import inline

ROW = 0.24  # inches
GUESS = "commonest class"
FAR = 3.0  # times what the others are apart


def is_worth_it(score: Score) -> bool:
    """Whether there is anything that the score can be seen beside."""
    return any(value is not None for value in (score.low, score.known, score.previous, score.majority))


def score_svg(score: Score, label: str) -> str:
    """An ``<svg>`` element; see :func:`~lightning_rules.report.svg.inline`."""
    with style():
        return inline(_figure(score), "score", label)


def told(value: float | None, is_share: bool) -> str:
    """A score in words: shares in percent."""
    if value is None or not math.isfinite(value):
        return "not known"
    return f"{value:.1%}".replace("-", "−") if is_share else number(value)


def _figure(score: Score) -> Any:
    rows = [
        ("this run", score.value),
        ("best known", score.known),
        ("previous run", score.previous),
        (GUESS, score.majority),
    ]
    known = [(name, value) for name, value in rows if value is not None and math.isfinite(value)]
    near = [value for name, value in [*known, ("", score.low), ("", score.high)] if name != GUESS and value is not None]
    far = score.majority if score.majority is not None and _is_far(score.majority, near) else None
    figure = new_figure(0.5 + ROW * max(1, len(known)))
    axes = new_axes(figure, 1.15, 0.42, 0.6, 0.08)
    for place, (name, value) in enumerate(known):
        if name != GUESS or far is None:
            _draw_row(axes, place, name, value, score)
    if far is not None:
        _say_far(axes, len(known) - 1, far, score)
    axes.set_yticks(range(len(known)), [name for name, _ in known])
    axes.set_ylim(max(1, len(known)) - 0.5, -0.5)
    set_scale(axes, "x", is_log=False)
    if score.is_share:
        axes.xaxis.set_major_formatter(lambda value, place: f"{100 * value:.3g}%".replace("-", "−"))
    axes.margins(x=0.08)
    better = "higher is better" if score.mode == "max" else "lower is better"
    axes.set_xlabel(fitted(score.name, 1.9, SIZE) + f" ({better})")
    axes.spines["left"].set_visible(False)
    axes.tick_params(axis="y", length=0)
    return figure


def _is_far(guess: float, near: list[float]) -> bool:
    """Whether a guess is so much worse that nothing else could be told apart on the same axis."""
    spread = max(near) - min(near)
    return spread > 0 and min(abs(guess - value) for value in near) > FAR * spread


def _say_far(axes: Any, place: int, guess: float, score: Score) -> None:
    axes.axhline(place, color=INK, alpha=0.12, linewidth=THIN)
    left = guess < score.value
    words = (
        f"◂ {told(guess, score.is_share)}, off the scale" if left else f"{told(guess, score.is_share)}, off the scale ▸"
    )
    axes.text(0 if left else 1, place, words, ha="left" if left else "right", va="center", fontsize=SMALL,
              transform=axes.get_yaxis_transform())  # fmt: skip


def _draw_row(axes: Any, place: int, name: str, value: float, score: Score) -> None:
    mine = name == "this run"
    axes.axhline(place, color=INK, alpha=0.12, linewidth=THIN)
    beside, across = (7, 0), "left"
    if mine and score.low is not None and score.high is not None:
        axes.plot([score.low, score.high], [place, place], color=RIGHT, linewidth=2 * LINE, alpha=0.45)
        beside, across = (0, 8), "center"  # at its end it would read as the end of the interval
    axes.plot([value], [place], marker="o" if mine else "D", markersize=6 if mine else 4.5,
              color=RIGHT if mine else INK, linestyle="none", markerfacecolor=RIGHT if mine else "none")  # fmt: skip
    axes.annotate(told(value, score.is_share), (value, place), beside, textcoords="offset points", va="center",
                  ha=across, fontsize=SMALL, annotation_clip=False)  # fmt: skip
