"""What is checked, and how a check says that it does not hold."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lightning_rules.rule import Rule


@dataclass(frozen=True)
class Case:
    """A rule under test.

    Attributes:
        rule: The class.
        options: Constructor arguments to make it with; needed where some have no default.
        tests_dir: The folder that mirrors the package's tests; None where nobody asks for the test file.
    """

    rule: type[Rule]
    options: Mapping[str, Any]
    tests_dir: Path | None

    def make(self, **changed: Any) -> Rule:
        """A new instance."""
        return self.rule(**{**self.options, **changed})

    def expect(self, holds: object, otherwise: str) -> None:
        """Raise ``AssertionError`` with one sentence about the rule unless something holds."""
        if not holds:
            raise AssertionError(f"{self.rule.__name__}: {otherwise}")


def told(error: BaseException) -> str:
    """An exception on one line: its type and the first line of what it says."""
    return f"{type(error).__name__}: {(str(error).strip().splitlines() or ['no message'])[0]}"
