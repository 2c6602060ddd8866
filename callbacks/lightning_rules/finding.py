"""What a rule has to say: one frozen record that every printer, file and report consumes."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import IntEnum
from typing import Any


class Severity(IntEnum):
    """How much a finding matters; ordered, so that ``finding.severity >= Severity.WARNING`` reads as it sounds.

    - ``OK``: looked at, and it holds.
    - ``INFO``: for a person's eye, or "does not apply, because"; never an alarm.
    - ``WARNING``: this run will probably be worse for it.
    - ``ERROR``: this run is wrong.
    """

    OK = 0
    INFO = 1
    WARNING = 2
    ERROR = 3

    def __str__(self) -> str:
        return self.name.lower()


@dataclass(frozen=True)
class Finding:
    """One thing that one rule saw.

    Args:
        rule: Name of the rule, in kebab case, as in ``docs/rules.md``: ``"loss-at-init"``.
        severity: How much it matters.
        message: One sentence with the numbers seen and the numbers expected.
        advice: One sentence that names the fix; empty where there is nothing to do.
        evidence: The numbers behind the message, by name; flat, so that it can be compared and plotted.
        step: The optimiser step (``trainer.global_step``) at which it was seen.
    """

    rule: str
    severity: Severity
    message: str
    advice: str = ""
    evidence: Mapping[str, float | int | str | bool | None] = field(default_factory=dict)
    step: int = 0

    def to_dict(self) -> dict[str, Any]:
        """The finding as plain values that any JSON reader takes: severity by name, no NaN and no infinity."""
        return {
            "rule": self.rule,
            "severity": str(self.severity),
            "message": self.message,
            "advice": self.advice,
            "evidence": {key: _plain(value) for key, value in self.evidence.items()},
            "step": self.step,
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Finding:
        """The inverse of :meth:`to_dict`."""
        return cls(**{**values, "severity": Severity[str(values["severity"]).upper()]})

    def to_json(self) -> str:
        """One line of ``findings.jsonl``."""
        return json.dumps(self.to_dict(), ensure_ascii=False, allow_nan=False)


def _plain(value: Any) -> Any:
    """JSON knows neither NaN nor infinity: they become the strings "nan", "inf" and "-inf"."""
    if hasattr(value, "item"):
        value = value.item()
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    return value
