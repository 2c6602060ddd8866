"""Runs side by side: what was set differently, what came of it, and whether that is more than chance."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import count

from lightning_rules.report.chance import LEVEL, Spread, holm, spread_of, welch
from lightning_rules.report.document import Document
from lightning_rules.report.score import Mode, Score, best_of, probability
from lightning_rules.report.settings import (
    Row,
    brief,
    configuration_of,
    differing,
    makes_configuration,
    settings_of,
    short_keys,
)
from lightning_rules.report.style import finite, shortened
from lightning_rules.report.verdict import Verdict, verdict_of

NAMED = 3  # settings by which a configuration is named
VALUE = 40  # letters of a setting in a name
NAME = 80  # letters of a run's name


@dataclass(frozen=True)
class Run:
    """One of the runs that are compared.

    Attributes:
        name: What it is called, distinct among the runs.
        document: All that is known of it.
        href: The address of its own page; empty where there is none.
        score: By the metric that the runs are compared by; None where it has none.
        chance: How likely an equally good run differs so much from the best, corrected for the number of runs; None of
            the best, and where that cannot be told.
    """

    name: str
    document: Document
    href: str = ""
    score: Score | None = None
    chance: float | None = None

    @property
    def verdict(self) -> Verdict:
        """Whether to trust it."""
        return verdict_of(self.document)


@dataclass(frozen=True)
class Group:
    """Runs of one configuration, which differ by their seeds or folds alone.

    Attributes:
        name: The settings that tell it from the others: ``"lr=0.1"``.
        runs: Places of its runs among those compared.
        spread: Of their scores; None where none has one.
        chance: As that of a run, against the best group of two runs or more.
        remark: What the runs differ in that could matter: ``"2 versions of the code"``.
    """

    name: str
    runs: tuple[int, ...]
    spread: Spread | None = None
    chance: float | None = None
    remark: str = ""


@dataclass(frozen=True)
class Comparison:
    """Runs side by side, the best first; those without a score stand at the end.

    Attributes:
        metric: What they are compared by; empty where there is none.
        mode: Whether the highest or the lowest value is the best.
        runs: In that order.
        settings: Configuration keys whose values differ, with the values in the order of the runs.
        drawn: The same for seeds, folds and folders, which are no part of what is compared.
        groups: Configurations that several runs have, and then the others too; empty where all runs differ.
        is_folds: Whether runs of one configuration were trained on overlapping folds.
    """

    metric: str
    mode: Mode
    runs: tuple[Run, ...]
    settings: tuple[Row, ...]
    drawn: tuple[Row, ...]
    groups: tuple[Group, ...]
    is_folds: bool = False

    def best(self, most: int) -> Comparison:
        """The best of the runs, so many at most, for tables; configurations stay those of all runs."""
        if len(self.runs) <= most:
            return self
        rows = [tuple(Row(one.name, one.values[:most]) for one in kind) for kind in (self.settings, self.drawn)]
        return replace(self, runs=self.runs[:most], settings=rows[0], drawn=rows[1])


def compared(documents: Sequence[Document], hrefs: Sequence[str] = ()) -> Comparison:
    """Put runs side by side.

    Args:
        documents: Of two runs or more.
        hrefs: Addresses of their pages, in the same order; none for none.

    Raises:
        ValueError: There are fewer than two.
    """
    if len(documents) < 2:
        raise ValueError(f"Expected two runs or more to compare, but got {len(documents)}.")
    metric, mode = _metric(documents)
    addresses = hrefs or [""] * len(documents)
    made = zip(
        short_names(distinct([shortened(one.run, NAME) or "run" for one in documents])),
        documents,
        addresses,
        strict=True,
    )
    runs = [Run(name, one, href, _score(one, metric, mode)) for name, one, href in made]
    runs.sort(key=lambda one: _rank(one.score, mode))
    flat = [settings_of(one.document.record.get("config")) for one in runs]
    rows = differing(flat)
    settings = tuple(row for row in rows if makes_configuration(row.name))
    groups = _groups(runs, flat, mode)
    is_folds = bool(groups) and any(row.name.rpartition(".")[2] in ("fold", "held_out") for row in rows)
    drawn = tuple(row for row in rows if row not in settings)
    return Comparison(metric, mode, _with_chances(runs), settings, drawn, groups, is_folds)


def distinct(names: Sequence[str]) -> tuple[str, ...]:
    """The names, with a number behind those that are there before."""
    made: list[str] = []
    taken: set[str] = set()
    for name in names:
        free = (name if place == 1 else f"{name} ({place})" for place in count(1))
        taken.add(found := next(one for one in free if one not in taken))
        made.append(found)
    return tuple(made)


def short_names(names: Sequence[str]) -> list[str]:
    """Names without the folders that they begin, or end, with alike."""
    parts = [name.split("/") for name in names]
    shortest = min(map(len, parts))
    first = next((at for at in range(shortest - 1) if len({one[at] for one in parts}) > 1), shortest - 1)
    parts = [one[first:] for one in parts]
    shortest = min(map(len, parts))
    last = next((at for at in range(shortest - 1) if len({one[-1 - at] for one in parts}) > 1), shortest - 1)
    return ["/".join(one[: len(one) - last]) for one in parts]


def _metric(documents: Sequence[Document]) -> tuple[str, Mode]:
    """That by which most runs are judged."""
    counts = Counter((one.score.name, one.score.mode) for one in documents if one.score is not None)
    return counts.most_common(1)[0][0] if counts else ("", "max")


def _score(document: Document, metric: str, mode: Mode) -> Score | None:
    """The run's own score, or the best of this metric where it is judged by another; None where it is not finite."""
    own = document.score
    if own is not None and (own.name, own.mode) == (metric, mode):
        return own if isinstance(own.value, (int, float)) and math.isfinite(own.value) else None
    if metric not in document.metrics:
        return None
    series = document.metrics[metric]
    best = best_of(series.steps, finite(series.values), mode)
    return None if best is None else Score(metric, mode, best[1], best[0])


