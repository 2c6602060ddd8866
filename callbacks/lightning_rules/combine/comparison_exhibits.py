"""A comparison of models for the page of a run."""

from __future__ import annotations

from collections.abc import Sequence

from lightning_rules.combine.comparison import Comparison
from lightning_rules.combine.comparison_table import SPLITS, cells_of, columns_of
from lightning_rules.exhibit import Bars, Exhibit, Listing, Role, Section

ROLES: dict[str, Role] = {"val": "validation", "test": "test"}
RULES = ["ensemble"]


def exhibits_of(comparison: Comparison) -> list[Exhibit]:
    """For each split its members and what was made of them, as bars, and a table with intervals and gains."""
    return [one for split in comparison.differ for one in (_bars(comparison, split), _table(comparison, split))]


def _bars(comparison: Comparison, split: str) -> Exhibit:
    regression = comparison.reading.task == "regression"
    rows = [
        *zip(comparison.members, comparison.singles, strict=True),
        *((row.name, row) for row in comparison.rows[1:]),
    ]
    values = [row.scores[split].value * (1 if regression else 100) for _, row in rows]
    unit = "root mean squared error" if regression else "accuracy (%)"
    caption = f"Members first; disagreement between them {comparison.differ[split]:.3g}; kept: {comparison.winner}."
    content = Bars([name for name, _ in rows], values, f"{SPLITS[split]} {unit}", [ROLES[split]] * len(rows))
    return Exhibit(f"members_{split}", Section.ENSEMBLE, f"Members and ensemble, {SPLITS[split]}", caption, content,
                   RULES)  # fmt: skip


def _table(comparison: Comparison, split: str) -> Exhibit:
    rows: Sequence[Sequence[str]] = [cells_of(comparison, row, split) for row in comparison.rows]
    caption = "Gains are over the single best, ± half the 95% interval; accuracies and gains in %, loss in nats."
    return Exhibit(f"ensemble_{split}", Section.ENSEMBLE, f"What it gains, {SPLITS[split]}", caption,
                   Listing(columns_of(comparison), rows), RULES)  # fmt: skip
