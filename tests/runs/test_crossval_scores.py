import csv
from pathlib import Path
from typing import Any

import pytest

from lightning_recipe.runs import crossval_scores
from lightning_recipe.runs.crossval_scores import (
    CrossValidation,
    compared,
    confusion,
    gather_predictions,
    predictions_of,
    scored,
    told,
    told_difference,
)
from lightning_recipe.runs.fit import Fit

ACCURACIES = (0.9, 0.8, 0.85)
BEST = {"name": "val/accuracy", "value": 0.95, "mode": "max"}


def folds(folder: Path, accuracies: tuple[float, ...] = ACCURACIES, best: Any = BEST, **metrics: float) -> list[Fit]:
    fits = []
    for place, accuracy in enumerate(accuracies):
        fit = Fit(folder, f"repeat_1_fold_{place + 1}", {"held_out": f"{place + 1}/3@42"})
        test = {"test/accuracy": accuracy, "test/loss": 1 - accuracy, **metrics}
        fit.entry.write({"status": "finished", "best": best, "test": test})
        fits.append(fit)
    return fits


def keep(fit: Fit, *rows: str, header: str = "index,true,predicted,p(a),p(b)") -> None:
    path = predictions_of(fit).with_suffix(".csv")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join([header, *rows]) + "\n")


def test_folds_are_judged_by_the_counterpart_of_what_checkpoints_go_by(tmp_path: Path) -> None:
    found = scored(folds(tmp_path), 3, None)
    assert (found.metric, found.mode, found.ratio) == ("test/accuracy", "max", 0.5)
    assert found.metrics == ["test/accuracy", "test/loss"]
    assert found.of("test/accuracy").mean == pytest.approx(0.85)
    other = scored(folds(tmp_path, best={"name": "val_f1", "value": 1.0, "mode": "max"}, test_f1=0.5), 3, None)
    assert (other.metric, other.mode) == ("test_f1", "max")
    chosen = scored(folds(tmp_path), 3, "test/loss")
    assert (chosen.metric, chosen.mode) == ("test/loss", "min")
    by_its_mode = {"name": "val/odd", "value": 1.0, "mode": "min"}
    assert scored(folds(tmp_path, best=by_its_mode, **{"test/odd": 1.0}), 3, None).mode == "min"


@pytest.mark.parametrize(
    ("best", "metric", "said"),
    [
        (None, None, "No metric was named by --metric, and the tests of the folds have logged odd, test/acc"),
        (BEST, "test/f1", "--metric test/f1 was given, and the tests of the folds have logged odd, test/acc"),
        (BEST, "odd", "Whether a high or a low odd is good cannot be told from its name"),
    ],
)
def test_a_metric_that_is_not_known_is_refused(tmp_path: Path, best: Any, metric: str | None, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        scored(folds(tmp_path, best=best, odd=1.0), 3, metric)


def test_scores_are_written_and_read(tmp_path: Path) -> None:
    fits = folds(tmp_path)
    keep(fits[0], "7,a,b,0.1,0.9")
    found = scored(fits, 3, None)
    assert [bool(one.examples) for one in found.splits] == [True, False, False]
    found.write(tmp_path)
    assert crossval_scores.read(tmp_path) == found
    with pytest.raises(
        FileNotFoundError, match=r"There is no finished cross-validation in .*none, for it has no cross"
    ):
        crossval_scores.read(tmp_path / "none")
    (tmp_path / "crossval.json").write_text("{}")
    with pytest.raises(
        ValueError, match=r"crossval.json cannot be read as the scores of a cross-validation \('splits'"
    ):
        crossval_scores.read(tmp_path)


def test_configurations_are_compared_on_the_same_folds(tmp_path: Path) -> None:
    here, there = tmp_path / "here", tmp_path / "there"
    one, other = folds(here), folds(there, (0.88, 0.79, 0.82))
    found = compared(scored(one, 3, None), scored(other, 3, None), there)
    assert found.mean == pytest.approx(0.02)
    assert 0 < found.p_value < 1
    for fit in (*one, *other):
        keep(fit, "7,a,b,0.1,0.9", "8,b,b,0.1,0.9")
    assert compared(scored(one, 3, None), scored(other, 3, None), there).mean == pytest.approx(0.02)
    keep(other[1], "7,a,a,0.9,0.1", "9,b,b,0.1,0.9")
    with pytest.raises(ValueError, match=r"there hold other examples than these \(fold 2/3@42 is the first"):
        compared(scored(one, 3, None), scored(other, 3, None), there)


def test_what_cannot_be_compared_is_refused(tmp_path: Path) -> None:
    mine = scored(folds(tmp_path), 3, None)
    elsewhere = CrossValidation(
        "test/loss", "min", 3, tuple(type(one)(one.name, f"{one.held_out}1", one.scores, "") for one in mine.splits)
    )
    with pytest.raises(ValueError, match=r"other folds \(1/3@421, 2/3@421, 3/3@421, ...\) than these \(1/3@42, 2/3@42"):
        compared(mine, elsewhere, Path("there"))
    without = CrossValidation(
        "test/loss", "min", 3, tuple(type(one)(one.name, one.held_out, {"test/loss": 1.0}, "") for one in mine.splits)
    )
    with pytest.raises(ValueError, match="there has no test/accuracy for all folds"):
        compared(mine, without, Path("there"))


def test_predictions_of_all_folds_become_one_table(tmp_path: Path) -> None:
    fits = folds(tmp_path)
    output = tmp_path / "out_of_fold.csv"
    assert gather_predictions(fits, output) == 0
    assert not output.exists()
    keep(fits[0], "7,a,b,0.1,0.9", "2,a,a,0.8,0.2")
    keep(fits[2], "5,b,b,0.4,0.6")
    assert gather_predictions(fits, output) == 3
    rows = list(csv.DictReader(output.open()))
    assert [(row["repeat"], row["fold"], row["index"], row["p(b)"]) for row in rows] == [
        ("1", "1", "7", "0.9"),
        ("1", "1", "2", "0.2"),
        ("1", "3", "5", "0.6"),
    ]
    assert confusion(output) == (["a", "b"], [[1, 1], [0, 1]])
    for fit in fits:
        keep(fit, "1,0.5,0.4", header="index,true(0),predicted(0)")
    gather_predictions(fits, output)
    assert confusion(output) is None, "values are no classes"


def test_values_for_a_persons_eye() -> None:
    assert told("test/accuracy", 0.98765) == "98.77%"
    assert told("test/loss", 0.98765) == "0.9877"
    assert told_difference("test/accuracy", -0.0123) == "-1.23 points"
    assert told_difference("test/loss", 0.0123) == "+0.0123"
