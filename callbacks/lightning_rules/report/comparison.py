"""Runs side by side: what was set differently, what came of it, and whether that is more than chance."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import yaml  # type: ignore[import-untyped]

from lightning_rules.exhibit import Curve, Curves, Exhibit, Section
from lightning_rules.report.document import Document
from lightning_rules.report.score import Score, differ

MOST_CURVES = 12  # metrics that are overlaid
UNSET = "—"


@dataclass(frozen=True)
class Row:
    """A line of a table of runs.

    Attributes:
        name: What is told.
        values: One text a run.
    """

    name: str
    values: tuple[str, ...]


@dataclass(frozen=True)
class Comparison:
    """Runs side by side.

    Attributes:
        runs: What each is called, distinct.
        settings: Configuration keys whose values differ, with the values.
        scores: The score of each run; None where it has none of this name.
        verdict: What the scores say, one sentence.
        curves: The metrics that several runs have logged, overlaid.
    """

    runs: tuple[str, ...]
    settings: tuple[Row, ...]
    scores: tuple[Score | None, ...]
    verdict: str
    curves: tuple[Exhibit, ...]


def compared(documents: Sequence[Document]) -> Comparison:
    """Put runs side by side, in the order given.

    Args:
        documents: Of two runs or more.

    Raises:
        ValueError: There are fewer than two.
    """
    if len(documents) < 2:
        raise ValueError(f"Expected two runs or more to compare, but got {len(documents)}.")
    runs = distinct([one.run or "run" for one in documents])
    name = next((one.score.name for one in documents if one.score is not None), "")
    scores = tuple(one.score if one.score is not None and one.score.name == name else None for one in documents)
    return Comparison(runs, differing(documents), scores, verdict(runs, scores), _curves(runs, documents))


def distinct(names: Sequence[str]) -> tuple[str, ...]:
    """The names, with a number behind those that are there before."""
    seen: dict[str, int] = {}
    found = []
    for name in names:
        seen[name] = seen.get(name, 0) + 1
        found.append(name if seen[name] == 1 else f"{name} ({seen[name]})")
    return tuple(found)


def differing(documents: Sequence[Document]) -> tuple[Row, ...]:
    """Configuration keys whose values are not the same in all runs, in the order of the first configuration."""
    flat = [settings_of(one.record.get("config")) for one in documents]
    keys = dict.fromkeys(key for one in flat for key in one)
    rows = (Row(key, tuple(one.get(key, UNSET) for one in flat)) for key in keys)
    return tuple(row for row in rows if len(set(row.values)) > 1)


def settings_of(config: str | None) -> dict[str, str]:
    """A configuration as dotted keys: ``{"model.init_args.lr": "0.001"}``; empty where it is none that YAML knows."""
    try:
        loaded = yaml.safe_load(config or "")
    except yaml.YAMLError:
        return {}
    return dict(_flat("", loaded)) if isinstance(loaded, (dict, list)) else {}


def _flat(prefix: str, value: Any) -> list[tuple[str, str]]:
    if isinstance(value, Mapping) and value:
        return [pair for key, one in value.items() for pair in _flat(f"{prefix}.{key}" if prefix else str(key), one)]
    if isinstance(value, list) and any(isinstance(one, (dict, list)) for one in value):
        return [pair for place, one in enumerate(value) for pair in _flat(f"{prefix}.{place}", one)]
    return [(prefix, str(value))]


def verdict(runs: Sequence[str], scores: Sequence[Score | None]) -> str:
    """Which run is the best, and whether the next one is worse by more than chance; one sentence."""
    known = [(score, run) for score, run in zip(scores, runs, strict=True) if score is not None]
    if len(known) < 2:
        return "The runs have logged no metric in common by which they could be compared."
    known.sort(key=lambda pair: -pair[0].value if pair[0].mode == "max" else pair[0].value)
    (best, first), (second, other) = known[:2]
    told = f"{best.name}: {first} is best with {best.value:.4g}, then {other} with {second.value:.4g}"
    if best.value == second.value:
        return f"{best.name}: {first} and {other} are equally good with {best.value:.4g}."
    differs = differ(best, second)
    if differs is None:
        return f"{told}; whether that is more than chance cannot be told from one run each."
    return f"{told}; that is {'more than chance' if differs else 'no more than chance may do'}."


def _curves(runs: Sequence[str], documents: Sequence[Document]) -> tuple[Exhibit, ...]:
    names = dict.fromkeys(name for one in documents for name in one.metrics)
    shared = [name for name in names if sum(name in one.metrics for one in documents) > 1]
    return tuple(
        Exhibit(
            f"metric_{place}",
            Section.CURVES,
            name,
            f"{name} of each run over its steps.",
            _overlaid(name, runs, documents),
        )
        for place, name in enumerate(shared[:MOST_CURVES])
    )


def _overlaid(name: str, runs: Sequence[str], documents: Sequence[Document]) -> Curves:
    pairs = [(run, one.metrics[name]) for run, one in zip(runs, documents, strict=True) if name in one.metrics]
    return Curves(
        [Curve(run, list(map(float, series.steps)), series.values) for run, series in pairs], "optimiser step", name
    )
