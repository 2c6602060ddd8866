"""How long a measurement may take."""

from __future__ import annotations

import math
import time

from lightning_rules.rule import NotApplicable


class OutOfTime(NotApplicable):
    """Raised by a measurement that would take longer than it may; its text completes "skipped: ..."."""

    prefix = "Skipped: "


class Deadline:
    """A span of time that begins now.

    Args:
        seconds: How long it is; infinite where there is no limit.
    """

    def __init__(self, seconds: float = math.inf) -> None:
        self.seconds = seconds
        self._started = time.monotonic()

    @property
    def spent(self) -> float:
        """Seconds since it began."""
        return time.monotonic() - self._started

    @property
    def left(self) -> float:
        """Seconds until it ends, at least 0."""
        return max(0.0, self.seconds - self.spent)

    def within(self, seconds: float) -> Deadline:
        """A part of this span that begins now and is no longer than this."""
        return Deadline(min(seconds, self.left))

    def require(self, seconds: float, what: str) -> None:
        """Go on only where there is time for it.

        Args:
            seconds: How long the next part will take, as far as one can tell.
            what: What that part is; begins the sentence: ``"a training of 80 steps"``.

        Raises:
            OutOfTime: There is less time left than that.
        """
        if self.left == 0:
            raise OutOfTime("no time is left of the budget; `check` has no limit.")
        if seconds > self.left:
            raise OutOfTime(
                f"{what} takes about {seconds:.2g} s, and {self.left:.2g} s are left of the budget; "
                "`check` does it without a limit."
            )
