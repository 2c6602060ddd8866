"""exploding-activations and non-finite-activations: how large what the layers give is, by depth and in time."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from statistics import median
from typing import Any

from lightning_rules.finding import Finding, Severity

EXPLODING, NON_FINITE = "exploding-activations", "non-finite-activations"
FIRST = 5  # samples at the beginning, which the later ones are compared with
FEWEST = 3  # samples of a look that can be judged
GROWTH = 1e3
LOOKS = 2


@dataclass(frozen=True)
class SizesSeen:
    """What one rank has seen of its layers.

    Attributes:
        layers: How many.
        layer: The first, in the order in which they run, whose output has grown beyond bounds; "" for none.
        before: Its root mean square over the first samples.
        now: Its root mean square over the latest.
        broken: The first layer whose output was not finite, at the first sample where the loss was not; "" for none.
        batch: The batch of that sample.
        good: The last batch before it that was sampled and finite; None where there was none.
        weights: Whether the weights of that layer were finite.
    """

    layers: int = 0
    layer: str = ""
    before: float = 0.0
    now: float = 0.0
    broken: str = ""
    batch: int = 0
    good: int | None = None
    weights: bool = True


@dataclass
class LayerSizes:
    """Root mean squares of layers' outputs, on the host.

    Attributes:
        first: Each layer's values over the first samples.
        now: Each layer's median over the samples of the last look, in the order in which they ran.
        losses: The losses of the first samples.
        beyond: In how many looks in a row each layer was beyond bounds, and the loss no smaller than at first.
        broken: First layer that was not finite, and its batch; None for none.
        good: The last finite sample's batch.
    """

    first: dict[str, list[float]] = field(default_factory=dict)
    now: dict[str, float] = field(default_factory=dict)
    losses: list[float] = field(default_factory=list)
    beyond: dict[str, int] = field(default_factory=dict)
    broken: tuple[str, int] | None = None
    good: int | None = None

    def take(self, rows: Sequence[tuple[int, dict[str, float], float | None]]) -> None:
        """Add the samples of a look: batch, sizes by layer in order, and the loss (None where it is not known)."""
        for batch, sizes, loss in rows:
            if self.broken is None:
                self._keep_first(batch, sizes, loss)
        if len(rows) < FEWEST or self.broken is not None:
            return
        names = list(rows[-1][1])
        self.now = {name: median([sizes[name] for _, sizes, _ in rows if name in sizes]) for name in names}
        losses = [loss for _, _, loss in rows if loss is not None]
        learns = bool(losses and self.losses) and median(losses) < median(self.losses)
        known = [self.before(name) for name in names[:-1] if name in self.first]
        usual = median(known) if known else 0.0
        for name in names[:-1]:  # the last layer gives the answer, whose scale the targets set
            far = name in self.first and self.now[name] > GROWTH * max(self.before(name), usual) > 0
            self.beyond[name] = self.beyond.get(name, 0) + 1 if far and not learns else 0

    def before(self, name: str) -> float:
        """A layer's size at the beginning."""
        return median(self.first[name])

    def _keep_first(self, batch: int, sizes: dict[str, float], loss: float | None) -> None:
        bad = next((name for name, size in sizes.items() if not math.isfinite(size)), None)
        lost = math.isnan(sizes[bad]) if loss is None and bad is not None else not math.isfinite(loss or 0.0)
        if bad is not None and lost:
            self.broken = (bad, batch)
            return
        if bad is None:
            self.good = batch
            if loss is not None and len(self.losses) < FIRST:
                self.losses.append(loss)
            for name, size in sizes.items():
                known = self.first.setdefault(name, [])
                if len(known) < FIRST:
                    known.append(size)

    def state(self) -> dict[str, Any]:
        """For a checkpoint."""
        return {"first": dict(self.first), "losses": list(self.losses), "beyond": dict(self.beyond), "good": self.good}

    def seen(self, weights: bool) -> SizesSeen:
        """For the judgement."""
        name = next((name for name in self.now if self.beyond.get(name, 0) >= LOOKS), "")
        before, now = (self.before(name), self.now[name]) if name else (0.0, 0.0)
        broken, batch = self.broken or ("", 0)
        return SizesSeen(len(self.first), name, before, now, broken, batch, self.good, weights)


def judge(ranks: Sequence[SizesSeen]) -> list[Finding]:
    """The first rank that lost its numbers, or saw them explode, speaks for all."""
    broken = next((rank for rank in ranks if rank.broken), None)
    if broken is not None:
        return [_broken(broken)]
    large = next((rank for rank in ranks if rank.layer), None)
    if large is not None:
        message = (
            f"The output of `{large.layer}` has grown from {large.before:.3g} (root mean square, first batches) to "
            f"{large.now:.3g}, {large.now / max(large.before, 1e-30):.0e} times as much, the first layer to do so."
        )
        advice = "Lower the learning rate, clip gradients, or put a norm before this layer."
        evidence = {"before": large.before, "now": large.now, "layers": large.layers}
        return [Finding(EXPLODING, Severity.WARNING, message, advice, evidence)]
    if not any(rank.layers for rank in ranks):
        return []
    return [Finding(EXPLODING, Severity.OK, "No layer's output has grown a thousandfold, and all were finite.")]


def _broken(seen: SizesSeen) -> Finding:
    since = f"; at batch {seen.good} all were finite" if seen.good is not None else ""
    why = "its weights are finite" if seen.weights else "so are its weights"
    message = f"`{seen.broken}` is the first layer whose output is not finite, at batch {seen.batch} ({why}){since}."
    if seen.weights:
        advice = "Look at what enters it and at what it computes: overflow, a division or a logarithm of 0."
    else:
        advice = (
            "An update has spoilt the weights: lower the learning rate, clip gradients, and skip what is not finite."
        )
    return Finding(NON_FINITE, Severity.ERROR, message, advice, {"batch": seen.batch, "weights_finite": seen.weights})
