"""What a learning curve ends with: its numbers in files, a page, and a summary on the terminal."""

import csv
import json
import math
import statistics
import sys
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from lightning_recipe import summary
from lightning_recipe.runs.closing_page import write_page
from lightning_recipe.runs.fit import Fit
from lightning_recipe.runs.judged_by import Judge
from lightning_recipe.runs.more_data import Answer, answers, limits, more, sayings, shown, with_interval
from lightning_recipe.runs.power_law import PARAMETERS, PowerLaw, fit_power_law
from lightning_recipe.whole_file import whole_file
from lightning_rules.exhibit import Curve, Curves, Exhibit, Listing, Section

FILE = "learning_curve"
AHEAD = 4.0  # times the data: so far the law is drawn
CHOSEN = (
    "All fits are judged on one validation split, whose own chance the intervals do not hold; the best epoch of each "
    "is chosen on it, which is a little kind to all sizes alike."
)


@dataclass(frozen=True)
class Point:
    """One fit of a learning curve.

    Args:
        fit: What it is called.
        examples: Number of training examples.
        seed: Of the fit and of its part of the data.
        error: At its best checkpoint, on the validation split.
        training: Of that checkpoint on its own training examples; None where that is not known.
        step: Optimiser steps in all.
        seconds: Time that it took.
    """

    fit: str
    examples: int
    seed: int
    error: float
    training: float | None
    step: int
    seconds: float


@dataclass(frozen=True)
class LearningCurve:
    """What the fits say.

    Args:
        judge: The metric.
        points: One for each fit.
        law: None where there are too few sizes for one.
    """

    judge: Judge
    points: list[Point]
    law: PowerLaw | None

    @property
    def groups(self) -> dict[int, list[Point]]:
        """The fits of each size, ascending."""
        found: dict[int, list[Point]] = defaultdict(list)
        for point in sorted(self.points, key=lambda one: one.examples):
            found[point.examples].append(point)
        return dict(found)

    @property
    def headline(self) -> str:
        """What limits, as far as that is known; else the first that can be said."""
        return self._limits or self._of_more_data[0]

    @property
    def says(self) -> list[str]:
        """What comes of it besides, in sentences."""
        return [*(self._of_more_data if self._limits else self._of_more_data[1:]), CHOSEN]

    @property
    def _of_more_data(self) -> list[str]:
        return sayings(self.law, self.judge.is_share, list(self.groups))

    @property
    def _limits(self) -> str:
        last = self.groups[max(self.groups)]
        training = _mean([one.training for one in last if one.training is not None])
        if training is None:
            return ""
        return limits(training, statistics.fmean(one.error for one in last), self.law, self.judge.is_share)


def report(folder: Path, fits: Sequence[Fit], judge: Judge, validation: int | None, seed: int) -> LearningCurve:
    """Write the numbers of a learning curve and its page, and print what comes of it.

    Args:
        folder: The folder of the procedure.
        fits: The finished fits.
        judge: The metric.
        validation: Number of validation examples where errors are shares of them; None else.
        seed: Of the resampling.

    Raises:
        ValueError: If fewer than two fits have a score.
    """
    points = [point for fit in fits if (point := point_of(fit, judge)) is not None]
    if len(points) < 2:
        raise ValueError(
            f"{len(points)} of {len(fits)} fits have logged a finite {judge.metric} in validation: name a metric that "
            "is logged with --metric."
        )
    curve = LearningCurve(judge, points, law_of(points, validation, seed))
    write_numbers(folder, curve)
    page = write_page(folder, fits, exhibits(curve), curve.says, curve.headline)
    print_end(folder, curve, page)
    return curve


def point_of(fit: Fit, judge: Judge) -> Point | None:
    """What a finished fit says; None, and a warning, where it has no score."""
    record = fit.entry.read()
    value = judge.value_of(record)
    if value is None:
        print(f"warning: left out is {fit.name}, which has logged no finite {judge.metric}.", file=sys.stderr)
        return None
    training = record.get("training", {}).get(judge.metric)
    return Point(
        fit=fit.name,
        examples=int(fit.settings["subset"].partition("@")[0]),
        seed=fit.settings["seed_everything"],
        error=judge.error(value),
        training=None if training is None or not math.isfinite(training) else judge.error(training),
        step=record["step"],
        seconds=record["seconds"],
    )


def law_of(points: Sequence[Point], validation: int | None, seed: int) -> PowerLaw | None:
    """The law of the sizes that have two fits or more; None where these are too few."""
    errors: dict[int, list[float]] = defaultdict(list)
    for one in points:
        errors[one.examples].append(max(0.0, one.error))
    known = {size: found for size, found in errors.items() if len(found) > 1}
    return fit_power_law(known, validation, seed) if len(known) > PARAMETERS else None


def write_numbers(folder: Path, curve: LearningCurve) -> None:
    """Write `learning_curve.csv`, a line for each fit, and `learning_curve.json`, what was made of them."""
    with whole_file(folder / f"{FILE}.csv") as file:
        rows = csv.DictWriter(file, [one.name for one in fields(Point)], lineterminator="\n")
        rows.writeheader()
        rows.writerows(asdict(point) for point in curve.points)
    with whole_file(folder / f"{FILE}.json") as file:
        json.dump(numbers(curve), file, indent=1)


