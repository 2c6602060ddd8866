"""Two ranks report on a validation what one process does, and rank 0 draws it."""

from __future__ import annotations

from typing import Any

import pytest

ALIKE = ("worst-errors", "selective-prediction")


def test_ranks_agree(results: Any) -> None:
    _, first, second = results
    for scenario, seen in first.items():
        for key in ("found", "evidence", "errors"):
            assert seen[key] == second[scenario][key], (scenario, key)


@pytest.mark.parametrize("scenario", ["one_epoch", "four_epochs"])
def test_as_in_one_process(results: Any, scenario: str) -> None:
    one, first, _ = results
    alone, two = one[scenario], first[scenario]
    for name in ALIKE:
        ours, theirs = two["evidence"][name], alone["evidence"][name]
        assert ours.keys() == theirs.keys()
        for key, value in theirs.items():
            assert ours[key] == (value if isinstance(value, str) else pytest.approx(value, rel=1e-5)), key
    assert two["errors"]["examples"] == 64
    for key in ("wrong", "false_positives", "false_negatives", "members"):
        assert two["errors"][key] == alone["errors"][key]
    assert [pair["count"] for pair in two["errors"]["pairs"]] == [pair["count"] for pair in alone["errors"]["pairs"]]
    assert [one["index"] for one in two["errors"]["mistakes"]] == [one["index"] for one in alone["errors"]["mistakes"]]


def test_what_is_said_and_drawn(results: Any) -> None:
    pictures = ["input_gallery.png", "selective_prediction.png", "worst_errors.png"]
    for run in results[:2]:  # the other rank does not wait for the pictures
        assert run["one_epoch"]["drawn"][:3] == pictures
    for run in results:
        (brief,) = run["one_epoch"]["found"]["prediction-dynamics"]
        assert brief.startswith("Too little was seen to judge")
        (course,) = run["four_epochs"]["found"]["prediction-dynamics"]
        assert course.startswith("Examples followed over 4 validations: ")
        assert "enters the network" in run["four_epochs"]["found"]["input-gallery"][0]
