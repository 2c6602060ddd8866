"""The metric by which the fits of a procedure are compared."""

from typing import Any

import pytest

from lightning_recipe.runs.judged_by import Judge, is_keeper, judged_by

ACCURACY = Judge("val/accuracy", "max")


def settings(*callbacks: dict[str, Any]) -> dict[str, Any]:
    return {"trainer": {"callbacks": list(callbacks) or None}}


def test_it_is_that_of_the_checkpoints_or_the_one_named() -> None:
    keeper = {"class_path": "lightning_rules.GitTagCheckpoint", "init_args": {"monitor": "val/x", "mode": "max"}}
    given = settings({"class_path": "a.B"}, {"class_path": "OnExceptionCheckpoint"}, keeper)
    changed, judge = judged_by(given, None, None)
    assert (changed, judge) == (given, Judge("val/x", "max"))
    changed, judge = judged_by(given, "val/loss", None)
    assert judge == Judge("val/loss", "min")
    assert changed["trainer"]["callbacks"][2]["init_args"] == {"monitor": "val/loss", "mode": "min"}
    assert keeper["init_args"]["monitor"] == "val/x", "what was given stays as it is"
    changed, judge = judged_by(settings(), "val/luck", "max")
    (added,) = changed["trainer"]["callbacks"]
    assert is_keeper(added)
    assert added["init_args"] == {"monitor": "val/luck", "mode": "max"}


def test_what_does_not_tell_is_refused() -> None:
    with pytest.raises(ValueError, match="No checkpoint of these settings is kept by a metric: name the one that fits"):
        judged_by(settings(), None, None)
    with pytest.raises(ValueError, match="Whether high or low is good is not known of val/luck: add --mode max"):
        judged_by(settings(), "val/luck", None)


def test_errors_and_shares() -> None:
    assert ACCURACY.error(0.75) == 0.25
    assert (Judge("val/luck", "max").is_share, ACCURACY.is_share, Judge("val/loss", "min").is_share) == (
        False,
        True,
        False,
    )
    assert (ACCURACY.label, Judge("val/loss", "min").label) == ("1 - val/accuracy", "val/loss")


def test_values_of_records() -> None:
    loss = Judge("val/loss", "min")
    assert loss.value_of({"best": {"name": "val/loss", "value": 0.5}}) == 0.5
    assert loss.value_of({"best": {"name": "val/loss", "value": float("nan")}}) is None
    assert loss.value_of({"best": None}) is None
    assert loss.value_of({"best": {"name": "val/accuracy", "value": 0.5}}) is None
    assert loss.is_better(1.0, None)
    assert loss.is_better(1.0, 2.0)
    assert not ACCURACY.is_better(1.0, 2.0)
