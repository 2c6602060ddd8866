"""A comparison of models for a person's eye."""

from __future__ import annotations

import logging

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from rich.text import Text

from lightning_rules.combine.comparison import BEST, Comparison, Row
from lightning_rules.combine.scores import Scores
from lightning_rules.record import log

SPLITS = {"val": "validation", "test": "test"}


def print_comparison(comparison: Comparison) -> None:
    """Print one table a split; silent when the program has set the logger ``lightning_rules`` to more than warnings."""
    if log.isEnabledFor(logging.WARNING):
        for split in comparison.differ:
            Console().print(comparison_table(comparison, split))


def comparison_table(comparison: Comparison, split: str) -> Table:
    """The models of a comparison on one split.

    Args:
        comparison: The comparison.
        split: "val" or "test".
    """
    regression = comparison.reading.task == "regression"
    examples = comparison.rows[0].scores[split].examples
    count = len(comparison.members)
    table = Table(
        title=f"{count} models together, {examples} {SPLITS[split]} answers{'' if regression else ', in %'}",
        caption=f"disagreement between members {comparison.differ[split]:.3g}; gains are over the single best, ± half "
        f"the 95% interval; kept: {comparison.winner} (best validation {comparison.criterion})",
        title_justify="left",
        caption_justify="left",
        box=SIMPLE_HEAD,
        pad_edge=False,
    )
    for name in columns_of(comparison):
        table.add_column(name, justify="left" if name == "model" else "right", no_wrap=True)
    mean = comparison.mean[split]
    table.add_row("mean of singles", _number(mean["value"], regression), "", "", _short(mean.get("nll")),
                  _short(mean.get("ece")), "")  # fmt: skip
    for row in comparison.rows:
        style = "bold" if row.name == comparison.winner else ""
        table.add_row(*(Text(cell, style=style) for cell in cells_of(comparison, row, split)))
    return table


def columns_of(comparison: Comparison) -> tuple[str, ...]:
    """The titles of the columns."""
    regression = comparison.reading.task == "regression"
    measured = ("RMSE", "95% interval", "gain in MSE") if regression else ("accuracy", "95% interval", "gain")
    return ("model", *measured, "NLL", "ECE", "nets")


def cells_of(comparison: Comparison, row: Row, split: str) -> tuple[str, ...]:
    """One model's numbers on a split (``"val"`` or ``"test"``), a text a column; accuracies in percent."""
    regression = comparison.reading.task == "regression"
    scores: Scores = row.scores[split]
    gain, half = row.gains[split]
    shown = "" if row.name == BEST else f"{_number(gain, regression, sign=True)} ± {_number(half, regression)}"
    interval = f"{_number(scores.low, regression)} - {_number(scores.high, regression)}"
    return (
        row.name,
        _number(scores.value, regression),
        interval,
        shown,
        _short(scores.nll),
        _short(scores.ece),
        str(row.passes),
    )


def _number(value: float, regression: bool, sign: bool = False) -> str:
    plus = "+" if sign else ""
    return f"{value:{plus}.4g}" if regression else f"{100 * value:{plus}.1f}"


def _short(value: float | None) -> str:
    return "" if value is None else f"{value:.3f}"
