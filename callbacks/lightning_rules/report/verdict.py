"""What to think of a run, in one line."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from lightning_rules.finding import Finding, Severity
from lightning_rules.report.document import FINISHED, Document
from lightning_rules.report.score import Score
from lightning_rules.report.style import shortened

NAMES = 3  # rules that are named
LONGEST = 160  # letters of why a run failed

Level = Literal["error", "warning", "ok", "unknown"]


@dataclass(frozen=True)
class Verdict:
    """Whether to trust a run.

    Attributes:
        level: ``"error"``: not to be trusted; ``"warning"``; ``"ok"``; ``"unknown"``: nothing can be said.
        line: One or two short sentences.
    """

    level: Level
    line: str


def verdict_of(document: Document) -> Verdict:
    """The verdict on a run by its state and by what the rules have found."""
    errors = [one for one in document.findings if one.severity is Severity.ERROR]
    warnings = [one for one in document.findings if one.severity is Severity.WARNING]
    if document.is_unfinished:
        return _unfinished(document, errors, warnings)
    if document.state != FINISHED:
        return _failed(document, errors, warnings)
    if errors:
        more = f", and {_count(warnings, 'warning')}" if warnings else ""
        return Verdict("error", f"Do not trust this run: {_count(errors, 'error')} ({_names(errors)}){more}.")
    told = f"{_count(warnings, 'warning')} ({_names(warnings)})" if warnings else ""
    if document.score is not None and is_a_guess(document.score):
        return Verdict("warning", f"{_guess(document.score)}{'; ' if told else ''}{told}.")
    if warnings:
        return Verdict("warning", f"Look before you trust this run: {told}.")
    return _nothing(document, "Nothing is wrong that the rules can see")


def is_a_guess(score: Score) -> bool:
    """Whether always answering the commonest class would do as well, as far as the examples tell."""
    if score.majority is None or score.mode == "min":
        return False
    return (score.value if score.low is None else score.low) <= score.majority


def _guess(score: Score) -> str:
    reached, guess = (f"{value:.1%}" for value in (score.value, score.majority or 0.0))
    return f"No better than a guess: {score.name} is {reached}, and the commonest class alone gets {guess}"


def _unfinished(document: Document, errors: Sequence[Finding], warnings: Sequence[Finding]) -> Verdict:
    if errors:
        return Verdict("error", f"Unfinished, and not to be trusted: {_count(errors, 'error')} ({_names(errors)}).")
    if warnings:
        return Verdict("warning", f"Unfinished, with {_count(warnings, 'warning')} so far: {_names(warnings)}.")
    return _nothing(document, "Unfinished, and nothing is wrong so far that the rules can see")


def _failed(document: Document, errors: Sequence[Finding], warnings: Sequence[Finding]) -> Verdict:
    why = shortened(document.state.removeprefix("failed: "), LONGEST).rstrip(". ")
    told = _count(errors, "error") if errors else _count(warnings, "warning")
    seen = f" Before that: {told} ({_names(errors or warnings)})." if errors or warnings else ""
    if why.startswith("KeyboardInterrupt"):
        return Verdict("error" if errors else "warning", f"Stopped by hand before its end.{seen}")
    return Verdict("error", f"This run failed: {why}.{seen}")


def _nothing(document: Document, words: str) -> Verdict:
    held = sum(one.severity is Severity.OK for one in document.findings)
    if not document.rules and not held:
        begun = "Unfinished, and nothing" if document.is_unfinished else "Nothing"
        return Verdict("unknown", f"{begun} can be said: no rule has looked at this run.")
    looked = _plural(len(document.rules), "rule")
    return Verdict("ok", f"{words}: {looked} looked, {_plural(held, 'thing')} held.")


def _count(findings: Sequence[Finding], word: str) -> str:
    return _plural(len(findings), word)


def _plural(count: int, word: str) -> str:
    return f"{count:,} {word}{'s' * (count != 1)}"


def _names(findings: Sequence[Finding]) -> str:
    """``a, b and c``; of more than three the first, and how many more."""
    names = list(dict.fromkeys(one.rule for one in findings))
    shown = [*names[:NAMES], *([f"{len(names) - NAMES} more"] if len(names) > NAMES else [])]
    return " and ".join([", ".join(shown[:-1]), shown[-1]]) if len(shown) > 1 else shown[0]
