"""The training loss of a whole run in a bounded number of values."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from statistics import fmean
from typing import Any

FIRST = 16  # losses of the beginning that are kept as they are,
RECENT = 128  # and of the end
SPIKE = 10.0  # mean distances from the running level
LEAST_SPIKE = 0.25  # of the first loss: less than that undoes little
FOLLOW = 1 / 32  # how fast the running level follows
BLOCKS = 128  # block means at most; then pairs of blocks become one


@dataclass
class LossHistory:
    """The losses of a run: the first, the latest, and the means of blocks of equal length in between.

    Attributes:
        batches: How many batches there were, with a loss or without.
        losses: How many of them had a finite loss.
        first: The first finite losses.
        recent: The latest finite losses.
        means: Means of blocks of ``block`` finite losses each, in order.
        block: How many losses a block holds, a power of two.
        pending: Sum and number of the finite losses after the last block.
        not_finite: How many losses were NaN or infinite.
        not_finite_at: The batch, counted from 0, with the first of them; -1 where there is none.
        in_a_row: How many of the latest losses were not finite.
        before: The finite losses right before the first that was not.
        level: A running mean of the finite losses,
        spread: and of their distance from it.
        spikes: How many losses stood far above those before them.
        highest_spike: The largest of these,
        highest_spike_at: and its batch, counted from 0; -1 where there is none.
    """

    batches: int = 0
    losses: int = 0
    first: list[float] = field(default_factory=list)
    recent: list[float] = field(default_factory=list)
    means: list[float] = field(default_factory=list)
    block: int = 1
    pending: tuple[float, int] = (0.0, 0)
    not_finite: int = 0
    not_finite_at: int = -1
    in_a_row: int = 0
    before: list[float] = field(default_factory=list)
    level: float = 0.0
    spread: float = 0.0
    spikes: int = 0
    highest_spike: float = 0.0
    highest_spike_at: int = -1

    def add(self, losses: Iterable[float | None]) -> None:
        """Add the losses of the batches that follow; None stands for a batch without one."""
        for loss in losses:
            if loss is not None and math.isfinite(loss):
                self._add_finite(loss)
            elif loss is not None:
                self._add_not_finite()
            self.batches += 1
        del self.recent[:-RECENT]

    def _add_finite(self, loss: float) -> None:
        self.losses += 1
        self.in_a_row = 0
        if len(self.first) < FIRST:
            self.first.append(loss)
        self._follow(loss)
        self.recent.append(loss)
        total, count = self.pending[0] + loss, self.pending[1] + 1
        if count < self.block:
            self.pending = total, count
            return
        self.pending = 0.0, 0
        self.means.append(total / count)
        if len(self.means) >= BLOCKS:
            self.means = [(a + b) / 2 for a, b in zip(self.means[::2], self.means[1::2], strict=True)]
            self.block *= 2

    def _follow(self, loss: float) -> None:
        """Count a loss that stands far above those before it; else let it move the running level."""
        if self.losses == 1:
            self.level = loss
        away = loss - self.level
        far = away > max(SPIKE * self.spread, 2 * abs(self.level), LEAST_SPIKE * abs(self.first[0]))
        if far and self.losses > FIRST:
            self.spikes += 1
            if self.spikes == 1 or loss > self.highest_spike:
                self.highest_spike, self.highest_spike_at = loss, self.batches
            away = min(away, 2 * self.spread)
        self.level += FOLLOW * away
        self.spread += FOLLOW * (abs(away) - self.spread)

    def _add_not_finite(self) -> None:
        if self.not_finite_at < 0:
            self.not_finite_at, self.before = self.batches, self.recent[-FIRST:]
        self.not_finite += 1
        self.in_a_row += 1

    def state(self) -> dict[str, Any]:
        """Plain values, for a checkpoint and for other ranks."""
        return {**vars(self), "pending": list(self.pending)}

    @classmethod
    def of(cls, state: dict[str, Any]) -> LossHistory:
        """The inverse of :meth:`state`."""
        copied: dict[str, Any] = {
            name: list(value) if isinstance(value, list) else value for name, value in state.items()
        }
        copied["pending"] = float(state["pending"][0]), int(state["pending"][1])
        return cls(**copied)


def mean_over_ranks(histories: Sequence[LossHistory]) -> LossHistory:
    """The history of the mean loss of ranks that have seen equally many batches."""
    if len(histories) == 1:
        return histories[0]
    block = max(one.block for one in histories)
    parts = [_coarser(one.means, block // one.block) for one in histories]
    worst = max(histories, key=lambda one: (one.in_a_row, one.not_finite))
    highest = max(histories, key=lambda one: one.highest_spike)
    return LossHistory(
        batches=min(one.batches for one in histories),
        losses=min(one.losses for one in histories),
        first=_mean([one.first for one in histories]),
        recent=_mean([one.recent for one in histories]),
        means=_mean(parts),
        block=block,
        not_finite=worst.not_finite,
        not_finite_at=min((one.not_finite_at for one in histories if one.not_finite_at >= 0), default=-1),
        in_a_row=worst.in_a_row,
        before=worst.before,
        spikes=max(one.spikes for one in histories),
        highest_spike=highest.highest_spike,
        highest_spike_at=highest.highest_spike_at,
    )


def _coarser(means: Sequence[float], factor: int) -> list[float]:
    whole = len(means) // factor * factor
    return [fmean(means[start : start + factor]) for start in range(0, whole, factor)]


def _mean(lists: Sequence[Sequence[float]]) -> list[float]:
    return [fmean(values) for values in zip(*lists, strict=False)]