def _rank(score: Score | None, mode: Mode) -> tuple[bool, float]:
    return score is None, 0.0 if score is None else -score.value if mode == "max" else score.value


def _with_chances(runs: Sequence[Run]) -> tuple[Run, ...]:
    best = runs[0].score
    found = [probability(best, one.score) if best and one.score else None for one in runs[1:]]
    return (runs[0], *(replace(one, chance=p) for one, p in zip(runs[1:], holm(found), strict=True)))


def _groups(runs: Sequence[Run], flat: Sequence[Mapping[str, str]], mode: Mode) -> tuple[Group, ...]:
    places: dict[object, list[int]] = {}
    for place, settings in enumerate(flat):
        places.setdefault(configuration_of(settings) or place, []).append(place)  # what is not known is like nothing
    if all(len(one) < 2 for one in places.values()):
        return ()
    members = list(places.values())
    names = _names([flat[one[0]] for one in members])
    groups = [_group(name, one, runs) for name, one in zip(names, members, strict=True)]
    groups.sort(key=lambda one: _order(one, mode))
    return _against_best(groups)


def _group(name: str, places: Sequence[int], runs: Sequence[Run]) -> Group:
    values = [score.value for place in places if (score := runs[place].score) is not None]
    codes = {_code(runs[place].document) for place in places} - {""}
    data = {_data(runs[place].document) for place in places} - {""}
    remarks = [f"{len(codes)} versions of the code"] * (len(codes) > 1)
    remarks += [f"{len(data)} sets of training data"] * (len(data) > 1)
    return Group(name, tuple(places), spread_of(values) if values else None, None, ", ".join(remarks))


def _order(group: Group, mode: Mode) -> tuple[bool, float]:
    if group.spread is None:
        return True, 0.0
    return False, -group.spread.mean if mode == "max" else group.spread.mean


def _against_best(groups: Sequence[Group]) -> tuple[Group, ...]:
    best = next((one for one in groups if one.spread is not None and one.spread.count > 1), None)
    if best is None or best.spread is None:
        return tuple(groups)
    others = [one for one in groups if one is not best]
    chances = holm([None if one.spread is None else welch(best.spread, one.spread) for one in others])
    told = dict(zip(map(id, others), chances, strict=True))
    return tuple(replace(one, chance=told.get(id(one))) for one in groups)


def _names(flat: Sequence[Mapping[str, str]]) -> list[str]:
    """Of configurations: the settings that differ between them, or "all runs" where there is one."""
    rows = [row for row in differing(flat) if makes_configuration(row.name)]
    if len(flat) == 1:
        return ["all runs"]
    keys = short_keys([row.name for row in rows])[:NAMED]
    values = [brief(row.values) for row in rows[:NAMED]]
    more = f" and {len(rows) - NAMED} more" if len(rows) > NAMED else ""
    told = [
        ", ".join(
            f"{shortened(key, VALUE)}={shortened(texts[place], VALUE)}" for key, texts in zip(keys, values, strict=True)
        )
        + more
        for place in range(len(flat))
    ]
    return list(distinct(told))


def _code(document: Document) -> str:
    code = document.record.get("code")
    return str(code.get("snapshot") or code.get("commit") or "") if isinstance(code, Mapping) else ""


def _data(document: Document) -> str:
    data = document.record.get("data")
    sets = data.get("datasets") if isinstance(data, Mapping) else None
    prints = [one.get("fingerprint") for one in sets or () if isinstance(one, Mapping)]
    return " ".join(map(str, prints)) if all(prints) else ""


def is_real(chance: float | None) -> bool | None:
    """Whether a difference is more than chance; None where that cannot be told."""
    return None if chance is None else chance < LEVEL
