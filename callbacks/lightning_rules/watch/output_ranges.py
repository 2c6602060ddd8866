"""constant-outputs: what the loss is given no longer differs between examples, while the targets do."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from statistics import fmean

from lightning_rules.finding import Finding, Severity

CONSTANT = "constant-outputs"
LOOKS = 3
SAMPLES = 8  # in these looks together
LOGITS = 1e-3  # apart from each other at most: outputs that say the same
SHARE = 1e-4  # of the range of the targets, where outputs are values
GROWING = 1.2


@dataclass(frozen=True)
class OutputsSeen:
    """What one rank has seen of the outputs that a loss was given.

    Attributes:
        samples: How many steps, in the last looks.
        largest: The largest range over the examples of a step, in logits, or as a share of the targets' range.
        growth: How much larger the range became over these looks.
        limit: Below which the outputs are alike.
        begun: The batch at which the oldest of these looks' samples was taken.
    """

    samples: int
    largest: float
    growth: float
    limit: float
    begun: int


@dataclass
class OutputRanges:
    """Ranges of outputs by loss, of the last looks, on the host."""

    looks: dict[str, list[list[tuple[int, float]]]] = field(default_factory=dict)
    values: dict[str, bool] = field(default_factory=dict)

    def take(self, rows: Sequence[tuple[int, str, bool, float, float]]) -> None:
        """Add a look's samples: batch, loss, whether outputs are values, ranges of outputs and of targets."""
        fresh: dict[str, list[tuple[int, float]]] = {}
        for batch, loss, values, outputs, targets in rows:
            self.values[loss] = values
            if targets > 0:  # a step whose targets are all alike says nothing
                fresh.setdefault(loss, []).append((batch, outputs / targets if values else outputs))
        for loss, samples in fresh.items():
            self.looks[loss] = [*self.looks.get(loss, []), samples][-LOOKS:]

    def seen(self) -> dict[str, OutputsSeen]:
        """For the judgement."""
        full = {loss: looks for loss, looks in self.looks.items() if len(looks) == LOOKS}
        return {loss: self._seen(looks, SHARE if self.values[loss] else LOGITS) for loss, looks in full.items()}

    @staticmethod
    def _seen(looks: Sequence[Sequence[tuple[int, float]]], limit: float) -> OutputsSeen:
        ranges = [[size for _, size in samples] for samples in looks]
        first, last = fmean(ranges[0]), fmean(ranges[-1])
        growth = last / first if first > 0 else float(last > 0) * 1e9
        return OutputsSeen(sum(map(len, ranges)), max(map(max, ranges)), growth, limit, looks[0][0][0])


def judge(ranks: Sequence[Mapping[str, OutputsSeen]]) -> list[Finding]:
    """Constant on all ranks, for every loss whose targets differ."""
    losses = [loss for loss in ranks[0] if all(loss in rank for rank in ranks)]
    if not losses:
        return []
    seen = [rank[loss] for loss in losses for rank in ranks]
    evidence = {"range": max(one.largest for one in seen), "samples": min(one.samples for one in seen)}
    if all(one.samples >= SAMPLES and one.largest < one.limit and one.growth < GROWING for one in seen):
        message = (
            f"Since batch {seen[0].begun} at the latest, what {losses[0]} is given has been the same for all examples "
            f"(at most {evidence['range']:.1g} apart), while their targets differ: the inputs have no say."
        )
        advice = "Look for dead units before the last layer, a learning rate too high, or inputs that are all alike."
        return [Finding(CONSTANT, Severity.WARNING, message, advice, evidence)]
    return [Finding(CONSTANT, Severity.OK, "The network's outputs differ between examples.", "", evidence)]
