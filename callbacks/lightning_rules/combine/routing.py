"""Where examples stop on their way through a cascade, and which thresholds are worth their cost. Pure functions."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from lightning_rules.combine.scores import wilson
from lightning_rules.selective import SURE, risk_bound

CANDIDATES = {1: 400, 2: 40}  # thresholds tried a stage, by the number of stages that have one
BEYOND = 24  # and where there are more stages, which are then tried in turn
PRICES = 12  # exchange rates between cost and accuracy under which stages are tried in turn
FOLDS = 5
_AT_ONCE = 20_000_000  # elements in memory while thresholds are judged


@dataclass(frozen=True)
class Points:
    """Thresholds that were tried, with what they cost and bring; from cheap to dear.

    Attributes:
        thresholds: [P, S - 1]; an example stops at the first stage whose confidence reaches its threshold.
        accuracy: The share of right answers [P].
        cost: The mean cost of an example [P].
    """

    thresholds: Tensor
    accuracy: Tensor
    cost: Tensor

    def __len__(self) -> int:
        return len(self.cost)


@dataclass(frozen=True)
class Choice:
    """Thresholds that were chosen, and what is to be expected of them on new examples.

    Attributes:
        thresholds: [S - 1].
        accuracy: The share of right answers on the examples they were chosen on.
        cost: The mean cost of an example there.
        reached: Whether what was wanted is reached there.
        fresh_accuracy: The accuracy when thresholds are chosen on four fifths and judged on the last, over all five.
        low: Lower end of the 95% interval of ``fresh_accuracy`` (Wilson 1927).
        high: Its upper end.
        front: The points than which none is both cheaper and better.
    """

    thresholds: Tensor
    accuracy: float
    cost: float
    reached: bool
    fresh_accuracy: float
    low: float
    high: float
    front: Points


def stops(signal: Tensor, thresholds: Tensor) -> Tensor:
    """The stage at which each example stops: the first whose signal reaches its threshold, else the last.

    Args:
        signal: [S, N] or, of all stages but the last, [S - 1, N]: confidences, or for screens probabilities of
            "negative".
        thresholds: [..., S - 1].

    Returns:
        Stage numbers [..., N].
    """
    gates = thresholds.shape[-1]
    reached = signal[:gates] >= thresholds[..., None].to(signal)
    always = reached.new_ones(*reached.shape[:-2], 1, reached.shape[-1])
    return torch.cat([reached, always], dim=-2).to(torch.uint8).argmax(dim=-2)


def evaluate(signal: Tensor, right: Tensor, costs: Tensor, thresholds: Tensor) -> Points:
    """What thresholds cost and bring.

    Args:
        signal: Confidence of each stage in its answer [S, N].
        right: Whether that answer is right [S, N].
        costs: Of each stage, for one example [S].
        thresholds: [P, S - 1].
    """
    spent = costs.double().cumsum(0)
    accuracy, cost = [], []
    for chunk in torch.split(thresholds, max(1, _AT_ONCE // signal.numel())):
        stage = stops(signal, chunk)
        accuracy.append(right.double().gather(0, stage).mean(dim=1))
        cost.append(spent[stage].mean(dim=1))
    return Points(thresholds, torch.cat(accuracy), torch.cat(cost))


def front(points: Points) -> Points:
    """The points than which none is both cheaper and better, from cheap to dear (Pareto 1906)."""
    order = sorted(range(len(points)), key=lambda i: (float(points.cost[i]), -float(points.accuracy[i])))
    kept: list[int] = []
    for i in order:
        if not kept or points.accuracy[i] > points.accuracy[kept[-1]]:
            kept.append(i)
    return Points(points.thresholds[kept], points.accuracy[kept], points.cost[kept])


def search(signal: Tensor, right: Tensor, costs: Tensor) -> Points:
    """The front of all thresholds worth trying: quantiles of the confidences, "always stop" and "never stop".

    Two or three stages: all combinations. More: stage by stage in turn, under twelve exchange rates between cost and
    accuracy, until nothing gets better.

    Args:
        signal: [S, N].
        right: [S, N].
        costs: [S].
    """
    gates = len(signal) - 1
    if gates == 0:
        return evaluate(signal, right, costs, torch.zeros(1, 0, dtype=torch.double))
    tried = [_candidates(values, CANDIDATES.get(gates, BEYOND)) for values in signal[:gates]]
    if gates in CANDIDATES:
        return front(evaluate(signal, right, costs, torch.cartesian_prod(*tried).reshape(-1, gates)))
    return front(_in_turn(signal, right, costs, tried))


def _candidates(values: Tensor, count: int) -> Tensor:
    places = torch.linspace(0, 1, count, dtype=torch.double)
    # values that occur, so that a threshold means the same however many examples there are
    quantiles = torch.quantile(values.double(), places, interpolation="higher")
    return torch.tensor([-math.inf, *sorted(set(quantiles.tolist())), math.inf], dtype=torch.double)


def _in_turn(signal: Tensor, right: Tensor, costs: Tensor, tried: Sequence[Tensor]) -> Points:
    seen = []
    whole = float(costs.sum()) or 1.0
    for price in torch.logspace(-4, 0.5, PRICES).tolist():
        current, best = torch.full((len(tried),), math.inf, dtype=torch.double), -math.inf
        while True:
            for gate, values in enumerate(tried):
                options = current.repeat(len(values), 1)
                options[:, gate] = values
                points = evaluate(signal, right, costs, options)
                value = points.accuracy - price * points.cost / whole
                current = options[int(value.argmax())]
                seen.append(front(points))
            if float(value.max()) <= best + 1e-12:
                break
            best = float(value.max())
    parts = [torch.cat([getattr(points, name) for points in seen]) for name in ("thresholds", "accuracy", "cost")]
    return Points(*parts)


def choose(
    signal: Tensor, right: Tensor, costs: Tensor, accuracy: float | None = None, cost: float | None = None
) -> Choice:
    """The thresholds that cost least at a wanted accuracy, or that are most accurate at a wanted cost.

    They fit the examples they are chosen on a little too well. How they would do on others is estimated by choosing
    five times on four fifths of the examples (every fifth left out) and judging on the rest.

    Args:
        signal: Confidence of each stage in its answer [S, N].
        right: Whether that answer is right [S, N].
        costs: Of each stage, for one example [S], in any unit.
        accuracy: The wanted accuracy. Where none reaches it, the most accurate thresholds are taken.
        cost: The wanted mean cost of an example, in the same unit, where no accuracy is given. Where none is so cheap,
            the cheapest thresholds are taken.

    Raises:
        ValueError: Neither or both are given, or there are fewer examples than folds.
    """
    if (accuracy is None) == (cost is None):
        raise ValueError(f"Expected an `accuracy` or a `cost`, one of them, but got {accuracy} and {cost}.")
    total = signal.shape[1]
    if total < FOLDS:
        raise ValueError(f"Expected at least {FOLDS} examples to choose thresholds on, but got {total}: validate more.")
    points = search(signal, right, costs)
    place, reached = _pick(points, accuracy, cost)
    hits = 0
    for fold in range(FOLDS):
        held = torch.arange(total) % FOLDS == fold
        others = search(signal[:, ~held], right[:, ~held], costs)
        thresholds = others.thresholds[_pick(others, accuracy, cost)[0]]
        stage = stops(signal[:, held], thresholds)
        hits += int(right[:, held].gather(0, stage[None]).sum())
    low, high = wilson(hits, total)
    chosen = (points.thresholds[place], float(points.accuracy[place]), float(points.cost[place]))
    return Choice(*chosen, reached, hits / total, low, high, points)


def _pick(points: Points, accuracy: float | None, cost: float | None) -> tuple[int, bool]:
    """The place of the best point on a front, and whether it is as wanted."""
    if accuracy is not None:
        enough = (points.accuracy >= accuracy - 1e-9).nonzero()
        return (int(enough[0]), True) if len(enough) else (len(points) - 1, False)
    assert cost is not None
    cheap = (points.cost <= cost * (1 + 1e-9)).nonzero()
    return (int(cheap[-1]), True) if len(cheap) else (0, False)


def screens(negative: Tensor, truth: Tensor, recall: float, sure: float = SURE) -> tuple[Tensor, float]:
    """Thresholds of stages that let everything go on but what is surely negative.

    Of the positives, the stages together may lose so few that the recall on new examples is at least the wanted one;
    each may lose the same number. An example stops, as negative, where its probability of being so reaches the
    threshold, which is a half at least.

    Args:
        negative: Each stage's probability of "negative" [S, N].
        truth: Which examples are positive [N], bool.
        recall: The wanted share of positives that reach the last stage, above 0 and below 1.
        sure: With which probability it is to hold.

    Returns:
        Thresholds [S - 1], and the recall that is guaranteed. Where there are too few positives to prove the wanted
        recall, nothing may be lost, and the recall is what they do prove.
    """
    positives, gates = int(truth.sum()), len(negative) - 1
    lost = 0
    while lost < positives and risk_bound(lost + 1, positives, sure) <= 1 - recall:
        lost += 1
    proven = 1 - risk_bound(lost, positives, sure)
    if proven < recall:
        return negative.new_full((gates,), math.inf), proven
    thresholds, alive = negative.new_full((gates,), 0.5), truth.clone()
    for gate, share in enumerate(_split(lost, gates)):
        surest = negative[gate][alive].sort(descending=True).values
        if share < len(surest):  # just above the surest one that must not be lost
            least = torch.nextafter(surest[share], surest.new_tensor(math.inf))
            thresholds[gate] = torch.maximum(thresholds[gate], least)
        alive = alive & (negative[gate] < thresholds[gate])
    return thresholds, proven


def _split(number: int, parts: int) -> list[int]:
    """A whole number as equal parts, the first ones larger."""
    return [number // parts + (part < number % parts) for part in range(parts)]


def passing(negative: Tensor, truth: Tensor, thresholds: Tensor) -> list[tuple[float, float]]:
    """Recall and precision of what each stage lets pass, so far; the last one decides at a half.

    Args:
        negative: Each stage's probability of "negative" [S, N].
        truth: Which examples are positive [N], bool.
        thresholds: [S - 1].
    """
    alive = torch.ones_like(truth)
    found = []
    for stage, limit in zip(negative, [*thresholds.tolist(), 0.5], strict=True):
        alive = alive & (stage < limit)
        hits = int((alive & truth).sum())
        found.append((hits / max(1, int(truth.sum())), hits / max(1, int(alive.sum()))))
    return found
