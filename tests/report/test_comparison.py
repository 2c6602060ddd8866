"""Runs side by side: what differs, and whether it means anything."""

from __future__ import annotations

import pytest

from lightning_rules.report.comparison import UNSET, compared, distinct, settings_of, verdict
from lightning_rules.report.document import Document
from lightning_rules.report.score import Score
from lightning_rules.report.series import Series

CONFIG = "model:\n  lr: {rate}\n  sizes: [1, 2]\ncallbacks:\n- class_path: A\n- class_path: B\nseed: 1\n"


def score(value: float, examples: int | None = 200, name: str = "val/accuracy") -> Score:
    return Score(name, "max" if "accuracy" in name else "min", value, 5, examples)


def run(name: str, rate: float, value: float | None, **metrics: list[float]) -> Document:
    series = {key: Series(list(range(len(values))), values, 1, len(values)) for key, values in metrics.items()}
    record = {"config": CONFIG.format(rate=rate)}
    return Document(run=name, record=record, metrics=series, score=None if value is None else score(value))


def test_side_by_side() -> None:
    runs = [run("a", 0.1, 0.9, loss=[2.0, 1.0], own=[1.0]), run("a", 0.2, 0.5, loss=[2.0, 1.5])]
    found = compared(runs)
    assert found.runs == ("a", "a (2)")
    assert [(row.name, row.values) for row in found.settings] == [("model.lr", ("0.1", "0.2"))]
    assert found.verdict == "val/accuracy: a is best with 0.9, then a (2) with 0.5; that is more than chance."
    (exhibit,) = found.curves
    assert exhibit.title == "loss"
    assert [one.label for one in exhibit.content.curves] == ["a", "a (2)"]


@pytest.mark.parametrize(
    ("scores", "words"),
    [
        ([score(0.9), score(0.89)], "a is best with 0.9, then b with 0.89; that is no more than chance may do."),
        ([score(0.5), score(0.9)], "b is best with 0.9, then a with 0.5; that is more than chance."),
        ([score(0.9), score(0.9)], "a and b are equally good with 0.9."),
        ([score(0.9, None), score(0.5)], "whether that is more than chance cannot be told from one run each."),
        ([score(0.2, name="val/loss"), score(0.4, name="val/loss")], "a is best with 0.2, then b with 0.4"),
        ([score(0.9), None], "no metric in common"),
    ],
)
def test_the_verdict(scores: list[Score | None], words: str) -> None:
    assert words in verdict(["a", "b"], scores)


def test_settings_are_flat() -> None:
    found = settings_of(CONFIG.format(rate=0.1))
    assert found == {
        "model.lr": "0.1",
        "model.sizes": "[1, 2]",
        "callbacks.0.class_path": "A",
        "callbacks.1.class_path": "B",
        "seed": "1",
    }
    assert settings_of(None) == settings_of("a: [") == settings_of("text") == {}


def test_a_key_that_one_run_lacks() -> None:
    first, second = run("a", 0.1, 0.9), Document(run="b", record={"config": "seed: 1\n"})
    rows = {row.name: row.values for row in compared([first, second]).settings}
    assert rows["model.lr"] == ("0.1", UNSET)
    assert "seed" not in rows


def test_one_run_is_not_enough() -> None:
    with pytest.raises(ValueError, match="Expected two runs or more to compare, but got 1"):
        compared([run("a", 0.1, 0.9)])
    assert distinct(["x", "y", "x", "x"]) == ("x", "y", "x (2)", "x (3)")
