"""The tables of a comparison's runs and configurations, as texts and places on one scale."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from lightning_rules.report.chance import Spread
from lightning_rules.report.comparison import Comparison, Group, Run
from lightning_rules.report.comparison_words import scale, teller, told_chance
from lightning_rules.report.document import FINISHED, Document
from lightning_rules.report.draw_overlay import looks_of
from lightning_rules.report.draw_score import told
from lightning_rules.report.facts import duration
from lightning_rules.report.grids import NONE, Cell, cut
from lightning_rules.report.score import is_share

WORDS = 160  # letters of a verdict
FAR = 3.0  # times what the better half is apart: beyond it a score is off the scale
WIDE, MARGIN = 144.0, 6.0  # of the scale, and what is kept free at each of its ends


@dataclass(frozen=True)
class Strip:
    """A score and its interval as places on a scale that all rows share, from 0 to 144.

    Attributes:
        at: Of the value.
        low: Of the interval's lower end; the same as ``at`` without one.
        high: Of its upper end.
        off: Whether the value is off the scale: ``"left"``, ``"right"`` or empty.
        says: For those who do not see it.
    """

    at: float
    low: float
    high: float
    off: str
    says: str


@dataclass(frozen=True)
class RunRow:
    """A line of the table of runs; all texts."""

    name: Cell
    href: str
    colour: int | None
    score: str
    sure: str
    strip: Strip | None
    behind: str
    chance: str
    test: str
    level: str
    verdict: str
    seed: Cell
    code: Cell
    cost: str
    step: str
    state: str


@dataclass(frozen=True)
class GroupRow:
    """A line of the table of configurations; all texts."""

    name: Cell
    count: str
    mean: str
    deviation: str
    sure: str
    strip: Strip | None
    behind: str
    chance: str
    remark: str


def run_rows(comparison: Comparison) -> list[RunRow]:
    """The runs, the best first."""
    looks = looks_of(len(comparison.runs))
    ends = scale_of([_ends(one) for one in comparison.runs if one.score is not None], comparison.mode)
    return [
        _row(comparison, one, None if looks[place].is_faint else place, ends)
        for place, one in enumerate(comparison.runs)
    ]


def _ends(run: Run) -> tuple[float, float, float]:
    score = run.score
    assert score is not None
    low = score.low if score.low is not None else score.value
    return min(low, score.value), score.value, max(score.high if score.high is not None else score.value, score.value)


def _row(comparison: Comparison, run: Run, colour: int | None, ends: tuple[float, float] | None) -> RunRow:
    tell, score, document = teller(comparison), run.score, run.document
    sure = ""
    if score is not None and score.low is not None and score.high is not None:
        sure = f"{tell(score.low)} to {tell(score.high)}"
    behind, chance = _behind(comparison, run)
    verdict = run.verdict
    return RunRow(
        name=cut(run.name),
        href=run.href,
        colour=colour,
        score=NONE if score is None else tell(score.value),
        sure=sure,
        strip=None if score is None or ends is None else strip_of(_ends(run), ends, tell),
        behind=behind,
        chance=chance,
        test=_tested(run, comparison.metric),
        level=verdict.level,
        verdict=cut(verdict.line.partition(":")[0] if verdict.level == "ok" else verdict.line, WORDS).text,
        seed=cut(_text(document.record.get("seed")), 20),
        code=_code(run),
        cost=duration(document.cost["seconds"]) if document.cost.get("seconds") else NONE,
        step=NONE if score is None else f"{score.step:,}",
        state=_state(document),
    )


def _behind(comparison: Comparison, run: Run) -> tuple[str, str]:
    best = comparison.runs[0]
    if run is best or run.score is None or best.score is None:
        return ("best", "") if run is best and run.score is not None else (NONE, "")
    return signed(run.score.value - best.score.value, scale(comparison)), told_chance(run.chance)


def signed(value: float, size: Callable[[float], str]) -> str:
    """A difference with its sign."""
    if value == 0:
        return "0"
    told = size(value)
    least = told.replace("0", "").strip(". points") == ""  # so little that nothing of it is told
    return f"{'+' if value > 0 else '−'}{'under ' + one_less(told) if least else told}"


def one_less(told: str) -> str:
    """The least that is told: ``0.1 points`` for ``0.0 points``."""
    number, unit, rest = told.partition(" ")
    return f"{number[:-1]}1{unit}{rest}"


def _tested(run: Run, metric: str) -> str:
    """The test's value of what the runs are compared by, else the first it has."""
    tested = run.document.tested
    last = metric.rpartition("/")[2]
    name = next((one for one in tested if last and one.rpartition("/")[2] == last), next(iter(tested), None))
    if name is None:
        return NONE
    value = tested[name]
    is_known = value is not None and is_share(name) and 0 <= value <= 1
    said = told(value, is_known)
    return said if name.rpartition("/")[2] == last else f"{cut(name, 24).text} {said}"


