"""The course of a run as exhibits: the metrics it logged, its learning rates, and what the rules measured by layer."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from lightning_rules.exhibit import Curve, Curves, Exhibit, Listing, Panels, Role, Section
from lightning_rules.report.document import Document
from lightning_rules.report.draw_panels import spans_decades, spread
from lightning_rules.report.series import Series, smoothed
from lightning_rules.report.style import number

STEP = "optimiser step"
METRICS = 16  # that are drawn, each with its splits
SMOOTH = 24  # points, from which on a smoothed curve is drawn over the raw one
WINDOWS = 15  # of smoothing, in a curve
SPLITS: Mapping[str, Role] = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("val", "valid", "validation", "dev"), "validation"),
    "test": "test",
}
ROLES: Sequence[Role] = ("train", "validation", "test", "other")  # in the order of a legend
WORDS = "|".join(SPLITS)
SPLIT = re.compile(rf"(?P<before>{WORDS})[/_.\- ](?P<name>.+)|(?P<first>.+)[/_.\- ](?P<after>{WORDS})")


@dataclass(frozen=True)
class _Kind:
    """One kind of number that the rules measure at each layer."""

    title: str
    unit: str
    says: str
    rules: tuple[str, ...] = ()


LAYERS = {
    "gradient_norm": _Kind(
        "Gradient norms by layer",
        "L2 norm of the gradient",
        "Layers should stay within a few decades of one another: one that falls to zero no longer learns, one that "
        "jumps is about to diverge.",
        ("non-finite-gradients", "vanishing-gradients", "exploding-gradients", "zero-gradients", "always-clipped"),
    ),
    "update_ratio": _Kind(
        "Updates over weights by layer",
        "size of the update / size of the weight",
        "About 10⁻³ a step is usual: far below, a layer hardly moves; far above, it forgets what it has learnt.",
        ("updates-too-large", "updates-too-small", "weights-never-move", "rate-ends-early"),
    ),
    "activation_dead": _Kind(
        "Units that are always off, by layer",
        "share of units",
        "A layer whose share grows towards 1 is dying.",
        ("dying-units",),
    ),
    "activation_saturated": _Kind(
        "Units that are always saturated, by layer",
        "share of units",
        "A layer whose share grows towards 1 passes no gradient back.",
        ("saturated-units",),
    ),
    "activation_rms": _Kind(
        "Size of activations by layer",
        "root mean square",
        "Sizes that grow or shrink from layer to layer, or over the run, make training fragile.",
        ("exploding-activations", "non-finite-activations"),
    ),
}


def exhibits_of(document: Document) -> list[Exhibit]:
    """What the report itself has collected, in the order of the sections; nothing for what was not measured."""
    return [*_rates(document), *_metrics(document), *_layers(document)]


def split_of(name: str) -> tuple[str, Role]:
    """A metric's name without the split that it was measured on, and the split: ``"val/loss"`` is a loss."""
    found = SPLIT.fullmatch(name.lower())
    if not found:
        return name, "other"
    word = found["before"] or found["after"]
    start, end = found.span("name" if found["before"] else "first")
    return name[start:end], SPLITS[word]


def _rates(document: Document) -> list[Exhibit]:
    found = _below("learning_rate/", document.series)
    if not found:
        return []
    alike: dict[tuple[float, ...], list[str]] = {}
    for name, one in found.items():
        alike.setdefault((*one.steps, *one.values), []).append(name)
    curves = [
        Curve(_groups(names) if len(alike) > 1 else "", found[names[0]].steps, found[names[0]].values)
        for names in alike.values()
    ]
    peaks = [max((value for value in one.values if _is_number(value)), default=None) for one in found.values()]
    content = Curves(curves, STEP, "learning rate", log_y=spans_decades(peaks))
    caption = "What the optimiser was really given at each step, with warm-up, decay and what rules have changed."
    return [Exhibit("learning_rate_schedule", Section.LEARNING_RATE, "The schedule as it ran", caption, content,
                    ("schedule-audit",))]  # fmt: skip


def _groups(names: Sequence[str]) -> str:
    """Parameter groups with the same rates share a curve."""
    told = [name.removeprefix("0.") if name.startswith("0.") else f"{name} of another optimiser" for name in names]
    return f"group{'s' * (len(told) > 1)} {', '.join(told)}"


