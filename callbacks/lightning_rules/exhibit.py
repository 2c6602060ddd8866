"""What a rule shows a person, as plain data: whoever draws it decides how it looks.

A rule returns exhibits from :meth:`lightning_rules.Rule.exhibits`; the report card draws them in one style, for the
page, for files and for loggers.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from typing import Any, Literal

Role = Literal["train", "validation", "test", "other"]


class Section(StrEnum):
    """The parts of a report, in the order of a project's life."""

    DATA = "data"
    INITIALISATION = "initialisation"
    LEARNING_RATE = "learning rate"
    CURVES = "curves"
    LAYERS = "layers"
    PREDICTIONS = "predictions"
    ERRORS = "errors"
    CALIBRATION = "calibration"
    BIAS_VARIANCE = "bias and variance"
    ENSEMBLE = "ensemble"
    CROSS_VALIDATION = "cross-validation"
    DATA_NEEDED = "how much data"
    SEARCH = "search"


@dataclass(frozen=True)
class Curve:
    """Values over something.

    Attributes:
        label: For the legend; "" for none.
        x: Where.
        y: What; None or NaN where there is no value.
        role: Which data it was measured on: each has its colour throughout a report.
        faint: Whether it is what a smoothed curve was made of.
        look: A line; dashes, for what is predicted and not measured; or points alone.
        low: Lower ends of the intervals of the values, for a band around the curve; empty for none.
        high: Upper ends.
    """

    label: str
    x: Sequence[float]
    y: Sequence[float | None]
    role: Role = "other"
    faint: bool = False
    look: Literal["line", "dashes", "points"] = "line"
    low: Sequence[float | None] = field(default_factory=list)
    high: Sequence[float | None] = field(default_factory=list)


@dataclass(frozen=True)
class Curves:
    """Curves on the same axes.

    Attributes:
        curves: At least one.
        x_label: With its unit: ``"optimiser step"``.
        y_label: With its unit: ``"loss (nats)"``.
        log_x: Whether the axis is logarithmic.
        log_y: Whether the axis is logarithmic.
        marks: Places on the x axis, each with a few words.
        band: A lower and an upper bound between which values are usual; None for none.
    """

    curves: Sequence[Curve]
    x_label: str
    y_label: str
    log_x: bool = False
    log_y: bool = False
    marks: Sequence[tuple[float, str]] = field(default_factory=list)
    band: tuple[float, float] | None = None


@dataclass(frozen=True)
class Panels:
    """Small multiples: the same axes for each of many things.

    Attributes:
        titles: One a panel.
        panels: With the same units.
    """

    titles: Sequence[str]
    panels: Sequence[Curves]


@dataclass(frozen=True)
class Bars:
    """One number for each of a few things.

    Attributes:
        labels: Of the bars.
        values: Their lengths.
        x_label: With its unit.
        roles: Which data each was measured on; empty where that does not matter.
    """

    labels: Sequence[str]
    values: Sequence[float]
    x_label: str
    roles: Sequence[Role] = field(default_factory=list)


@dataclass(frozen=True)
class Matrix:
    """How often each of the right classes (rows) was answered as each class (columns).

    Attributes:
        labels: Of the classes.
        counts: ``[classes][classes]``.
    """

    labels: Sequence[str]
    counts: Sequence[Sequence[int]]


@dataclass(frozen=True)
class Listing:
    """A table of words and numbers.

    Attributes:
        columns: Their titles.
        rows: As texts, one for each column.
    """

    columns: Sequence[str]
    rows: Sequence[Sequence[str]]


@dataclass(frozen=True)
class Picture:
    """A picture that was drawn already.

    Attributes:
        file: Its name in the folder ``rules`` of the run: ``"worst_errors.png"``.
        says: What is to be seen, for those who do not see it.
    """

    file: str
    says: str


@dataclass(frozen=True)
class Axis:
    """Where values lie.

    Attributes:
        label: With its unit: ``"learning rate"``.
        scale: Of the values: "whole" for counts; of categories the value is a place in ``categories``.
        categories: Their names.
        low: Where the axis begins; None for the least of its values.
        high: Where it ends.
    """

    label: str
    scale: Literal["linear", "whole", "log", "categories"] = "linear"
    categories: Sequence[str] = field(default_factory=list)
    low: float | None = None
    high: float | None = None


