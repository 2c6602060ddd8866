"""What the checks before the first step share: a span of time, and the parts of an audit."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import lightning.pytorch as L
import pytest
from lightning.pytorch.demos.boring_classes import BoringModel

from lightning_rules.audit import Audit, Part, aspects_of
from lightning_rules.deadline import Deadline, OutOfTime
from lightning_rules.finding import Finding, Severity
from lightning_rules.preflight_check import PreflightCheck
from lightning_rules.rule import NotApplicable, Rule
from lightning_rules.view import View

pytestmark = pytest.mark.filterwarnings("ignore")


class Slow(PreflightCheck):
    """Says how much time it was given, and takes some."""

    name, source = "slow", "a test (2026)"

    def measure(self, view: View, deadline: Deadline) -> float:
        left = deadline.left
        time.sleep(0.3)
        return left

    def judge(self, ranks: Sequence[float]) -> list[Finding]:
        return [Finding(self.name, Severity.OK, "Looked.", evidence={"left": min(ranks)})]


class AlsoSlow(Slow):
    """Another."""

    name = "also-slow"


def leaks(seen: Any, deadline: Deadline) -> int:
    return int(seen)


def refuses(seen: Any, deadline: Deadline) -> int:
    raise NotApplicable("there are no labels.")


def fails(seen: Any, deadline: Deadline) -> int:
    raise KeyError("nothing")


def alarm(ranks: Sequence[int]) -> list[Finding]:
    return [Finding("leak", Severity.ERROR, f"{sum(ranks)} examples leak.", "Split again.")]


class Both(Audit):
    """Four parts, of which one speaks."""

    name, source = "both", "a test (2026)"
    parts = (
        Part(("labels",), refuses, alarm),
        Part(("order", "size"), refuses, alarm),
        Part(("broken",), fails, alarm),
        Part(("leak",), leaks, alarm),
    )
    aspects = aspects_of(parts)

    def read(self, view: View, deadline: Deadline) -> int:
        return 7


def fit(*rules: Rule, **options: Any) -> L.Trainer:
    quiet = dict.fromkeys(("logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary"), False)
    trainer = L.Trainer(accelerator="cpu", max_steps=2, callbacks=list(rules), **quiet)
    trainer.fit(BoringModel(), **options)
    return trainer


def test_checks_share_their_time() -> None:
    first, second, third = Slow(budget=0.35), AlsoSlow(budget=0.35), Slow(budget=None)
    fit(first, second)
    assert 0.2 < first.findings[0].evidence["left"] <= 0.35  # type: ignore[operator]
    assert second.findings[0].evidence["left"] < 0.06, "what the first has left over"
    third.budget = 0.2
    fit(first, third)
    (skipped,) = third.findings
    assert skipped.severity is Severity.INFO
    assert skipped.message.startswith("Skipped: no time is left of the budget; `check` has no limit.")
    assert 0.3 <= first.spent < 0.59, "a second fit begins anew: two take 0.6 s and more, on a busy machine too"


def test_without_a_limit_there_is_none() -> None:
    rule = Slow(budget=None)
    fit(rule)
    assert rule.findings[0].evidence["left"] == float("inf")


def test_a_budget_is_positive() -> None:
    with pytest.raises(ValueError, match="Expected `budget` to be a positive number of seconds or None, but got 0"):
        Slow(budget=0)


def test_a_resumed_run_was_checked_when_it_began(tmp_path: Any) -> None:
    path = str(tmp_path / "a.ckpt")
    fit(Slow()).save_checkpoint(path)
    again = Slow()
    trainer = fit(again, ckpt_path=path)
    assert again.spent == 0
    assert trainer.global_step == 2
    assert [finding.message for finding in again.findings] == ["Looked."], "as it was found then"


def test_deadline() -> None:
    deadline = Deadline(1.0)
    deadline.require(0.5, "a forward pass")
    with pytest.raises(OutOfTime, match="a forward pass takes about 5 s, and 1 s are left of the budget; `check`"):
        deadline.require(5.0, "a forward pass")
    assert deadline.within(0.2).left <= 0.2
    assert deadline.within(7.0).left <= 1.0


def test_one_part_leaves_the_others_alone() -> None:
    rule = Both()
    fit(rule)
    (alarm,) = [finding for finding in rule.findings if finding.severity is Severity.ERROR]
    assert (alarm.rule, alarm.message) == ("leak", "7 examples leak.")
    none, broken = [finding for finding in rule.findings if finding.severity is Severity.INFO]
    assert none.message == "Does not apply: there are no labels (labels, order, size)."
    assert broken.message == "Does not apply: the measurement failed with KeyError: 'nothing' (broken)."


def test_one_aspect_is_ignored_with_a_reason() -> None:
    rule = Both(on_error="raise")
    rule.ignored = {"leak": "they are the same on purpose."}
    fit(rule)
    (finding,) = [finding for finding in rule.findings if finding.rule == "leak"]
    assert finding.severity is Severity.INFO
    assert finding.message == "Ignored, they are the same on purpose: 7 examples leak."
    with pytest.raises(RuntimeError, match=r"leak: 7 examples leak\. Split again\."):
        fit(Both(on_error="raise"))
