"""Exhibits survive the way to a file and back, and hold nothing that JSON does not know."""

from __future__ import annotations

import json
import math

import pytest

from lightning_rules.exhibit import (
    Axis,
    Bars,
    Content,
    Curve,
    Curves,
    Exhibit,
    Listing,
    Matrix,
    Panels,
    ParallelCoordinates,
    Picture,
    Scatter,
    Section,
)

CURVES = Curves([Curve("a", [1.0, 2.0], [0.5, None], "train", faint=True)], "step", "loss", marks=[(1.0, "here")])

CONTENTS: list[Content] = [
    CURVES,
    Curves([Curve("", [1], [2])], "x", "y", log_x=True, log_y=True, band=(1e-4, 1e-2)),
    Curves([Curve("law", [1, 2], [2.0, 1.0], look="dashes", low=[1.0, None], high=[3.0, 2.0])], "x", "y"),
    Panels(["one", "two"], [CURVES, CURVES]),
    Bars(["a", "b"], [1.0, 2.0], "error", ["train", "validation"]),
    Matrix(["a", "b"], [[3, 1], [0, 4]]),
    Listing(["name", "value"], [["x", "1"]]),
    Picture("worst_errors.png", "mistakes"),
    Scatter(
        [Axis("lr", "log", low=1e-5), Axis("kind", "categories", ["a", "b"])],
        [[1e-3, None], [0.0, 1.0]],
        Axis("loss"),
        [0.5, None],
        "high",
        ["stopped", "failed"],
        [0.0, 1.0],
        "early to late",
    ),
    ParallelCoordinates([Axis("units", "whole"), Axis("loss")], [[3.0, 0.5], [4.0, None]]),
]


@pytest.mark.parametrize("content", CONTENTS, ids=lambda content: type(content).__name__)
def test_there_and_back(content: Content) -> None:
    exhibit = Exhibit("name", Section.BIAS_VARIANCE, "Title", "Caption.", content, ["a-rule"])
    assert Exhibit.from_dict(json.loads(json.dumps(exhibit.to_dict(), allow_nan=False))) == exhibit


def test_what_is_not_finite_is_none() -> None:
    content = Curves([Curve("a", [1.0, 2.0, 3.0], [math.nan, math.inf, 1.0])], "x", "y")
    (curve,) = Exhibit.from_dict(Exhibit("n", Section.DATA, "t", "c", content).to_dict()).content.curves  # type: ignore[union-attr]
    assert list(curve.y) == [None, None, 1.0]


def test_a_kind_that_is_not_known() -> None:
    values = Exhibit("n", Section.DATA, "t", "c", Picture("a.png", "a")).to_dict()
    values["content"]["kind"] = "Hologram"
    with pytest.raises(KeyError, match="Hologram"):
        Exhibit.from_dict(values)
