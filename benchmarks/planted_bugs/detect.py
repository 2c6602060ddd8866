"""The rules as a detector: what they say of a program before its first step, and over the whole fit."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import lightning as L

import lightning_rules
from lightning_rules import Finding, Rule, Severity, recommended
from lightning_rules.monitor import Monitor
from planted_bugs.fit import fit
from planted_bugs.program import Case, Program


@dataclass(frozen=True)
class Alarm:
    """Something that a detector complains about.

    Attributes:
        name: The rule or check.
        text: What it says, with its advice.
        step: The optimiser step at which it was said.
    """

    name: str
    text: str
    step: int = 0


@dataclass(frozen=True)
class Verdict:
    """What a detector says of one run.

    Attributes:
        alarms: All that it complains about.
        seconds: What the run took with the detector in it.
        failure: Why there is no verdict; empty where there is one.
    """

    alarms: list[Alarm]
    seconds: float
    failure: str = ""

    @property
    def step(self) -> int | None:
        """Step of the first alarm; None where there is none."""
        return min((alarm.step for alarm in self.alarms), default=None)


Detector = Callable[[Program], list[Alarm]]


class StopBeforeTraining(L.Callback):
    """Ends the fit once all callbacks before it have seen its start."""

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        trainer.fit_loop.min_epochs = 0
        trainer.fit_loop.epoch_loop.min_steps = None
        trainer.should_stop = True


def preflight(program: Program, **options: Any) -> list[Alarm]:
    """The recommended rules in the beginning of the program's own fit, which stops before its first step."""
    return said(recommended(), program, [StopBeforeTraining()], **options)


def whole_fit(program: Program, **options: Any) -> list[Alarm]:
    """The recommended rules in the program's own fit."""
    return said(recommended(), program, **options)


def monitors(program: Program, **options: Any) -> list[Alarm]:
    """Of the recommended rules those alone that watch a run, in the program's own fit."""
    return said([rule for rule in recommended() if isinstance(rule, Monitor)], program, **options)


def said(rules: Sequence[Rule], program: Program, others: Sequence[Any] = (), **options: Any) -> list[Alarm]:
    """What rules say in the program's fit; of a fit that breaks off, what they had said until then.

    Raises:
        Exception: That of the fit, if no rule has raised an alarm before it.
    """
    try:
        fit(program, [*rules, *others], **options)
    except Exception:
        if not alarms_of(rules):
            raise
    return alarms_of(rules)


def checked(program: Program) -> list[Alarm]:
    """``lightning_rules.check``, told how long the run will be."""
    epochs = program.options.get("max_epochs")
    if isinstance(program.train, L.LightningDataModule):
        report = lightning_rules.check(program.module, datamodule=program.train, max_epochs=epochs)
    else:
        report = lightning_rules.check(program.module, program.train, program.validation, max_epochs=epochs)
    return [alarm(finding) for finding in report.findings if finding.severity >= Severity.WARNING]


OURS: dict[str, Detector] = {"pre-flight": preflight, "check": checked, "monitors": monitors, "whole fit": whole_fit}


def alarms_of(rules: Sequence[Rule]) -> list[Alarm]:
    """Findings of severity ``WARNING`` and ``ERROR``."""
    return [alarm(finding) for rule in rules for finding in rule.findings if finding.severity >= Severity.WARNING]


def alarm(finding: Finding) -> Alarm:
    return Alarm(finding.rule, f"{finding.message} {finding.advice}".strip(), finding.step)


def verdict(detector: Detector, build: Callable[[], Program]) -> Verdict:
    """Of a newly built program; a detector that fails says nothing, and why."""
    program = build()
    began = time.perf_counter()
    try:
        alarms, failure = detector(program), ""
    except Exception as error:
        alarms, failure = [], f"{type(error).__name__}: {str(error).partition(chr(10))[0]}"
    return Verdict(alarms, time.perf_counter() - began, failure)


def diagnosed(case: Case, found: Verdict) -> bool:
    """Whether an alarm names the mechanism: by the rule that raises it, or in its words."""
    return any(
        one.name in case.names or any(re.search(words, one.text.lower()) for words in case.words)
        for one in found.alarms
    )
