"""The base of all rules: it measures on each rank, judges once for all, and records what was found."""

from __future__ import annotations

import inspect
import logging
from abc import ABC
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, ClassVar, Literal, TypeVar

from lightning_rules import record
from lightning_rules.exhibit import Exhibit
from lightning_rules.finding import Finding, Severity
from lightning_rules.idle_hooks import rest_empty, wake_all
from lightning_rules.namespace import callback_bases
from lightning_rules.ranks import gather

if TYPE_CHECKING:
    from lightning.pytorch import Callback
else:
    # One class for the Trainers of both namespaces.
    Callback = type("Callback", callback_bases(), {})

__all__ = ["Finding", "NotApplicable", "Rule", "Severity"]

log = logging.getLogger(__name__)
T = TypeVar("T")


class NotApplicable(Exception):
    """Raised by a measurement that has nothing to say about this run; its text completes "does not apply: ..."."""

    prefix = "Does not apply: "


class Rule(Callback, ABC):
    """A rule of training as a Lightning callback.

    A subclass sets three class attributes, keeps every constructor argument in an attribute of the same name, and
    calls :meth:`observe` from the Lightning hooks that suit it. It works in ``lightning`` and in
    ``pytorch_lightning``, with other rules or alone.

    What was found is in ``findings`` (a list of :class:`Finding`, emptied when a fit starts, restored when one is
    resumed), in ``<log_dir>/rules/findings.jsonl``, and in a table printed when the fit ends or fails.

    Under DDP each rank holds the same findings: measurements are gathered first and judged together. Rank 0 writes
    and prints.

    Attributes:
        name: The rule's name in kebab case: the pattern, not the remedy, so that "ignore NAME" makes sense.
        source: Author, year and section of the text that states the rule.
        kind: ``"enforce"`` (it acts), ``"check"`` (it judges) or ``"report"`` (it shows).
        aspects: The names under which an audit of many rules reports; its findings carry them in place of ``name``.
        ignored: Names, of the rule's aspects or its own, whose findings are only told as ignored, each with the reason.

    Args:
        on_error: What an ``ERROR`` finding does: ``"warn"`` logs it, ``"raise"`` stops the run, on all ranks alike.

    Raises:
        ValueError: ``on_error`` is neither of these.
    """

    name: ClassVar[str]
    source: ClassVar[str]
    kind: ClassVar[Literal["enforce", "check", "report"]]
    aspects: ClassVar[tuple[str, ...]] = ()

    def __init__(self, on_error: Literal["warn", "raise"] = "warn") -> None:
        if on_error not in ("warn", "raise"):
            raise ValueError(f"Expected `on_error` to be 'warn' or 'raise', but got {on_error!r}.")
        self.on_error = on_error
        self.findings: list[Finding] = []
        self.ignored: dict[str, str] = {}
        self._folder: str | None = None
        self._key: str | None = None
        self._stage = "fit"

    @property
    def options(self) -> dict[str, Any]:
        """The constructor's arguments, by name."""
        return {name: getattr(self, name) for name in inspect.signature(type(self)).parameters}

    @property
    def state_key(self) -> str:
        """Distinct for instances with different options, so that a checkpoint can hold several of one class."""
        if self._key is None:  # Lightning asks at each hook of each step
            self._key = self._generate_state_key(**self.options)
        return self._key

    def exhibits(self) -> Sequence[Exhibit]:
        """What the rule has to show a person, as plain data, from what it holds on the host; on rank 0, at any time."""
        return ()

    def observe(
        self, trainer: Any, measure: Callable[[], T], judge: Callable[[Sequence[T]], Iterable[Finding]]
    ) -> list[Finding]:
        """Measure on this rank, gather, judge on all ranks alike, record.

        A collective: every rank calls it at the same point. A measurement that raises never stops the run: the rule
        says on all ranks that it does not apply, and why.

        Args:
            trainer: The run's Trainer.
            measure: Returns this rank's numbers, small and on the host; raises :class:`NotApplicable` where the rule
                has nothing to say.
            judge: A pure function from the numbers of all ranks (in the order of ranks) to findings.

        Returns:
            What was found this time; the same list on every rank.

        Raises:
            RuntimeError: There is a finding of severity ``ERROR`` and ``on_error`` is ``"raise"``.
        """
        numbers, refusal = attempt(measure)
        everywhere = gather(trainer, (numbers, refusal))
        refusals = [refusal for _, refusal in everywhere if refusal]
        findings: list[Finding] = []
        if not refusals:
            found, refusal = attempt(lambda: list(judge([numbers for numbers, _ in everywhere])))  # type: ignore[misc]
            findings = found or []
            refusals = [refusal] if refusal else []
        if refusals:
            findings = [Finding(self.name, Severity.INFO, refusals[0])]
        return self._record(trainer, findings, acted=self.kind == "enforce" and not refusals)

    def _record(self, trainer: Any, findings: Iterable[Finding], acted: bool) -> list[Finding]:
        findings = [replace(self._unless_ignored(finding), step=trainer.global_step) for finding in findings]
        said = {(finding.severity, finding.message) for finding in self.findings}
        new = {(finding.severity, finding.message): finding for finding in findings}
        fresh = [finding for key, finding in new.items() if key not in said]
        self.findings += fresh
        if trainer.is_global_zero and fresh:
            record.announce(fresh, loud=acted)
            record.save(_findings_of(trainer), self._folder)
        errors = [finding for finding in fresh if finding.severity is Severity.ERROR]
        if errors and self.on_error == "raise":
            raise RuntimeError(f"{errors[0].rule}: {errors[0].message} {errors[0].advice}".rstrip())
        return findings

    def _unless_ignored(self, finding: Finding) -> Finding:
        """The finding; in its place, where it is an alarm that the user ignores, that and why."""
        if finding.severity < Severity.WARNING or finding.rule not in self.ignored:
            return finding
        reason = self.ignored[finding.rule].strip().rstrip(".")
        return replace(finding, severity=Severity.INFO, message=f"Ignored, {reason}: {finding.message}", advice="")

    def setup(self, trainer: Any, pl_module: Any, stage: str) -> None:
        """Forget the findings of an earlier fit. A subclass that overrides this calls ``super().setup(...)``."""
        self._folder, self._stage = trainer.log_dir, stage
        wake_all(self)  # a fit that failed has left them at rest
        rest_empty(self)
        if stage == "fit":
            self.findings = []

    def teardown(self, trainer: Any, pl_module: Any, stage: str) -> None:
        """Print the table of all rules' findings once, at the end of a fit."""
        wake_all(self)
        if stage == "fit":
            self._print(trainer)

    def on_exception(self, trainer: Any, pl_module: Any, exception: BaseException) -> None:
        """Print what was found before the run failed or was interrupted."""
        self._print(trainer)

    def _print(self, trainer: Any) -> None:
        first = next((callback for callback in trainer.callbacks if isinstance(callback, Rule)), None)
        if first is self and trainer.is_global_zero:
            findings = _findings_of(trainer)
            brief = any(getattr(callback, "tells_all", False) for callback in trainer.callbacks)
            record.print_findings(findings, self._folder, list(filter(_asks(trainer), findings)) if brief else None)

    def state_dict(self) -> dict[str, Any]:
        """Findings, so that a resumed run still tells what was seen before."""
        return {"findings": [finding.to_dict() for finding in self.findings]}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """The inverse of :meth:`state_dict`.

        The checkpoint that a test loads does not change what the fit has found.
        """
        if self._stage == "fit":
            self.findings = [Finding.from_dict(values) for values in state_dict["findings"]]


