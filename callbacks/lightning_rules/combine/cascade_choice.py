"""What a cascade decides on validation examples, in words and pictures."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from lightning_rules.combine.reading import Task
from lightning_rules.combine.routing import Points, choose, evaluate, passing, screens, search, stops
from lightning_rules.combine.scores import predicted, wilson
from lightning_rules.selective import (
    RiskCoverage,
    Selection,
    risk_coverage,
    threshold_for_coverage,
    threshold_for_risk,
)

if TYPE_CHECKING:
    from lightning_rules.combine.cascade import Cascade


@dataclass(frozen=True)
class Decided:
    """What was chosen, and what it was chosen from.

    Attributes:
        thresholds: Of all stages but the last.
        refuse_under: Of the answers' confidence; None without a reject option.
        front: Cost and accuracy of the thresholds worth having; None for screens.
        chosen: Cost and accuracy of the thresholds chosen.
        alone: Cost and accuracy of each stage alone.
        curve: Risk against coverage of the cascade's answers.
        unit: Of costs.
        report: All of it in words.
    """

    thresholds: list[float]
    refuse_under: float | None
    front: Points | None
    chosen: tuple[float, float]
    alone: list[tuple[float, float]]
    curve: RiskCoverage
    unit: str
    report: str


def refuse_contradictions(
    wanted: Mapping[str, float | None], thresholds: Sequence[float] | None, costs: Sequence[float] | str, stages: int
) -> None:
    """Refuse arguments of a cascade that contradict each other.

    Raises:
        ValueError: They do.
    """
    if stages < 2:
        raise ValueError(f"Expected at least 2 stages, cheap first, but got {stages}.")
    if isinstance(costs, str) and costs not in ("time", "parameters"):
        raise ValueError(f"Expected `costs` to be 'time', 'parameters' or a number a stage, but got {costs!r}.")
    for name, given, expected in (("costs", costs, stages), ("thresholds", thresholds, stages - 1)):
        if given is not None and not isinstance(given, str) and len(given) != expected:
            raise ValueError(f"Expected {expected} `{name}` for {stages} stages, but got {len(given)}.")
    for group in (("accuracy", "cost", "recall"), ("risk", "coverage")):
        if sum(wanted[name] is not None for name in group) > 1:
            raise ValueError(f"Expected at most one of {', '.join(f'`{name}`' for name in group)}, but got several.")
    if thresholds is None and all(wanted[name] is None for name in ("accuracy", "cost", "recall")):
        raise ValueError("Expected `accuracy`, `cost` or `recall` to choose thresholds by, or `thresholds`: give one.")
    for name, value in wanted.items():
        if value is not None and not (value > 0 and (value < 1 or name == "cost" or (name, value) == ("coverage", 1))):
            raise ValueError(f"Expected `{name}` to be above 0{' and below 1' * (name != 'cost')}, but got {value}.")


def all_right(values: Tensor, targets: Tensor, task: Task) -> Tensor:
    """Which examples [N] are answered right, in every label."""
    return (predicted(values, task) == targets).reshape(len(targets), -1).all(dim=1)


def decide(cascade: Cascade, values: Tensor, targets: Tensor) -> Decided:
    """Choose thresholds as the cascade is asked to.

    Args:
        cascade: With costs and readings.
        values: What each stage says of each example [S, N, C].
        targets: [N], or [N, L] of labels.
    """
    task = cascade._task
    costs = torch.tensor(cascade.costs, dtype=torch.double)
    right = torch.stack([all_right(each, targets, task) for each in values])
    signal = torch.stack([cascade._signal(each) for each in values])
    chosen_front = None
    if cascade.screening:
        thresholds, lines = _screened(signal, targets, float(cascade.recall or 0))
    else:
        thresholds, chosen_front, lines = _gated(cascade, signal, right, costs)
    stage = stops(signal, thresholds)
    rows = torch.arange(len(targets))
    answers, hit = values[stage, rows], right[stage, rows]
    point = evaluate(signal, right, costs, thresholds[None])
    chosen = (float(point.cost[0]), float(point.accuracy[0]))
    alone = [(float(cost), float(hits.double().mean())) for cost, hits in zip(costs, right, strict=True)]
    confidence = cascade._confidence(answers)
    selection, said = _refused(cascade, confidence, hit)
    lines = [*_stage_lines(stage, alone, thresholds, cascade.cost_unit), _chosen_line(chosen, hit, cascade), *lines]
    lines += [
        f"Stage {number} alone is as accurate and no dearer: take it without the cascade."
        for number, (cost, accuracy) in enumerate(alone)
        if cost <= chosen[0] and accuracy >= chosen[1]
    ]
    return Decided(
        thresholds.tolist(),
        selection.threshold if selection else cascade.refuse_under,
        chosen_front,
        chosen,
        alone,
        risk_coverage(confidence, hit),
        cascade.cost_unit,
        "\n".join([*lines, *said]),
    )


def _gated(cascade: Cascade, signal: Tensor, right: Tensor, costs: Tensor) -> tuple[Tensor, Points, list[str]]:
    if cascade.accuracy is None and cascade.cost is None:
        return torch.tensor(cascade.thresholds, dtype=torch.double), search(signal, right, costs), []
    choice = choose(signal, right, costs, cascade.accuracy, cascade.cost)
    unit = cascade.cost_unit
    lines = [
        f"On new examples expect an accuracy of {choice.fresh_accuracy:.4f}, 95% interval {choice.low:.4f} to "
        f"{choice.high:.4f} (thresholds chosen on four fifths and judged on the last, five times)."
    ]
    if not choice.reached and cascade.accuracy is not None:
        lines.append(f"No thresholds reach the wanted accuracy of {cascade.accuracy}: these are the most accurate.")
    if not choice.reached and cascade.cost is not None:
        lines.append(f"No thresholds keep to the wanted cost of {cascade.cost:g} {unit}: these are the cheapest.")
    return choice.thresholds, choice.front, lines


def _screened(signal: Tensor, targets: Tensor, recall: float) -> tuple[Tensor, list[str]]:
    truth = targets.reshape(-1) == 1
    thresholds, proven = screens(signal, truth, recall)
    lines = []
    if proven < recall:
        lines.append(
            f"{int(truth.sum())} positives are too few to prove a recall of {recall} (they prove {proven:.4f}): "
            "nothing stops before the last stage."
        )
    else:
        lines.append(f"With 95% probability the screens let through at least {proven:.4f} of new positives.")
    for number, (found, precision) in enumerate(passing(signal, truth, thresholds)):
        lines.append(f"After stage {number}: recall {found:.4f}, precision {precision:.4f}.")
    return thresholds, lines


def _refused(cascade: Cascade, confidence: Tensor, right: Tensor) -> tuple[Selection | None, list[str]]:
    """The threshold of the reject option, and what to say about it."""
    if cascade.risk is not None:
        selection = threshold_for_risk(confidence, right, cascade.risk)
        if selection is None:
            refuse_all = Selection(math.inf, 0.0, 0.0, 1.0)
            return refuse_all, [f"No threshold guarantees a risk of {cascade.risk} here: every answer is refused."]
    elif cascade.coverage is not None:
        selection = threshold_for_coverage(confidence, right, cascade.coverage)
    else:
        return None, []
    return selection, [
        f"Refuses answers of a confidence under {selection.threshold:.4f}: {selection.coverage:.1%} are given, "
        f"{selection.risk:.4f} of them wrong, with 95% probability at most {selection.bound:.4f} of new ones."
    ]


def _stage_lines(stage: Tensor, alone: list[tuple[float, float]], thresholds: Tensor, unit: str) -> list[str]:
    lines = [f"Stage  stops here  threshold  accuracy alone  cost alone ({unit})"]
    limits = [*(f"{one:.4f}" for one in thresholds.tolist()), "-"]
    for number, ((cost, accuracy), limit) in enumerate(zip(alone, limits, strict=True)):
        share = float((stage == number).double().mean())
        lines.append(f"{number:<5}  {share:>10.1%}  {limit:>9}  {accuracy:>14.4f}  {cost:.4g}")
    return lines


def _chosen_line(chosen: tuple[float, float], right: Tensor, cascade: Cascade) -> str:
    low, high = wilson(int(right.sum()), len(right))
    dearest = sum(cascade.costs or []) or 1.0
    return (
        f"The cascade: accuracy {chosen[1]:.4f} ({low:.4f} to {high:.4f}) on {len(right)} validation examples, mean "
        f"cost {chosen[0]:.4g} {cascade.cost_unit} an example, {chosen[0] / dearest:.0%} of all stages."
    )


def draw(decided: Decided) -> Any:
    """A figure: cost against accuracy on the left, risk against coverage on the right."""
    from matplotlib.figure import Figure  # slow to import, and needed once

    figure = Figure(figsize=(10, 4), layout="constrained")
    left, right = figure.subplots(1, 2)
    if decided.front is not None:
        left.step(decided.front.cost, decided.front.accuracy, where="post", label="best thresholds")
    for number, (cost, accuracy) in enumerate(decided.alone):
        left.plot(cost, accuracy, "s", color=f"C{number + 2}", label=f"stage {number} alone")
    left.plot(*decided.chosen, "o", color="C1", label="chosen")
    left.set(xlabel=f"mean cost of an example ({decided.unit})", ylabel="accuracy", title="Cost against accuracy")
    left.legend()
    right.plot(decided.curve.coverage, decided.curve.risk, label=f"mean risk {decided.curve.area:.4f}")
    if decided.refuse_under is not None:
        given = decided.curve.thresholds >= decided.refuse_under
        if bool(given.any()):
            place = int(given.sum()) - 1
            right.plot(decided.curve.coverage[place], decided.curve.risk[place], "o", color="C1", label="chosen")
    right.set(xlabel="share answered", ylabel="share wrong among these", title="Risk against coverage", xlim=(0, 1.02))
    right.set_ylim(bottom=0)
    right.legend()
    return figure


def save_curves(decided: Decided, path: Path) -> None:
    """Write :func:`draw`'s figure as a PNG, whole or not at all.

    Raises:
        OSError: The place cannot be written.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f".{path.name}")
    try:
        draw(decided).savefig(beside, format="png", dpi=120)
        beside.replace(path)
    finally:
        beside.unlink(missing_ok=True)
