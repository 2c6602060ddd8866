"""Tables of runs against settings, metrics and findings, as plain data of a bounded size."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from lightning_rules.finding import Finding, Severity
from lightning_rules.report.comparison import Comparison, Run
from lightning_rules.report.contents import SIGNS, SKIPPED
from lightning_rules.report.draw_score import told
from lightning_rules.report.score import is_share
from lightning_rules.report.settings import Row, brief, short_keys
from lightning_rules.report.style import shortened

CELLS = 16_000  # of a table
LETTERS = 400_000  # of all its cells
LONGEST, SHORTEST = 60, 8  # letters of a cell
FULL = 200  # letters of what a cell says when it is pointed at, or more where there is room
METRICS = 24
NONE = "—"


@dataclass(frozen=True)
class Cell:
    """What stands in a table.

    Attributes:
        text: Of bounded length.
        full: The whole, where the text is cut off.
        level: The severity whose colour it has; empty for none.
    """

    text: str
    full: str = ""
    level: str = ""


@dataclass(frozen=True)
class Grid:
    """A table, with whichever there are fewer of, runs or other things, as its columns.

    Attributes:
        corner: What the first column holds.
        columns: Heads of the others.
        rows: Each with its head.
        left_out: How many things are not shown.
    """

    corner: str
    columns: tuple[Cell, ...]
    rows: tuple[tuple[Cell, tuple[Cell, ...]], ...]
    left_out: int = 0


def grid_of(corner: str, names: Sequence[Cell], runs: Sequence[Run], cell: Callable[[int, int], Cell]) -> Grid:
    """A table of things and runs.

    Args:
        corner: What the things are.
        names: Of the things.
        runs: All of them.
        cell: What stands at a thing's and a run's place.
    """
    shown = range(min(len(names), max(1, CELLS // len(runs))))
    heads = [cut(one.name) for one in runs]
    left_out = len(names) - len(shown)
    if len(shown) < len(runs):
        across = tuple((head, tuple(cell(thing, place) for thing in shown)) for place, head in enumerate(heads))
        return Grid("run", tuple(names[thing] for thing in shown), across, left_out)
    down = tuple((names[thing], tuple(cell(thing, place) for place in range(len(runs)))) for thing in shown)
    return Grid(corner, tuple(heads), down, left_out)


def cut(text: str, longest: int = LONGEST, full: int = FULL) -> Cell:
    """A cell whose text is cut off where it is long; what it says when it is pointed at is longer."""
    return Cell(shortened(text, longest), shortened(text, full) if len(text) > longest and full > longest else "")


def settings_grid(rows: Sequence[Row], runs: Sequence[Run]) -> Grid:
    """Configuration keys and their values."""
    room = LETTERS // max(1, min(CELLS, len(rows) * len(runs)))
    longest, full = max(SHORTEST, min(LONGEST, room)), min(4 * FULL, room)
    names = [
        Cell(shortened(short, LONGEST), shortened(row.name, FULL) if short != row.name else "")
        for short, row in zip(short_keys([one.name for one in rows[:CELLS]]), rows, strict=False)
    ]
    texts = [brief(row.values) for row in rows[:CELLS]]

    def cell(thing: int, run: int) -> Cell:
        value, text = rows[thing].values[run], texts[thing][run]
        return cut(value, longest, full) if text == value else Cell(text, value)

    return grid_of("setting", names, runs, cell)


def metrics_grid(comparison: Comparison) -> Grid:
    """What each run has logged at the step of its score, and what its test has shown."""
    runs = comparison.runs
    logged = list(dict.fromkeys(name for one in runs for name in one.document.metrics))
    tested = list(dict.fromkeys(name for one in runs for name in one.document.tested))
    values: list[tuple[str, list[float | None]]] = [
        *((name, [at_score(one, name) for one in runs]) for name in logged if name not in tested),
        *((name, [one.document.tested.get(name) for one in runs]) for name in tested),
    ]

    def cell(thing: int, run: int) -> Cell:
        name, found = values[thing]
        value = found[run]
        return Cell(NONE if value is None else told(value, is_share(name) and 0 <= value <= 1))

    names = [cut(name) for name, _ in values]
    grid = grid_of("metric", names[:METRICS], runs, cell)
    return Grid(grid.corner, grid.columns, grid.rows, grid.left_out + max(0, len(names) - METRICS))


def at_score(run: Run, name: str) -> float | None:
    """A metric of a run at the step of its score, or the nearest at which it was kept; of a run without, the last."""
    series = run.document.metrics.get(name)
    known = [] if series is None else list(zip(series.steps, series.values, strict=False))
    pairs = [(step, value) for step, value in known if value is not None and math.isfinite(value)]
    if not pairs:
        return None
    wanted = pairs[-1][0] if run.score is None else run.score.step
    return min(pairs, key=lambda pair: abs(pair[0] - wanted))[1]


def findings_grid(comparison: Comparison) -> tuple[Grid | None, list[str]]:
    """What rules say about some runs and not about others, the worst first; and what they say about all alike."""
    worst = [_worst(one.document.findings) for one in comparison.runs]
    rules = dict.fromkeys(rule for one in worst for rule, finding in one.items() if _speaks(finding))
    cells = {rule: [_severity(one.get(rule)) for one in worst] for rule in rules}
    alike = [rule for rule in rules if len(set(cells[rule])) == 1]
    differ = [rule for rule in rules if rule not in alike]
    differ.sort(key=lambda rule: -max(one[rule].severity for one in worst if rule in one))
    names = [cut(one) for one in differ]
    grid = grid_of("rule", names, comparison.runs, lambda thing, run: cells[differ[thing]][run]) if differ else None
    return grid, alike


def _severity(finding: Finding | None) -> Cell:
    if finding is None:
        return Cell("not seen")
    if finding.message.startswith(SKIPPED):
        return Cell("skipped")
    return Cell(f"{SIGNS[finding.severity]} {finding.severity}", "", str(finding.severity))


def _worst(findings: Sequence[Finding]) -> dict[str, Finding]:
    found: dict[str, Finding] = {}
    for one in findings:
        if one.rule not in found or one.severity > found[one.rule].severity:
            found[one.rule] = one
    return found


def _speaks(finding: Finding) -> bool:
    """Whether it is an alarm, or advice."""
    return finding.severity >= Severity.WARNING or (finding.severity is Severity.INFO and bool(finding.advice))