def attempt(step: Callable[[], T]) -> tuple[T | None, str]:
    """The step's value and no refusal, or no value and the reason why."""
    try:
        return step(), ""
    except Exception as error:
        return None, refusal_of(error)


def refusal_of(error: Exception) -> str:
    """What a finding says of a measurement that raised this."""
    if isinstance(error, NotApplicable):
        return f"{error.prefix}{error}"
    log.debug("A measurement failed; the run goes on without it.", exc_info=error)
    said = str(error).partition(chr(10))[0]
    return f"{NotApplicable.prefix}the measurement failed with {type(error).__name__}: {said}"


def _asks(trainer: Any) -> Callable[[Finding], bool]:
    """Tells what a person has to know at once: alarms, advice, and what a rule has changed."""
    enforcing = {rule.name for rule in trainer.callbacks if isinstance(rule, Rule) and rule.kind == "enforce"}

    def asks(finding: Finding) -> bool:
        changed = finding.rule in enforcing and finding.severity is Severity.INFO
        acted = changed and not finding.message.startswith(NotApplicable.prefix)
        return finding.severity >= Severity.WARNING or bool(finding.advice) or acted

    return asks


def _findings_of(trainer: Any) -> list[Finding]:
    return [finding for rule in trainer.callbacks if isinstance(rule, Rule) for finding in rule.findings]
