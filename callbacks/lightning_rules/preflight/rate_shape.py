"""A curve of learning rates in a few numbers that a rule can judge."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from lightning_rules.preflight.planned_rates import Rates

# Of the peak: at most that much moves next to nothing, here for these shares of the run. A cosine is below 1% for the
# last 6% of a run, a square for 10%, steps of a tenth at 30 and 60% for 40%, an exponential to 1e-3 for a third.
NOTHING = ((0.0101, 0.5), (0.00101, 0.25))
FALLEN, RISEN = 0.1, 0.5  # of the peak: what counts as a fall, and as a rise after it


@dataclass(frozen=True)
class Shape:
    """A curve of rates in a few numbers; places are shares of the planned run.

    Attributes:
        start: Its first rate.
        peak: Its highest.
        peak_at: Where that is first reached.
        end: Its last rate.
        lowest: Its lowest.
        alive: For each level of NOTHING: how far the run has come when the rate is at last above that share of its
            peak.
        rebounds: How often it falls below a tenth of its peak and rises above half of it again.
        beyond: The highest rate that further steps of the schedulers would lead to.
        beyond_after: After how many of them.
        settles: The lowest rate of those.
        moves: How often the schedulers were stepped in the run.
        stopped: At which step a scheduler raised; None if none did.
    """

    start: float
    peak: float
    peak_at: float
    end: float
    lowest: float
    alive: tuple[float, ...]
    rebounds: int = 0
    beyond: float = 0.0
    beyond_after: int = 0
    settles: float = 0.0
    moves: int = 0
    stopped: int | None = None


def shape_of(rates: Rates, steps: int) -> Shape:
    """A curve in a few numbers; pure.

    Args:
        rates: What was read.
        steps: The length of the planned run.
    """
    curve, beyond = np.asarray(rates.planned), np.asarray(rates.beyond or [0.0])
    peak = float(curve.max())
    return Shape(
        start=float(curve[0]),
        peak=peak,
        peak_at=float(curve.argmax()) / steps,
        end=float(curve[-1]),
        lowest=float(curve.min()),
        alive=tuple(float(np.flatnonzero(curve >= share * peak)[-1] + 1) / steps for share, _ in NOTHING),
        rebounds=_rebounds(curve / peak) if peak > 0 else 0,
        beyond=float(beyond.max()),
        beyond_after=int(beyond.argmax()) + 1,
        settles=float(beyond.min()),
        moves=rates.moves,
        stopped=len(curve) if rates.failure else None,
    )


def _rebounds(curve: Any) -> int:
    """How often it is above RISEN after it was below FALLEN, having been above RISEN before."""
    high = np.where(curve >= RISEN, 1, np.where(curve <= FALLEN, -1, 0))
    turns = high[high != 0]
    rises = int(((turns[1:] == 1) & (turns[:-1] == -1)).sum())
    return max(0, rises - int(len(turns) > 0 and turns[0] == -1))


def dead(shape: Shape) -> bool:
    """Whether the rate is next to nothing for much of the run."""
    return any(alive < 1 - share for alive, (_, share) in zip(shape.alive, NOTHING, strict=True))
