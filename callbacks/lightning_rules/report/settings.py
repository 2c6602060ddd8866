"""Configurations of runs as flat keys: which of them differ, and which make two runs the same experiment."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

import yaml  # type: ignore[import-untyped]

UNSET = "—"
KEYS = 5_000  # of one configuration, at most
BRIEF = 8  # letters
FRACTION = re.compile(r"-?\d+(?:\.\d+(?:e[-+]\d+)?|e[-+]\d+)")  # as Python writes it
# What only says with which numbers were drawn, on which part of the data, or where files go.
DRAWN = re.compile(r"(?:^|[._])(?:seed|seed_everything|random_state|fold|held_out|bootstrap)$")
PLACES = re.compile(
    r"^(?:ckpt_path|trainer\.logger(?:\..*)?|trainer\.(?:.*[._])?(?:(?<!class_)path|dirpath|dir|folder|file))$"
)
SUBSET = "subset"  # "100@7": so many examples, and the seed that draws them
_LOADER: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # ten times as fast, where it is there


@dataclass(frozen=True)
class Row:
    """A line of a table of runs.

    Attributes:
        name: What is told.
        values: One text a run.
    """

    name: str
    values: tuple[str, ...]


def settings_of(config: object) -> dict[str, str]:
    """A configuration as dotted keys: ``{"model.init_args.lr": "0.001"}``; empty where it is none that YAML knows.

    The entries of a list go by the names of their classes, so that one callback more does not move the others.
    """
    try:
        loaded = yaml.load(config, _LOADER) if isinstance(config, str) else None  # a safe one
        return dict(islice(_flat("", loaded), KEYS)) if isinstance(loaded, (dict, list)) else {}
    except (yaml.YAMLError, ValueError, TypeError, RecursionError):
        return {}


def _flat(prefix: str, value: Any) -> Iterator[tuple[str, str]]:
    if isinstance(value, Mapping) and value:
        for key, one in value.items():
            yield from _flat(f"{prefix}.{key}" if prefix else str(key), one)
    elif isinstance(value, list) and any(isinstance(one, (dict, list)) for one in value):
        names = _names(value)
        for name, one in zip(names, value, strict=True):
            yield from _flat(f"{prefix}.{name}" if prefix else name, one)
    elif prefix == SUBSET and "@" in str(value):
        count, _, seed = str(value).partition("@")
        yield from ((SUBSET, count), (f"{SUBSET}.seed", seed))
    else:
        yield prefix, str(value)


def brief(values: Sequence[str]) -> list[str]:
    """The values of a setting in few letters: numbers with 4 digits, unless different ones would look alike."""
    shorter = [_brief(value) for value in values]
    return shorter if len(set(shorter)) == len(set(values)) else list(values)


def _brief(value: str) -> str:
    return f"{float(value):.4g}" if len(value) > BRIEF and FRACTION.fullmatch(value) else value


def _names(entries: Sequence[Any]) -> list[str]:
    """Of the entries of a list: their classes, numbered where one comes again; else their places."""
    names: list[str] = []
    for place, one in enumerate(entries):
        path = one.get("class_path") if isinstance(one, Mapping) else None
        base = path.rpartition(".")[2] if isinstance(path, str) and path else str(place)
        again = sum(name.partition("-")[0] == base for name in names)
        names.append(f"{base}-{again + 1}" if again else base)
    return names


def makes_configuration(key: str) -> bool:
    """Whether a key is part of what is compared: neither seed nor fold nor a folder that the run writes to."""
    return not (DRAWN.search(key) or PLACES.match(key))


def configuration_of(settings: Mapping[str, str]) -> tuple[tuple[str, str], ...] | None:
    """What two runs have to share to be runs of one configuration; None where nothing is known of it."""
    return tuple(sorted((key, value) for key, value in settings.items() if makes_configuration(key))) or None


def differing(flat: Sequence[Mapping[str, str]]) -> tuple[Row, ...]:
    """Keys whose values are not the same in all configurations, in the order in which they come."""
    keys = dict.fromkeys(key for one in flat for key in one)
    rows = (Row(key, tuple(one.get(key, UNSET) for one in flat)) for key in keys)
    return tuple(row for row in rows if len(set(row.values)) > 1)


def short_keys(keys: Sequence[str]) -> list[str]:
    """The last words of dotted keys, as many as tell them apart: ``lr`` for ``model.init_args.lr``."""
    parts = [[one for one in key.split(".") if one != "init_args"] or [key] for key in keys]
    return [_shortest(own, parts) for own in parts]


def _shortest(own: Sequence[str], others: Sequence[Sequence[str]]) -> str:
    for words in range(1, len(own)):
        if sum(one[-words:] == own[-words:] for one in others) == 1:
            return ".".join(own[-words:])
    return ".".join(own)