def _metrics(document: Document) -> list[Exhibit]:
    """One figure for each metric, with all splits that it was logged for."""
    groups: dict[str, dict[str, tuple[Role, Series]]] = {}
    for name, series in _without_doubles(document.metrics).items():
        metric, role = split_of(name)
        groups.setdefault(metric, {})[name] = (role, series)
    wanted = document.score.name if document.score else ""
    order = sorted(groups, key=lambda metric: (wanted not in groups[metric], "loss" not in metric))
    drawn = [_metric(document, metric, groups[metric]) for metric in order[:METRICS]]
    return [*drawn, *_listed({name: one for metric in order[METRICS:] for name, (_, one) in groups[metric].items()})]


def _listed(metrics: Mapping[str, Series]) -> list[Exhibit]:
    """Metrics beyond those that are drawn, such as one for each of many classes."""
    if not metrics:
        return []
    rows = [[name, number(one.values[-1]), f"{one.steps[-1]:,}"] for name, one in metrics.items()]
    content = Listing(["metric", "last value", STEP], rows)
    return [Exhibit("more_metrics", Section.CURVES, "More metrics", "As they were logged last.", content)]


def _metric(document: Document, metric: str, group: Mapping[str, tuple[Role, Series]]) -> Exhibit:
    curves = []
    for name, (role, series) in sorted(group.items(), key=lambda item: ROLES.index(item[1][0])):
        known = [(step, value) for step, value in zip(series.steps, series.values, strict=False) if _is_number(value)]
        steps, values = [step for step, _ in known], [value for _, value in known]
        label = name if sum(one == role for one, _ in group.values()) > 1 or role == "other" else role
        if len(values) >= SMOOTH:
            curves.append(Curve("", steps, values, role, faint=True))
            values = smoothed(values, max(2, len(values) // WINDOWS))
        curves.append(Curve(label, steps, values, role))
    every = [value for _, series in group.values() for value in series.values]
    log_y = "loss" in metric.lower() and spans_decades(every)
    content = Curves(curves, STEP, metric, log_y=log_y, marks=_marks(document, group))
    says = (
        "The faint curve is what was logged, the strong one its average over neighbours. "
        if any(c.faint for c in curves)
        else ""
    )
    roles = {role for role, _ in group.values()}
    gap = "A gap that grows between the two is overfitting." if {"train", "validation"} <= roles else ""
    return Exhibit(f"metric_{metric}", Section.CURVES, metric, (says + gap) or "As the run logged it.", content)


def _marks(document: Document, group: Mapping[str, tuple[Role, Series]]) -> Sequence[tuple[float, str]]:
    """The best epoch, in every figure: what a checkpoint of the best weights holds."""
    score = document.score
    if score is None:
        return ()
    series = document.metrics.get(score.name)
    epoch = ""
    if series is not None and series.every == 1 and series.count == document.progress.get("epoch"):
        epoch = f"epoch {series.steps.index(score.step) + 1}, " if score.step in series.steps else ""
    return [(score.step, f"best {score.name}: {epoch}step {score.step:,}")]


def _without_doubles(metrics: Mapping[str, Series]) -> dict[str, Series]:
    """Lightning logs the same value as ``x_step``, ``x_epoch`` and ``x``: one of them is enough."""
    kept = {}
    for name, series in metrics.items():
        base = name.removesuffix("_step").removesuffix("_epoch")
        doubles = base != name and (base in metrics or (name.endswith("_step") and f"{base}_epoch" in metrics))
        if not doubles and any(_is_number(value) for value in series.values):
            kept[name] = series
    return kept


def _layers(document: Document) -> list[Exhibit]:
    made = []
    for name_of, kind in LAYERS.items():
        found = _below(f"{name_of}/", document.series)
        if not found:
            continue
        names = [list(found)[place] for place in spread(len(found))]
        log_y = spans_decades([value for name in names for value in found[name].values])
        curves = [Curve("", found[name].steps, found[name].values, "train") for name in names]
        panels = [Curves([curve], STEP, kind.unit, log_y=log_y) for curve in curves]
        few = len(names) < len(found)
        some = f" {len(names)} of {len(found)} are shown, evenly from the first to the last." if few else ""
        content = Panels([name.removesuffix(".weight") for name in names], panels)
        made.append(Exhibit(name_of, Section.LAYERS, kind.title, kind.says + some, content, kind.rules))
    return made


def _below(prefix: str, series: Mapping[str, Series]) -> dict[str, Series]:
    return {name.removeprefix(prefix): one for name, one in series.items() if name.startswith(prefix) and one.steps}


def _is_number(value: float | None) -> bool:
    return value is not None and math.isfinite(value)
