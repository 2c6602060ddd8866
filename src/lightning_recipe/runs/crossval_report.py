"""The page that a cross-validation ends with."""

from collections.abc import Iterator, Sequence
from pathlib import Path

from lightning_recipe.runs import crossval_scores
from lightning_recipe.runs.closing_page import write_page
from lightning_recipe.runs.crossval_scores import PREDICTIONS, CrossValidation, told, told_difference
from lightning_recipe.runs.fit import Fit
from lightning_recipe.runs.resampling import Resampled
from lightning_rules.exhibit import Bars, Exhibit, Listing, Matrix, Section


def write_report(
    folder: Path, finished: Sequence[Fit], scores: CrossValidation, against: tuple[str, Resampled] | None
) -> Path | None:
    """Write `report.html` into the folder; return where the page is, None where there is none.

    Args:
        folder: The folder of the cross-validation.
        finished: The folds.
        scores: What they scored.
        against: The name of another configuration, and the differences to it on the same folds.
    """
    headline, *says = _says(scores, against)
    return write_page(folder, finished, list(_exhibits(folder, scores, against)), says, headline)


def _says(scores: CrossValidation, against: tuple[str, Resampled] | None) -> Iterator[str]:
    metric, found = scores.metric, scores.of(scores.metric)
    low, high = found.interval
    yield (
        f"Tested on the fold that each has not seen: {metric} {told(metric, found.mean)} on average over {found.count} "
        f"folds, 95% interval {told(metric, low)} to {told(metric, high)} "
        "(corrected for the overlap of the training data: Nadeau and Bengio 2003)."
    )
    if against is not None:
        name, other = against
        low, high = other.interval
        real = "more than chance" if other.p_value < 0.05 else "no more than chance may do"
        yield (
            f"On the same folds {metric} is {told_difference(metric, other.mean)} against {name}, 95% interval "
            f"{told_difference(metric, low)} to {told_difference(metric, high)}, p = {other.p_value:.2g}: {real}."
        )


def _exhibits(folder: Path, scores: CrossValidation, against: tuple[str, Resampled] | None) -> Iterator[Exhibit]:
    rows = [_row(metric, scores.of(metric)) for metric in scores.metrics]
    columns = ["metric of the test", "mean", "95% interval", "standard deviation", "folds"]
    caption = (
        "Each fold is tested by the model that has not seen it. The interval is for the mean, and allows for training "
        "sets that overlap; the standard deviation says how much one fold moves."
    )
    yield _exhibit("crossval_scores", "Scores over the folds", caption, Listing(columns, rows))
    if against is not None:
        name, other = against
        caption = f"Differences to {name} on the same folds, by the corrected resampled t-test; above 0: this has more."
        low, high = (told_difference(scores.metric, value) for value in other.interval)
        row = [scores.metric, told_difference(scores.metric, other.mean), f"{low} to {high}", f"{other.p_value:.2g}"]
        differences = Listing(["metric of the test", "mean difference", "95% interval", "p"], [row])
        yield _exhibit("crossval_difference", f"Against {name}", caption, differences)
    labels = [one.name.replace("_", " ") for one in scores.splits]
    values = [one.scores[scores.metric] for one in scores.splits]
    bars = Bars(labels, values, scores.metric, ["test"] * len(values))
    yield _exhibit("crossval_folds", "Score of each fold", "A fold far from the others is worth a look.", bars)
    table = folder / PREDICTIONS
    found = crossval_scores.confusion(table) if table.is_file() else None
    if found is not None:
        caption = "Each example counts once for each repeat, as answered by the model that has not seen it."
        yield _exhibit("crossval_confusion", "Confusion matrix, out of fold", caption, Matrix(*found))


def _row(metric: str, found: Resampled) -> list[str]:
    low, high = found.interval
    deviation = told_difference(metric, found.deviation).lstrip("+")
    return [
        metric,
        told(metric, found.mean),
        f"{told(metric, low)} to {told(metric, high)}",
        deviation,
        f"{found.count}",
    ]


def _exhibit(name: str, title: str, caption: str, content: Bars | Listing | Matrix) -> Exhibit:
    return Exhibit(name, Section.CROSS_VALIDATION, title, caption, content)
