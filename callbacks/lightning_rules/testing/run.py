"""A rule at work: short fits of two small modules, with what it found and what it left behind."""

from __future__ import annotations

import re
from collections.abc import Iterable

from lightning.pytorch import LightningModule

from lightning_rules.finding import Finding, Severity
from lightning_rules.rule import Rule
from lightning_rules.testing.case import Case, told
from lightning_rules.testing.copies import expect_copies, expect_state, same
from lightning_rules.testing.demo import MODULES, fit

# A sentence begins with a capital, a number, a quotation mark, or the name of a function: cross_entropy, `net.fc`.
SENTENCE = re.compile(r"([A-Z0-9`'\"(−-]|[a-z]+_\w+|[a-z]\w*\().*\.")
PLAIN = (bool, int, float, str, type(None))
FAILED = "the measurement failed with"


def works_in_a_fit(case: Case) -> None:
    """Runs through fits of Lightning's BoringModel and of a small classifier, each twice."""
    for module_class in MODULES:
        rule = case.make()
        left = _fit(case, module_class, rule)
        _expect_readable(case, rule.findings)
        if case.rule.kind != "enforce":
            _expect_no_trace(case, module_class, left)
        expect_copies(case, rule, " after a fit")
        expect_state(case, rule)
        _expect_a_fresh_start(case, module_class, rule)


def _fit(case: Case, module_class: type[LightningModule], rule: Rule) -> dict[str, object]:
    try:
        return fit(module_class, [rule])
    except Exception as error:
        case.expect(
            False,
            f"it stops a short fit of {module_class.__name__} ({told(error)}); "
            "measure and judge inside `observe`, which lets a run go on, and raise NotApplicable where it has no say.",
        )
        raise


def _expect_readable(case: Case, findings: Iterable[Finding]) -> None:
    for finding in findings:
        case.expect(
            FAILED not in finding.message,
            f"on a healthy run it says {finding.message!r}; mend the measurement, or raise NotApplicable "
            "with the reason.",
        )
        case.expect(
            finding.rule in (case.rule.name, *case.rule.aspects),
            f"a finding names the rule {finding.rule!r}; write the rule's own name, {case.rule.name!r}.",
        )
        for part, text in (("message", finding.message), ("advice", finding.advice)):
            case.expect(
                SENTENCE.fullmatch(text) or (part == "advice" and not text),
                f"the {part} {text!r} is no sentence; begin with a capital, a number or a name in backticks, "
                "and end with a full stop.",
            )
        case.expect(
            finding.advice or finding.severity < Severity.WARNING,
            f"the finding {finding.message!r} alarms without advice; say in one sentence what to do.",
        )
        _expect_flat_evidence(case, finding)


def _expect_flat_evidence(case: Case, finding: Finding) -> None:
    for key, value in finding.evidence.items():
        case.expect(
            isinstance(key, str) and isinstance(value, PLAIN),
            f"the evidence {key!r} of a finding is of type {type(value).__name__}; "
            "keep a flat dict of numbers, strings and None by name.",
        )


def _expect_no_trace(case: Case, module_class: type[LightningModule], left: dict[str, object]) -> None:
    without = fit(module_class, [])
    changed = [name for name in without if not same(without[name], left[name])]
    case.expect(
        not changed,
        f"a rule of kind {case.rule.kind!r} leaves no trace, but a fit of {module_class.__name__} ends with other "
        f"{', '.join(changed)} than without it; measure in `View.step` or `untouched`, which put everything back, "
        "or declare the kind 'enforce'.",
    )


def _expect_a_fresh_start(case: Case, module_class: type[LightningModule], rule: Rule) -> None:
    """A second fit with the same instance says what the first said, and nothing that was left over."""
    first = [(finding.severity, finding.step) for finding in rule.findings]
    left_over = Finding(case.rule.name, Severity.INFO, "Left over from an earlier fit.")
    rule.findings.append(left_over)
    _fit(case, module_class, rule)
    case.expect(
        left_over not in rule.findings,
        "a second fit keeps the findings of the first; call `super().setup(trainer, pl_module, stage)`.",
    )
    second = [(finding.severity, finding.step) for finding in rule.findings]
    case.expect(
        first == second,
        f"a second, identical fit with the same instance finds {_shown(second)} instead of {_shown(first)}; "
        "reset in `setup` what is counted over a fit.",
    )


def _shown(found: list[tuple[Severity, int]]) -> str:
    return ", ".join(f"{severity} at step {step}" for severity, step in found) or "nothing"