End = Literal["finished", "stopped", "failed"]


@dataclass(frozen=True)
class Scatter:
    """Points of several trials: the same quantity over each of several others, in a panel each.

    Attributes:
        x_axes: Of the panels.
        x: ``[panels][trials]``; None where a trial has no value.
        y_axis: Shared by all panels.
        y: ``[trials]``; None where nothing was measured.
        better: Which end of the y axis is the good one; the best trial is marked.
        ends: How each trial ended; empty where all are finished.
        colours: ``[trials]``, from pale to strong; empty where that says nothing.
        colour_label: What is paler and what is stronger: ``"pale: early trials, strong: late ones"``.
    """

    x_axes: Sequence[Axis]
    x: Sequence[Sequence[float | None]]
    y_axis: Axis
    y: Sequence[float | None]
    better: Literal["low", "high"] = "low"
    ends: Sequence[End] = field(default_factory=list)
    colours: Sequence[float | None] = field(default_factory=list)
    colour_label: str = ""


@dataclass(frozen=True)
class ParallelCoordinates:
    """A line for each of several trials, through an axis for each quantity; the last is what came of it.

    Attributes:
        axes: From left to right, at least two.
        lines: ``[trials][axes]``; None where a trial has no value.
        better: Which end of the last axis is the good one: lines that end there are drawn the strongest.
    """

    axes: Sequence[Axis]
    lines: Sequence[Sequence[float | None]]
    better: Literal["low", "high"] = "low"


Content = Curves | Panels | Bars | Matrix | Listing | Picture | Scatter | ParallelCoordinates
KINDS: Mapping[str, type[Any]] = {
    kind.__name__: kind for kind in (Curves, Panels, Bars, Matrix, Listing, Picture, Scatter, ParallelCoordinates)
}


@dataclass(frozen=True)
class Exhibit:
    """One figure or table of a report.

    Attributes:
        name: Of its file, in snake case, distinct within a report: ``"gradient_norm"``.
        section: Where it stands.
        title: What is shown, in a few words.
        caption: How to read it, one sentence.
        content: The data.
        rules: Names of the findings that it is to show with.
    """

    name: str
    section: Section
    title: str
    caption: str
    content: Content
    rules: Sequence[str] = field(default_factory=list)

    def to_dict(self) -> dict[str, Any]:
        """As plain values that any JSON reader takes; what is not finite becomes None."""
        values = asdict(self)
        values["section"] = str(self.section)
        values["content"] = {"kind": type(self.content).__name__, **values["content"]}
        plain: dict[str, Any] = _plain(values)
        return plain

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Exhibit:
        """The inverse of :meth:`to_dict`.

        Raises:
            KeyError: The content is of a kind that is not known.
        """
        content = dict(values["content"])
        kind = content.pop("kind")
        if kind == "Curves":
            made: Content = _curves(content)
        elif kind == "Panels":
            made = Panels(content["titles"], [_curves(one) for one in content["panels"]])
        elif kind == "Scatter":
            axes = {"x_axes": [Axis(**one) for one in content["x_axes"]], "y_axis": Axis(**content["y_axis"])}
            made = Scatter(**{**content, **axes})
        elif kind == "ParallelCoordinates":
            made = ParallelCoordinates(**{**content, "axes": [Axis(**one) for one in content["axes"]]})
        else:
            made = KINDS[kind](**content)
        return cls(**{**values, "section": Section(values["section"]), "content": made})


def _curves(values: Mapping[str, Any]) -> Curves:
    marks = [(place, words) for place, words in values["marks"]]
    band = None if values["band"] is None else (values["band"][0], values["band"][1])
    return Curves(**{**values, "curves": [Curve(**one) for one in values["curves"]], "marks": marks, "band": band})


def _plain(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {key: _plain(one) for key, one in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(one) for one in value]
    return value
