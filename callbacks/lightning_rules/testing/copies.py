"""Copies of a rule: pickled for other processes, deep-copied by searches, restored from checkpoints."""

from __future__ import annotations

import copy
import io
import pickle
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

from lightning_rules.finding import Finding, Severity
from lightning_rules.rule import Rule
from lightning_rules.testing.case import Case, told

PLAIN = (bool, int, float, str, type(None), Tensor)


def with_a_finding(case: Case) -> Rule:
    """A new instance that has found something."""
    rule = case.make()
    rule.findings.append(Finding(case.rule.name, Severity.INFO, "Planted by check_rule.", evidence={"one": 1.0}))
    return rule


def can_be_copied(case: Case) -> None:
    """A new rule pickles and deep-copies."""
    expect_copies(case, with_a_finding(case), "")


def expect_copies(case: Case, rule: Rule, when: str) -> None:
    """Expect that a rule survives pickle and deepcopy, and that the copies are independent of it.

    Args:
        case: The rule under test.
        rule: The instance.
        when: Completes the sentence: ``" after a fit"``.
    """
    for how, take in (("pickled", _pickled), ("deep-copied", copy.deepcopy)):
        try:
            other = take(rule)
        except Exception as error:
            case.expect(
                False,
                f"it cannot be {how}{when} ({told(error)}); keep plain values in its attributes, "
                "and let go of handles, loaders, lambdas and the Trainer when the hook ends.",
            )
        case.expect(
            other.options == rule.options and other.findings == rule.findings,
            f"when {how}{when} it loses options or findings; let every attribute be copied.",
        )
        before = len(rule.findings)
        other.findings.append(Finding(case.rule.name, Severity.INFO, "Planted by check_rule."))
        case.expect(
            len(rule.findings) == before,
            f"when {how}{when}, the copy shares its list of findings; make the list in `__init__`: "
            "`super().__init__(on_error)` does.",
        )


def _pickled(rule: Rule) -> Rule:
    other: Rule = pickle.loads(pickle.dumps(rule))
    return other


def has_a_plain_state(case: Case) -> None:
    """The state of a new rule is plain, and brings its findings back."""
    expect_state(case, with_a_finding(case))


def expect_state(case: Case, rule: Rule) -> None:
    """Expect that ``state_dict`` holds plain values, survives a checkpoint and restores the rule."""
    state = rule.state_dict()
    odd = next(_odd(state, "state_dict()"), None)
    case.expect(odd is None, f"{odd}; keep numbers, strings, None, tensors, and lists and dicts of these in the state.")
    file = io.BytesIO()
    torch.save(state, file)
    file.seek(0)
    other = case.make()
    other.load_state_dict(torch.load(file, weights_only=True))
    case.expect(
        other.findings == rule.findings,
        "a checkpoint does not bring its findings back; call `super().state_dict()` and "
        "`super().load_state_dict(state_dict)`.",
    )
    case.expect(
        same(other.state_dict(), state),
        "load_state_dict does not undo state_dict: saved and loaded, the state differs; restore each of its entries.",
    )


def _odd(value: Any, place: str) -> Iterator[str]:
    """Sentences about values that are not plain."""
    if type(value) is dict:
        for key, inner in value.items():
            if type(key) not in (str, int):
                yield f"{place} has the key {key!r} of type {type(key).__name__}"
            yield from _odd(inner, f"{place}[{key!r}]")
    elif type(value) in (list, tuple):
        for index, inner in enumerate(value):
            yield from _odd(inner, f"{place}[{index}]")
    elif type(value) not in PLAIN:
        yield f"{place} is of type {type(value).__name__}"


def same(first: Any, second: Any) -> bool:
    """Whether nested values are equal to the bit; NaN equals NaN."""
    if isinstance(first, Tensor) and isinstance(second, Tensor):
        alike = first.shape == second.shape and first.dtype == second.dtype
        return alike and torch.allclose(first, second, rtol=0, atol=0, equal_nan=True)
    if isinstance(first, Mapping) and isinstance(second, Mapping):
        return first.keys() == second.keys() and all(same(first[key], second[key]) for key in first)
    if isinstance(first, (list, tuple)) and isinstance(second, (list, tuple)):
        return len(first) == len(second) and all(map(same, first, second))
    return bool(first == second or (first != first and second != second))