def _code(run: Run) -> Cell:
    code = run.document.record.get("code")
    if not isinstance(code, dict) or not code.get("commit"):
        return Cell(NONE)
    commit = str(code["commit"])
    changed = " with changes" if code.get("dirty") else ""
    return Cell(commit[:8] + changed, cut(commit + changed, 100).text)


def _state(document: Document) -> str:
    """How far a run has come that did not finish."""
    epoch, epochs = document.progress.get("epoch"), document.progress.get("epochs")
    far = f", epoch {epoch:,}" + (f" of {epochs:,}" if epochs else "") if epoch is not None else ""
    if document.is_unfinished:
        return f"unfinished{far}"
    return "" if document.state == FINISHED else f"ended early{far}"


def _text(value: object) -> str:
    return NONE if value is None else str(value)


def scale_of(ends: Sequence[tuple[float, float, float]], mode: str) -> tuple[float, float] | None:
    """From where to where all rows are drawn: of runs that are far worse than the better half, it takes no notice."""
    if not ends:
        return None
    values = sorted((one[1] for one in ends), reverse=mode == "max")
    better = values[: len(values) // 2 + 1]
    apart = max([abs(better[-1] - better[0]), *(one[2] - one[0] for one in ends if one[1] in better)])
    near = [one for one in ends if apart == 0 or abs(one[1] - better[0]) <= apart * FAR]
    low, high = min(one[0] for one in near), max(one[2] for one in near)
    return (low, high) if high > low else (low - abs(low) / 10 - 1e-9, high + abs(high) / 10 + 1e-9)


def strip_of(values: tuple[float, float, float], ends: tuple[float, float], tell: Callable[[float], str]) -> Strip:
    """Low end, value and high end on a scale."""
    low, high = ends
    each = [MARGIN + (WIDE - 2 * MARGIN) * (value - low) / (high - low) for value in values]
    held = [min(WIDE - MARGIN, max(MARGIN, one)) for one in each]
    off = "left" if values[1] < low else "right" if values[1] > high else ""
    sure = f", 95% interval {tell(values[0])} to {tell(values[2])}" if values[2] > values[0] else ""
    return Strip(round(held[1], 1), round(held[0], 1), round(held[2], 1), off, f"{tell(values[1])}{sure}")


def group_rows(comparison: Comparison) -> list[GroupRow]:
    """The configurations, the best first; none where all runs differ."""
    best = next((one for one in comparison.groups if one.spread is not None and one.spread.count > 1), None)
    ends = scale_of(
        [_group_ends(comparison, one) for one in comparison.groups if one.spread is not None], comparison.mode
    )
    return [_group_row(comparison, one, best, ends) for one in comparison.groups]


def interval_of(comparison: Comparison, spread: Spread) -> tuple[float, float] | None:
    """The 95% interval of a mean; of shares no further than from 0 to 1."""
    found = spread.interval
    if found is None or not is_share(comparison.metric) or not 0 <= spread.mean <= 1:
        return found
    return max(0.0, found[0]), min(1.0, found[1])


def _group_ends(comparison: Comparison, group: Group) -> tuple[float, float, float]:
    assert group.spread is not None
    low, high = interval_of(comparison, group.spread) or (group.spread.mean, group.spread.mean)
    return low, group.spread.mean, high


def _group_row(comparison: Comparison, group: Group, best: Group | None, ends: tuple[float, float] | None) -> GroupRow:
    tell, size, spread = teller(comparison), scale(comparison), group.spread
    behind, chance = (NONE, "")
    if group is best:
        behind = "best"
    elif best is not None and best.spread is not None and spread is not None:
        behind, chance = signed(spread.mean - best.spread.mean, size), told_chance(group.chance)
    interval = None if spread is None else interval_of(comparison, spread)
    return GroupRow(
        name=cut(group.name, 120),
        count=f"{len(group.runs):,}" if spread is None or spread.count == len(group.runs) else
        f"{len(group.runs):,}, {spread.count:,} with a score",
        mean=NONE if spread is None else tell(spread.mean),
        deviation=NONE if spread is None or spread.count < 2 else size(spread.deviation),
        sure=f"{tell(interval[0])} to {tell(interval[1])}" if interval else NONE,
        strip=None if spread is None or ends is None else strip_of(_group_ends(comparison, group), ends, tell),
        behind=behind,
        chance=chance,
        remark=group.remark,
    )  # fmt: skip
