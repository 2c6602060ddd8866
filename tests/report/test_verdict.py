"""The verdict, on documents that are made up."""

from dataclasses import replace

import pytest

from lightning_rules.finding import Finding, Severity
from lightning_rules.report.document import FINISHED, RUNNING, Document
from lightning_rules.report.score import Score
from lightning_rules.report.verdict import verdict_of

OK = Finding("no-leak", Severity.OK, "Fine.")
WARN = Finding("dying-units", Severity.WARNING, "Units die.")
WARN_2 = Finding("shuffle", Severity.WARNING, "Sorted.")
BAD = Finding("non-finite-gradients", Severity.ERROR, "NaN.")
RULE = {"name": "no-leak", "kind": "check", "says": "", "source": ""}


@pytest.mark.parametrize(
    ("state", "findings", "level", "line"),
    [
        (FINISHED, [OK, BAD], "error", "Do not trust this run: 1 error (non-finite-gradients)."),
        (FINISHED, [BAD, BAD, WARN], "error", "Do not trust this run: 2 errors (non-finite-gradients), and 1 warning."),
        (FINISHED, [WARN, OK, WARN_2], "warning",
         "Look before you trust this run: 2 warnings (dying-units and shuffle)."),
        (FINISHED, [OK], "ok", "Nothing is wrong that the rules can see: 1 rule looked, 1 thing held."),
        (RUNNING, [OK], "ok",
         "Unfinished, and nothing is wrong so far that the rules can see: 1 rule looked, 1 thing held."),
        (RUNNING, [WARN], "warning", "Unfinished, with 1 warning so far: dying-units."),
        (RUNNING, [BAD], "error", "Unfinished, and not to be trusted: 1 error (non-finite-gradients)."),
        ("failed: ValueError: no.", [OK], "error", "This run failed: ValueError: no."),
        ("failed: ValueError: no", [BAD, WARN], "error",
         "This run failed: ValueError: no. Before that: 1 error (non-finite-gradients)."),
        ("failed: KeyboardInterrupt", [], "warning", "Stopped by hand before its end."),
        ("failed: KeyboardInterrupt", [BAD], "error",
         "Stopped by hand before its end. Before that: 1 error (non-finite-gradients)."),
    ],
)  # fmt: skip
def test_line(state: str, findings: list[Finding], level: str, line: str) -> None:
    verdict = verdict_of(Document(state=state, findings=findings, rules=[RULE]))
    assert (verdict.level, verdict.line) == (level, line)


GUESS = Score("val/accuracy", "max", 0.117, 39, 359, 0.088, 0.154, majority=0.103)


@pytest.mark.parametrize(
    ("score", "findings", "level", "line"),
    [
        (GUESS, [OK], "warning",
         "No better than a guess: val/accuracy is 11.7%, and the commonest class alone gets 10.3%."),
        (GUESS, [WARN], "warning",
         "No better than a guess: val/accuracy is 11.7%, and the commonest class alone gets 10.3%; "
         "1 warning (dying-units)."),
        (GUESS, [BAD], "error", "Do not trust this run: 1 error (non-finite-gradients)."),
        (replace(GUESS, low=0.12), [OK], "ok",
         "Nothing is wrong that the rules can see: 1 rule looked, 1 thing held."),
        (replace(GUESS, majority=None), [WARN], "warning",
         "Look before you trust this run: 1 warning (dying-units)."),
    ],
)  # fmt: skip
def test_a_score_that_a_guess_would_get(score: Score, findings: list[Finding], level: str, line: str) -> None:
    verdict = verdict_of(Document(state=FINISHED, findings=findings, rules=[RULE], score=score))
    assert (verdict.level, verdict.line) == (level, line)
    assert "guess" not in verdict_of(Document(state=RUNNING, findings=[OK], rules=[RULE], score=score)).line, "yet"


@pytest.mark.parametrize("state", [RUNNING, FINISHED])
def test_without_rules_nothing_is_said_to_be_fine(state: str) -> None:
    verdict = verdict_of(Document(state=state))
    assert verdict.level == "unknown"
    assert "no rule has looked" in verdict.line


def test_of_many_rules_three_are_named_and_a_long_failure_is_cut() -> None:
    many = [Finding(f"rule-{place}", Severity.ERROR, "Bad.") for place in range(5)]
    assert "5 errors (rule-0, rule-1, rule-2 and 2 more)" in verdict_of(Document(state=FINISHED, findings=many)).line
    assert len(verdict_of(Document(state="failed: ValueError: " + "x" * 5000)).line) < 200
