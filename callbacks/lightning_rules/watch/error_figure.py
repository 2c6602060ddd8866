"""The figure of worst-errors: the surest mistakes as pictures, the costliest pairs, the classes that are missed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from lightning_rules.class_names import name_of
from lightning_rules.figures import INK, RIGHT, WRONG, draw_example, new_figure, plain
from lightning_rules.watch.error_tally import Errors, Mistake

COLUMNS = 4
BARS = 10
FEWEST_BARS = 4  # that there is room for


def draw(errors: Errors, mistakes: Sequence[Mistake], inputs: Tensor | None, names: Sequence[str]) -> Any:
    """Draw the errors of a validation.

    Args:
        errors: Of all ranks.
        mistakes: Those that the inputs belong to, the worst first.
        inputs: On the host, [kept, ...]; None where there are no pictures.
        names: Of the classes, as far as they are known.

    Returns:
        The figure.
    """
    called, regression = list(names), errors.kind in ("mean", "median")
    shown = [] if inputs is None else list(zip(mistakes, inputs, strict=False))
    rows = -(-len(shown) // COLUMNS)
    bars = not regression and bool(errors.pairs or any(errors.false_negatives))
    height = 1.75 * rows + (2.9 if bars or not rows else 0) + 0.5
    what = "Largest residuals" if regression else "Most confident mistakes"
    figure = new_figure(8.4, height, f"{what} of the last validation ({errors.examples:,} answers)")
    parts = figure.subfigures(2, 1, height_ratios=(1.75 * rows, 2.9)) if rows and bars else [figure, figure]
    grid = parts[0].subplots(rows, COLUMNS, squeeze=False).flat if rows else ()
    for place, axes in enumerate(grid):
        if place >= len(shown):
            axes.set_axis_off()
            continue
        mistake, example = shown[place]
        draw_example(axes, example)
        axes.set_title(plain(_caption(mistake, errors, called)), fontsize=7, color=INK)
    if bars:
        _draw_bars(parts[1], errors, called)
    elif not rows:
        figure.add_subplot().set_axis_off()
        figure.text(0.5, 0.45, "nothing to show", ha="center", color=INK)
    return figure


def _caption(mistake: Mistake, errors: Errors, called: list[str]) -> str:
    if errors.kind in ("mean", "median"):
        if errors.outputs > 1:
            return f"example {mistake.index}\nmean residual {mistake.size:.3g}"
        return f"example {mistake.index}\nsays {mistake.said:.3g}, right {mistake.right:.3g}"
    if errors.several:
        fault = "misses" if mistake.right else "wrongly says"
        return f"example {mistake.index}, {mistake.size:.1%} sure\n{fault} {name_of(called, int(mistake.said))}"
    said, right = name_of(called, int(mistake.said)), name_of(called, int(mistake.right))
    return f"example {mistake.index}, {mistake.size:.1%} sure\nsays {said}, labelled {right}"


def _draw_bars(figure: Any, errors: Errors, called: list[str]) -> None:
    from matplotlib.ticker import MaxNLocator

    left, right = figure.subplots(1, 2) if errors.pairs else (None, figure.subplots())
    if left is not None:
        pairs = errors.pairs[:BARS][::-1]
        labels = [f"{name_of(called, pair.right)} → {name_of(called, pair.said)}" for pair in pairs]
        bars = left.barh([plain(label) for label in labels], [pair.cost for pair in pairs], color=WRONG, height=0.7)
        left.set_ylim(-0.5, max(len(pairs), FEWEST_BARS) - 0.5)  # a single bar is no wall
        left.bar_label(bars, [f"{pair.count:,}" for pair in pairs], padding=2, fontsize=6, color=INK)
        _style(left, "Pairs that cost most (right → answered; count)", "loss of these mistakes, in nats")
    order = sorted(
        range(len(errors.members)), key=lambda one: errors.false_positives[one] + errors.false_negatives[one]
    )
    order = [one for one in order if errors.false_positives[one] + errors.false_negatives[one]][-BARS:]
    places = range(len(order))
    missed = [-errors.false_negatives[one] for one in order]
    right.barh(places, missed, color=WRONG, height=0.7, label="missed (false negatives)")
    right.barh(places, [errors.false_positives[one] for one in order], color=RIGHT, height=0.7,
               label="wrongly claimed (false positives)")  # fmt: skip
    right.set_yticks(places, [plain(name_of(called, one)) for one in order])
    right.set_ylim(-0.5, max(len(order), FEWEST_BARS) - 0.5)
    right.axvline(0, color=INK, linewidth=0.5)
    right.xaxis.set_major_locator(MaxNLocator(integer=True))
    right.xaxis.set_major_formatter(lambda value, place: f"{abs(value):g}")
    right.legend(fontsize=6, frameon=False, loc="lower center", bbox_to_anchor=(0.5, -0.32), ncols=2)
    _style(right, "Classes with the most errors", "")


def _style(axes: Any, title: str, under: str) -> None:
    axes.set_title(title, fontsize=8, color=INK)
    axes.set_xlabel(under, fontsize=7, color=INK)
    axes.tick_params(labelsize=7, colors=INK)
    axes.spines[["top", "right"]].set_visible(False)
    axes.margins(x=0.12)
