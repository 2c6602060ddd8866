"""The fits of a learning curve, by which metric they are judged, and what is made of their records."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lightning_recipe.runs.fit import Fit, Settings
from lightning_recipe.runs.judged_by import Judge
from lightning_recipe.runs.learning_curve import longer, make_fits, sizes_of, smallest
from lightning_recipe.runs.learning_curve_report import report
from lightning_rules.exhibit import Curves

ACCURACY = Judge("val/accuracy", "max")
Capture = pytest.CaptureFixture[str]


def test_sizes_grow_alike_from_the_smallest_part_to_all() -> None:
    assert sizes_of(1280, 6, 40) == [40, 80, 160, 320, 640, 1280]
    assert sizes_of(100, 2, 4) == [4, 100]
    with pytest.raises(ValueError, match="--sizes 6 was given, but of 8 training examples the smallest part"):
        sizes_of(8, 6, 6)
    with pytest.raises(ValueError, match="--sizes 2 was given, but of 4 training examples"):
        sizes_of(4, 2, 4)


def test_the_smallest_part_has_two_of_the_rarest_class() -> None:
    assert smallest(1280, None) == 40
    assert smallest(3, None) == 2
    assert smallest(1280, np.repeat(np.arange(10), 128)) == 40
    assert smallest(1000, np.repeat([0, 1], [990, 10])) == 200


def settings(**trainer: Any) -> Settings:
    return {"seed_everything": 7, "trainer": {"max_epochs": 10, "check_val_every_n_epoch": 1, **trainer}}


def test_small_parts_are_passed_over_more_often() -> None:
    fits = make_fits(settings(), Path("f"), [40, 160, 1280], 2, "examples")
    assert [fit.name for fit in fits[:3]] == [
        "examples_40_repeat_0", "examples_40_repeat_1", "examples_160_repeat_0"
    ]  # fmt: skip
    assert [fit.settings["subset"] for fit in fits] == ["40@7", "40@8", "160@7", "160@8", "1280@7", "1280@8"]
    assert [fit.settings["seed_everything"] for fit in fits] == [7, 8] * 3
    assert all(fit.settings["measure_training"] for fit in fits)
    trainers = [fit.settings["trainer"] for fit in fits[::2]]
    assert [one["max_epochs"] for one in trainers] == [320, 80, 10]
    assert [one["check_val_every_n_epoch"] for one in trainers] == [32, 8, 1]
    same = make_fits(settings(), Path("f"), [40, 1280], 1, "passes")
    assert [fit.settings["trainer"]["max_epochs"] for fit in same] == [10, 10]


def test_a_length_that_is_known_is_left_alone() -> None:
    assert longer(settings(limit_train_batches=5), 4)["trainer"]["max_epochs"] == 10
    by_steps = longer(settings(max_epochs=-1, max_steps=100), 4)["trainer"]
    assert (by_steps["max_epochs"], by_steps["max_steps"], by_steps["check_val_every_n_epoch"]) == (-1, 100, 4)
    assert longer(settings(min_epochs=2), 4)["trainer"]["min_epochs"] == 8


def finished(errors: dict[int, list[float | None]], training: float | None = 0.001) -> list[Fit]:
    """Fits whose records say so; None for one that has logged nothing finite."""
    fits = make_fits(settings(), Path("curve"), list(errors), len(next(iter(errors.values()))), "examples")
    for fit, error in zip(fits, [error for group in errors.values() for error in group], strict=True):
        best = None if error is None else {"name": "val/accuracy", "value": 1 - error, "mode": "max"}
        record = {"status": "finished", "best": best, "step": 100, "seconds": 2.0}
        if training is not None:
            record["training"] = {"val/accuracy": 1 - training}
        fit.entry.write(record)
    return fits


@pytest.fixture
def errors() -> dict[int, list[float | None]]:
    random = np.random.default_rng(0)
    sizes = (40, 80, 160, 320, 640, 1280)
    return {n: list(random.binomial(400, 0.02 + 2 * n**-0.6, 3) / 400) for n in sizes}


def test_what_the_records_say_is_written_and_printed(errors: dict[int, list[float | None]], capfd: Capture) -> None:
    curve = report(Path("curve"), finished(errors), ACCURACY, 400, 7)
    told = json.loads(Path("curve/learning_curve.json").read_text())
    assert told["law"]["is_falling"] is True
    assert told["law"]["floor_interval"][0] <= told["law"]["floor"] <= told["law"]["floor_interval"][1]
    assert [one["asked"] for one in told["answers"]] == [
        "1% of the error less", "one percentage point less", "half the error"
    ]  # fmt: skip
    lines = Path("curve/learning_curve.csv").read_text().splitlines()
    assert lines[0] == "fit,examples,seed,error,training,step,seconds"
    assert len(lines) == 19
    printed = capfd.readouterr().out
    assert "1 - val/accuracy by the number of training examples:\nexamples  fits" in printed
    assert told["headline"].startswith("Data limits: the error is 0.1% on training")
    assert told["headline"] in printed
    assert all(sentence in printed for sentence in told["says"])
    assert told["says"][-1].startswith("All fits are judged on one validation split")
    assert "No page compares the fits: examples_40_repeat_0, " in printed
    again = report(Path("curve"), finished(errors), ACCURACY, 400, 7)
    assert again.says == curve.says


def test_the_figure_shows_fits_law_extrapolation_and_training(errors: dict[int, list[float | None]]) -> None:
    from lightning_recipe.runs.learning_curve_report import exhibits

    figure, answered, sizes = exhibits(report(Path("curve"), finished(errors), ACCURACY, 400, 7))
    assert isinstance(figure.content, Curves)
    assert [(one.label, one.look, one.role) for one in figure.content.curves] == [
        ("fits, validation", "points", "validation"),
        ("law, 95% interval", "line", "validation"),
        ("extrapolated", "dashes", "validation"),
        ("training", "line", "train"),
    ]
    ahead = figure.content.curves[2]
    assert (ahead.x[0], ahead.x[-1]) == pytest.approx((1280, 4 * 1280))
    assert all(low <= y <= high for low, y, high in zip(ahead.low, ahead.y, ahead.high, strict=True))  # type: ignore[operator]
    assert len(answered.content.rows) == 3  # type: ignore[union-attr]
    assert len(sizes.content.rows) == 6  # type: ignore[union-attr]


def test_fits_without_a_score_are_left_out_and_few_sizes_have_no_law(capfd: Capture) -> None:
    curve = report(Path("curve"), finished({40: [0.2, None], 80: [0.1, 0.1]}, training=None), ACCURACY, 400, 7)
    assert curve.law is None
    assert [point.fit for point in curve.points if point.examples == 40] == ["examples_40_repeat_0"]
    assert "left out is examples_40_repeat_1, which has logged no finite val/accuracy" in capfd.readouterr().err
    assert curve.headline.startswith("No law can be fitted to 2 sizes"), "the training error is not known"
    assert len(curve.says) == 1
    with pytest.raises(ValueError, match="1 of 4 fits have logged a finite val/accuracy in validation: name a metric"):
        report(Path("curve"), finished({40: [None, None], 80: [0.1, None]}), ACCURACY, 400, 7)