def numbers(curve: LearningCurve) -> dict[str, Any]:
    """A learning curve as plain values; what is infinite is null."""
    law = curve.law
    made: dict[str, Any] = {"metric": curve.judge.metric, "mode": curve.judge.mode, "law": None}
    made |= {"headline": curve.headline, "says": curve.says}
    made["points"] = [asdict(point) for point in curve.points]
    if law is None:
        return made
    gain, low, high = law.gain_of_doubling()
    made["law"] = {
        "floor": law.floor,
        "floor_interval": law.floor_between(),
        "scale": law.scale,
        "exponent": law.exponent,
        "is_falling": law.is_falling,
        "misfit": law.misfit,
        "gain_of_doubling": {"value": gain, "interval": (low, high)},
    }
    made["answers"] = [
        {name: _finite(value) for name, value in asdict(one).items()} for one in answers(law, curve.judge.is_share)
    ]
    return made


def _finite(value: Any) -> Any:
    return None if isinstance(value, float) and math.isinf(value) else value


def exhibits(curve: LearningCurve) -> list[Exhibit]:
    """The curve, the answers and the sizes, for the page."""
    law = curve.law
    made = [_figure(curve)]
    if law is not None and law.is_falling:
        rows = [_answer_row(one, law, curve.judge.is_share) for one in answers(law, curve.judge.is_share)]
        columns = ["For", "Error", "More training examples", "95% interval"]
        caption = "By the law that was fitted to the fits. The intervals follow from how these scatter."
        made.append(
            Exhibit("data_needed", Section.DATA_NEEDED, "More data for less error", caption, Listing(columns, rows))
        )
    listing = Listing(["Training examples", "Fits", "Error", "From", "To", "Training error", "Steps"], size_rows(curve))
    caption = f"Means of {curve.judge.label} over the fits of each size, and the best and worst of them."
    made.append(Exhibit("sizes", Section.DATA_NEEDED, "Errors by the number of training examples", caption, listing))
    return made


def _answer_row(answer: Answer, law: PowerLaw, is_share: bool) -> list[str]:
    most = law.sizes[-1]
    target = shown(answer.target, is_share)
    if math.isinf(answer.total):
        return [answer.asked, target, "not reachable", f"the floor is {shown(law.floor, is_share)}"]
    ends = f"{more(answer.low, most)} to {more(answer.high, most)}"
    return [answer.asked, target, more(answer.total, most), ends]


def size_rows(curve: LearningCurve) -> list[list[str]]:
    """A row of texts for each size."""
    share = curve.judge.is_share
    rows = []
    for size, points in curve.groups.items():
        errors = [one.error for one in points]
        training = _mean([one.training for one in points if one.training is not None])
        ends = [shown(min(errors), share), shown(max(errors), share)]
        told = "" if training is None else shown(training, share)
        steps = f"{round(statistics.fmean(one.step for one in points)):,}"
        rows.append([f"{size:,}", str(len(points)), shown(statistics.fmean(errors), share), *ends, told, steps])
    return rows


def _figure(curve: LearningCurve) -> Exhibit:
    import numpy as np

    groups, law, most = curve.groups, curve.law, max(curve.groups)
    fits = [(float(one.examples), one.error) for one in curve.points]
    drawn = [Curve("fits, validation", *_apart(fits), "validation", look="points")]
    if law is not None and law.is_falling:
        drawn.append(_law_curve(law, "law, 95% interval", np.geomspace(min(groups), most, 40)))
        drawn.append(_law_curve(law, "extrapolated", np.geomspace(most, AHEAD * most, 20), "dashes"))
    means = {
        size: _mean([one.training for one in points if one.training is not None]) for size, points in groups.items()
    }
    own = [(float(size), mean) for size, mean in means.items() if mean is not None]
    if any(mean > 0 for _, mean in own):
        drawn.append(Curve("training", *_apart(own), "train"))
    content = Curves(drawn, "training examples", curve.judge.label, log_x=True, log_y=True,
                     marks=[(float(most), f"all: {most:,}")])  # fmt: skip
    caption = (
        "Each point is a fit on a part of the training data; on these axes a power law without a floor is straight."
    )
    if own and not all(mean > 0 for _, mean in own):
        caption += " Where the training error is 0 it is not on the axis."
    return Exhibit("learning_curve", Section.DATA_NEEDED, "Error by the number of training examples", caption, content)


def _apart(pairs: Sequence[tuple[float, float]]) -> tuple[list[float], list[float | None]]:
    return [x for x, _ in pairs], [y for _, y in pairs]


def _law_curve(law: PowerLaw, label: str, along: Any, look: Any = "line") -> Curve:
    x = [float(n) for n in along]
    ends = [law.between(n) for n in x]
    return Curve(label, x, [law.at(n) for n in x], "validation", look=look, low=[low for low, _ in ends],
                 high=[high for _, high in ends])  # fmt: skip


def _mean(values: Sequence[float]) -> float | None:
    return statistics.fmean(values) if values else None


def print_end(folder: Path, curve: LearningCurve, page: Path | None) -> None:
    """What was measured, what comes of it, and where all of it is."""
    header = ["examples", "fits", "error", "from", "to", "training", "steps"]
    rows = [header, *size_rows(curve)]
    widths = [max(len(row[place]) for row in rows) for place in range(len(header))]
    print(f"\n{curve.judge.label} by the number of training examples:")
    for row in rows:
        print("  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True)).rstrip())
    law, share = curve.law, curve.judge.is_share
    if law is not None and law.is_falling:
        floor = with_interval(law.floor, law.floor_between(), share)
        print(f"Law: {law.floor:.4g} + {law.scale:.3g} * n^-{law.exponent:.3g}; floor {floor}")
    print("", curve.headline, *curve.says, "", sep="\n")
    places: Mapping[str, Path | None] = {
        "Numbers": folder / f"{FILE}.json",
        "Fits": folder / f"{FILE}.csv",
        "Report": page,
    }
    print(summary.table([(name, summary.shown_path(path)) for name, path in places.items() if path is not None]))
