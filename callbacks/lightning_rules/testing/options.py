"""The constructor: few arguments, of plain types, since they come from YAML, kept under their own names."""

from __future__ import annotations

import inspect
import json
from collections.abc import Mapping, Sequence
from datetime import timedelta
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from lightning_rules.testing.case import Case, told

PLAIN = (bool, int, float, str, NoneType, timedelta)  # LightningCLI reads times, as of Lightning's own callbacks
NESTED = (Union, UnionType, list, tuple, dict, Sequence, Mapping)


def can_be_made(case: Case) -> None:
    """The constructor works with its defaults, or with the options that ``check_rule`` was given."""
    try:
        case.make()
    except Exception as error:
        case.expect(
            False,
            f"it cannot be made with {dict(case.options)} ({told(error)}); give each argument a default, "
            "or check_rule the arguments as options={...}.",
        )


def takes_plain_types(case: Case) -> None:
    """No enums, classes or functions: these cannot be written in YAML, and enums break ``--print_config``."""
    try:
        hints = get_type_hints(case.rule.__init__)
    except NameError as error:
        hints = {}
        case.expect(False, f"the type of an argument is unknown at run time ({error}); import it where it is used.")
    for name, parameter in inspect.signature(case.rule).parameters.items():
        case.expect(
            parameter.kind not in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD),
            f"its constructor takes `{parameter}`; name each argument.",
        )
        case.expect(name in hints, f"its argument `{name}` has no type; annotate it, such as `{name}: float`.")
        case.expect(
            _is_plain(hints[name]),
            f"its argument `{name}` has the type {_shown(hints[name])}; take bool, int, float, str, None, "
            "a Literal of these, or lists and dicts of them.",
        )


def _is_plain(hint: Any) -> bool:
    if get_origin(hint) is Literal:
        return all(type(value) in PLAIN for value in get_args(hint))
    if get_origin(hint) in NESTED:
        return all(_is_plain(inner) for inner in get_args(hint) if inner is not ...)
    return hint in PLAIN


def _shown(hint: Any) -> str:
    return hint.__name__ if isinstance(hint, type) else str(hint)


def has_defaults_that_json_takes(case: Case) -> None:
    """Defaults are written to configs and checkpoints."""
    for name, parameter in inspect.signature(case.rule).parameters.items():
        if parameter.default is parameter.empty:
            continue
        try:
            json.dumps(parameter.default)
        except (TypeError, ValueError):
            case.expect(
                False,
                f"the default of `{name}` is {parameter.default!r}, which JSON cannot hold; "
                "take a number, a string, None, or a list or dict of these.",
            )


def keeps_each_argument(case: Case) -> None:
    """``rule.threshold`` is what ``threshold=`` was: options are shown, copied and compared by these attributes."""
    parameters = inspect.signature(case.rule).parameters
    given = {name: case.options.get(name, parameter.default) for name, parameter in parameters.items()}
    rule = case.make()
    for name, value in given.items():
        missing = object()
        kept = getattr(rule, name, missing)
        case.expect(
            kept is not missing, f"it does not keep its argument `{name}`; write `self.{name} = {name}` in __init__."
        )
        case.expect(
            kept == value,
            f"it was given {name}={value!r} but keeps {kept!r}; keep what was given, and compute from it elsewhere.",
        )


def obeys_on_error(case: Case) -> None:
    """``on_error`` is handed on to :class:`Rule`, which refuses what it does not know."""
    case.expect(
        "on_error" in inspect.signature(case.rule).parameters,
        'it takes no `on_error`; add `on_error: Literal["warn", "raise"] = "warn"` and '
        "call `super().__init__(on_error)`.",
    )
    kept = [case.make(on_error=value).on_error for value in ("warn", "raise")]
    case.expect(kept == ["warn", "raise"], "it ignores `on_error`; hand it on: `super().__init__(on_error)`.")
    try:
        case.make(on_error="explode")
    except ValueError:
        return
    except Exception as error:
        case.expect(False, f"a wrong `on_error` gives {told(error)}; raise ValueError: `super().__init__(on_error)`.")
    case.expect(
        False, "it accepts on_error='explode'; hand it on, so that Rule checks it: `super().__init__(on_error)`."
    )
