"""What audits have in common: many aspects of one thing, measured in turn, each judged by itself."""

from __future__ import annotations

from abc import abstractmethod
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar

from lightning_rules.deadline import Deadline
from lightning_rules.exhibit import Exhibit
from lightning_rules.finding import Finding, Severity
from lightning_rules.preflight_check import PreflightCheck
from lightning_rules.rule import attempt
from lightning_rules.view import View


@dataclass(frozen=True)
class Part:
    """One part of an audit.

    Attributes:
        names: The aspects that it reports on; its findings carry one of these names.
        measure: Takes what the audit has read, and the deadline; returns numbers, small and on the host. No collective.
        judge: A pure function from the numbers of all ranks to findings.
        show: A pure function from the same numbers to what a person should see of them.
    """

    names: tuple[str, ...]
    measure: Callable[[Any, Deadline], Any]
    judge: Callable[[Sequence[Any]], Iterable[Finding]]
    show: Callable[[Sequence[Any]], Iterable[Exhibit]] = lambda ranks: ()


class Audit(PreflightCheck):
    """A pre-flight check of many aspects. One that fails, or does not apply, leaves the others alone.

    A subclass lists its parts in the order of their cost, sets ``aspects`` to ``aspects_of(parts)``, and implements
    :meth:`read`.
    """

    parts: ClassVar[tuple[Part, ...]]
    _exhibits: Sequence[Exhibit] = ()

    def exhibits(self) -> Sequence[Exhibit]:
        """What the parts have to show."""
        return self._exhibits

    @abstractmethod
    def read(self, view: View, deadline: Deadline) -> Any:
        """What all parts look at, read once; given to their ``measure``.

        Raises:
            NotApplicable: There is nothing to look at.
        """

    def measure(self, view: View, deadline: Deadline) -> list[tuple[Any, str]]:
        """For each part its numbers, or why it has none."""
        seen = self.read(view, deadline)
        return [attempt(partial(_in_time, part, seen, deadline)) for part in self.parts]

    def judge(self, ranks: Sequence[list[tuple[Any, str]]]) -> list[Finding]:
        """The findings of all parts; those that do not apply for the same reason are told together."""
        findings: list[Finding] = []
        refused: dict[str, list[str]] = defaultdict(list)
        shown: list[Exhibit] = []
        for part, measured in zip(self.parts, zip(*ranks, strict=True), strict=True):
            found, refusal = _judged(part, measured)
            findings += found
            if refusal:
                refused[refusal] += part.names
            else:
                shown += attempt(partial(_shown, part, measured))[0] or ()
        self._exhibits = shown
        return [*findings, *self._told(refused)]

    def _told(self, refused: dict[str, list[str]]) -> Iterator[Finding]:
        for refusal, names in refused.items():
            yield Finding(self.name, Severity.INFO, f"{refusal.rstrip('.')} ({', '.join(names)}).")


def aspects_of(parts: Iterable[Part]) -> tuple[str, ...]:
    """The names of all aspects, each once, in order."""
    return tuple(dict.fromkeys(name for part in parts for name in part.names))


def _in_time(part: Part, seen: Any, deadline: Deadline) -> Any:
    deadline.require(0.0, "this part")
    return part.measure(seen, deadline)


def _shown(part: Part, measured: Sequence[tuple[Any, str]]) -> list[Exhibit]:
    return list(part.show([numbers for numbers, _ in measured]))


def _judged(part: Part, measured: Sequence[tuple[Any, str]]) -> tuple[list[Finding], str]:
    refusal = next((refusal for _, refusal in measured if refusal), "")
    if refusal:
        return [], refusal
    found, refusal = attempt(lambda: list(part.judge([numbers for numbers, _ in measured])))
    return found or [], refusal
