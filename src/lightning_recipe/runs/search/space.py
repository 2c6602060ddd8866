"""What a search searches: options of `fit` and their ranges, in YAML, judged before anything is trained."""

import difflib
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, get_args

import yaml  # type: ignore[import-untyped]

from lightning_recipe.runs.search.dimension import Dimension, Kind

KINDS: tuple[str, ...] = get_args(Kind)
SYNONYMS = (("lr", "learning_rate"), ("dropout", "drop_rate"), ("hidden_size", "hidden"), ("num_layers", "depth"))
FORMS = "{log10: [-5, -1]}, {one_minus_log10: [-3, -1]}, {int: [16, 128]}, {uniform: [0, 0.5]} or {choice: [a, b]}"


def read_space(path: Path, settings: Mapping[str, Any]) -> list[Dimension]:
    """Read a space: a mapping from options of `fit` to their ranges.

    Args:
        path: A file of YAML, `model.lr: {log10: [-5, -1]}` a line; `model.lr` is short for `model.init_args.lr`.
        settings: All settings of `fit`, by which an option exists or not.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it is no such mapping, names an option that does not exist, or has bounds that contradict.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (FileNotFoundError, IsADirectoryError) as error:
        raise FileNotFoundError(
            f"There is no file {path} to read the space from: name one, or write one by --print-space."
        ) from error
    try:
        given = yaml.safe_load(text)
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ValueError(
            f"{path} is no YAML ({' '.join(str(error).split())}): a line is an option and {FORMS}."
        ) from error
    if not isinstance(given, Mapping) or not given:
        raise ValueError(
            f"{path} must map options of fit to ranges, as in `model.lr: {{log10: [-5, -1]}}`, but it does not."
        )
    space = [dimension(str(name), range_, settings) for name, range_ in given.items()]
    twice = [one.name for place, one in enumerate(space) if one.name in [other.name for other in space[:place]]]
    if twice:
        raise ValueError(f"{path} names {twice[0]} twice: leave one of the two out.")
    return space


def dimension(name: str, given: Any, settings: Mapping[str, Any]) -> Dimension:
    """One line of a space.

    Args:
        name: The option, with dots.
        given: Its range, `{"log10": [-5, -1]}`.
        settings: All settings of `fit`.

    Raises:
        ValueError: If there is no such option or kind of range, or the bounds make no range.
    """
    whole, now = _option(name, settings)
    if not isinstance(given, Mapping) or len(given) != 1:
        raise ValueError(f"The space gives {name} the range {given!r}, but a range is one of {FORMS}.")
    [(kind, ends)] = given.items()
    if kind not in KINDS:
        close = difflib.get_close_matches(str(kind), KINDS, 1)
        meant = f": did you mean {close[0]}?" if close else "."
        raise ValueError(
            f"The space gives {name} a range of the kind {kind!r}, but the kinds are {', '.join(KINDS)}{meant}"
        )
    if kind == "choice":
        return Dimension(whole, "choice", choices=_choices(name, ends))
    if isinstance(now, bool | str | list) or (isinstance(now, Mapping) and now):
        raise ValueError(
            f"The space draws numbers for {name}, which is {now!r} and no number: give it a choice of values."
        )
    low, high = _bounds(name, kind, ends)
    return Dimension(whole, kind, low, high)


def _choices(name: str, given: Any) -> tuple[Any, ...]:
    if not isinstance(given, list) or not given:
        raise ValueError(
            f"The space gives {name} no values to choose from: write at least one, as in {{choice: [1, 2]}}."
        )
    return tuple(given)


def _bounds(name: str, kind: Kind, given: Any) -> tuple[float, float]:
    is_pair = isinstance(given, list) and len(given) == 2 and all(map(_is_number, given))
    if not is_pair:
        raise ValueError(f"The space gives {name} the bounds {given!r}, but {kind} has two numbers, as in {FORMS}.")
    low, high = given
    if low >= high:
        raise ValueError(
            f"The space gives {name} contradictory bounds: {low} is not below {high}; write the lower first."
        )
    if kind == "int" and not (float(low).is_integer() and float(high).is_integer()):
        raise ValueError(f"The space gives {name} the bounds {given}, but those of int are whole numbers.")
    if kind == "one_minus_log10" and high >= 0:
        raise ValueError(
            f"The space gives {name} the exponents {given}, but 1 - 10^{high} is not above 0: write exponents below 0, "
            "as in {one_minus_log10: [-3, -1]} for 0.9 to 0.999."
        )
    if kind == "log10" and max(abs(low), abs(high)) > 300:
        raise ValueError(f"The space gives {name} the exponents {given}, but 10^300 is the largest number there is.")
    return low, high


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _option(name: str, settings: Mapping[str, Any]) -> tuple[str, Any]:
    """The option's name with all its dots, and its value as it is set.

    Raises:
        ValueError: If there is none; the message names the closest.
    """
    parts, here, walked = name.split("."), settings, list[str]()
    for place, part in enumerate(parts):
        if "class_path" in here and part not in ("class_path", "init_args"):
            here, walked = here.get("init_args") or {}, [*walked, "init_args"]
        is_open = bool(walked) and not _is_structure(here, walked)
        if part not in here and not is_open:
            raise ValueError(_unknown(name, settings))
        walked.append(part)
        value = here.get(part)
        if place == len(parts) - 1:
            return ".".join(walked), value
        if value is not None and not isinstance(value, Mapping):
            raise ValueError(_unknown(name, settings))
        here = value or {}
    raise ValueError(_unknown(name, settings))


def _is_structure(here: Mapping[str, Any], walked: Sequence[str]) -> bool:
    """Whether all options there are are there: so it is of a class, and not of a mapping that a class takes."""
    return "class_path" in here or walked[-1] == "init_args" or "init_args" not in walked


def _unknown(name: str, settings: Mapping[str, Any]) -> str:
    known = [one for one in map(short, options(settings)) if not one.endswith(".class_path")]
    before, _, last = short(name).rpartition(".")
    others = {f"{before}.{other}" for names in SYNONYMS if last in names for other in names}
    alike = difflib.get_close_matches(last, [one.rpartition(".")[2] for one in known], 1, cutoff=0.7)
    close = [
        *(one for one in known if one in others),
        *difflib.get_close_matches(short(name), known, 1, cutoff=0.75),
        *(one for one in known if one.rpartition(".")[2] in alike),
    ]
    meant = f"did you mean {close[0]}?" if close else "`fit --print_config` prints those there are."
    return f"The space names the option {name}, which does not exist: {meant}"


def options(settings: Mapping[str, Any], before: str = "") -> Iterator[str]:
    """The names, with all dots, of all options."""
    for name, value in settings.items():
        if isinstance(value, Mapping) and value:
            yield from options(value, f"{before}{name}.")
        else:
            yield f"{before}{name}"


def short(name: str) -> str:
    """An option without what can be left out: `model.lr`."""
    return ".".join(part for part in name.split(".") if part != "init_args")


def changed(settings: Mapping[str, Any], values: Mapping[str, Any]) -> dict[str, Any]:
    """A copy of settings with other values of some options.

    Args:
        settings: Nested as YAML is.
        values: By the names of the options, with all dots.
    """
    for name, value in values.items():
        settings = _with(settings, name.split("."), value)
    return dict(settings)


def _with(settings: Mapping[str, Any], parts: Sequence[str], value: Any) -> dict[str, Any]:
    first, *rest = parts
    return {**settings, first: _with(settings.get(first) or {}, rest, value) if rest else value}


def told(space: Iterable[Dimension]) -> dict[str, Any]:
    """A space as YAML has it."""
    return {one.name: one.spelled() for one in space}
