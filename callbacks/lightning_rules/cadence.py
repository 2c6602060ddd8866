"""When to sample a run and when to look at what was sampled, so that both stay within a share of its time."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from statistics import median
from typing import Any

DENSE = 16  # samples at the beginning of a run, where most goes wrong,
DENSELY = 3  # so many batches apart: an odd number, since what alternates from batch to batch must be seen whole
SELDOM = 17  # batches between two samples afterwards, or as many more as their cost asks for,
LONGEST = 1025  # and at most, so that a long run is never out of sight
LOOK = 16  # batches until the first look; then twice as many each time, up to
LOOKS = 64  # so many, or as many more as their cost asks for
FREE_SAMPLES = 64  # and looks that are taken whatever they cost: a short run of a small network has to be seen too,
FREE_LOOKS = 8  # and all of them together take a tenth of a second there
FOR_SAMPLES = 0.6  # of the share of time; looks have the same part of what is left
RECENT = 9


@dataclass
class Cadence:
    """Counts batches, and says which are sampled and after which one looks.

    The first are taken at fixed intervals; then these follow from what samples and looks have cost on the host: under
    DDP the ranks agree on them at each look (:meth:`proposal`, :meth:`agree`), and sample and look at the same batches.

    Args:
        overhead: Share of the training time that samples and looks may take together, above 0 and below 1.
    """

    overhead: float = 0.03
    batches: int = 0
    samples: int = 0
    looks: int = 0
    sample_every: int = DENSELY
    look_every: int = LOOK
    next_sample: int = 0
    next_look: int = LOOK
    idle_until: int = 0  # batches before which nothing is due
    spent: float = 0.0  # seconds of samples and looks
    _plain_seconds: deque[float] = field(default_factory=lambda: deque(maxlen=RECENT))
    _whole_seconds: deque[float] = field(default_factory=lambda: deque(maxlen=RECENT))
    _sample_seconds: deque[float] = field(default_factory=lambda: deque(maxlen=RECENT))
    _look_seconds: deque[float] = field(default_factory=lambda: deque(maxlen=RECENT))

    @property
    def sample_is_due(self) -> bool:
        """Whether the batch that comes next is to be sampled."""
        return self.batches >= self.next_sample

    @property
    def timing_is_due(self) -> bool:
        """Whether the batch that comes next, which is not sampled, is to be timed: it is the last before a sample."""
        return self.batches == self.next_sample - 1

    @property
    def look_is_due(self) -> bool:
        """Whether to look now, after a batch."""
        return self.batches >= self.next_look

    @property
    def batch_seconds(self) -> float:
        """What a batch takes that is not sampled: a median of the last; 0 while none was timed."""
        return median(self._plain_seconds) if self._plain_seconds else 0.0

    @property
    def costs(self) -> dict[str, float]:
        """What a batch takes that is not sampled, what one takes that is, and what samples and looks took in all."""
        plain, whole = self.batch_seconds, median(self._whole_seconds) if self._whole_seconds else 0.0
        return {"batch_seconds": plain, "sampled_batch_seconds": whole, "monitor_seconds": self.spent}

    def timed(self, seconds: float) -> None:
        """The batch that has just ended was not sampled, and took so long."""
        self._plain_seconds.append(seconds)

    def sampled(self, seconds: float, whole: float) -> None:
        """The batch that has just ended was sampled.

        Args:
            seconds: What sampling took before and after the step, on the host.
            whole: What the batch took with that, and with what hooks took within the step.
        """
        self.samples += 1
        self._sample_seconds.append(seconds)
        self._whole_seconds.append(whole)
        self.spent += max(seconds, whole - self.batch_seconds if self._plain_seconds else 0.0)
        seldom = SELDOM if self.samples < FREE_SAMPLES else self.sample_every
        self.next_sample = self.batches - 1 + (DENSELY if self.samples < DENSE else seldom)
        self._plan()

    def looked(self, seconds: float) -> None:
        """A look took so many seconds on the host."""
        self.looks += 1
        self._look_seconds.append(seconds)
        self.spent += seconds
        early = min(LOOKS, LOOK << (self.looks - 1))
        self.next_look = self.batches + (early if self.looks < FREE_LOOKS else self.look_every)
        self._plan()

    def _plan(self) -> None:
        self.idle_until = min(self.next_sample - 1, self.next_look)

    def proposal(self) -> tuple[int, int]:
        """The batches between two samples and between two looks that this rank's costs ask for."""
        if not self._plain_seconds or not self._sample_seconds:
            return SELDOM, LOOKS
        batch = max(self.batch_seconds, 1e-9)
        sample = max(median(self._sample_seconds), median(self._whole_seconds) - batch)
        sample_every = _interval(sample, batch * self.overhead * FOR_SAMPLES)
        look = median(self._look_seconds) if self._look_seconds else 0.0
        look_every = _interval(look, batch * self.overhead * (1 - FOR_SAMPLES))
        return max(SELDOM, sample_every | 1), max(LOOKS, look_every)

    def agree(self, proposals: Sequence[tuple[int, int]]) -> None:
        """Take the longest intervals that any rank asks for."""
        self.sample_every = min(LONGEST, max(samples for samples, _ in proposals))
        self.look_every = min(LONGEST, max(looks for _, looks in proposals))

    def state(self) -> dict[str, Any]:
        """Where it stands, for a checkpoint; costs are measured anew."""
        names = ("batches", "samples", "looks", "sample_every", "look_every", "next_sample", "next_look")
        return {name: getattr(self, name) for name in names}


def _interval(cost: float, allowed: float) -> int:
    """How many batches a cost has to be spread over."""
    return math.ceil(min(cost / allowed, LONGEST))
