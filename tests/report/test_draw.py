"""Figures of values that nobody wishes for."""

import io
import math
import re
from xml.etree import ElementTree

import pytest

from lightning_rules.exhibit import (
    Axis,
    Bars,
    Content,
    Curve,
    Curves,
    Listing,
    Matrix,
    Panels,
    ParallelCoordinates,
    Picture,
    Scatter,
)
from lightning_rules.report.draw import figure_of, png_of, svg_of
from lightning_rules.report.draw_panels import spans_decades, spread
from lightning_rules.report.draw_score import score_svg
from lightning_rules.report.scales import scale_of, steps_of
from lightning_rules.report.score import Score
from lightning_rules.report.style import fitted, number, plain, power_of_ten, shortened, width_of

ODD = "$x^2$ <b>&\"'` ${1} \\frac \u0000\u0007\ud800 日本語 🙂 עברית é\u0301 \n end"


def curves(y, **options) -> Curves:
    return Curves([Curve("a", list(range(len(y))), y, "train")], "optimiser step", "loss (nats)", **options)


AWKWARD: dict[str, Content] = {
    "empty": curves([]),
    "no curve": Curves([], "", ""),
    "nothing finite": curves([math.nan, None, math.inf, -math.inf]),
    "one point": curves([1.0]),
    "gaps": curves([1.0, None, 2.0, math.nan, 3.0]),
    "all equal": curves([0.3] * 40),
    "huge": curves([1e300, 1.0, -1e308, 1e-300]),
    "negative on a logarithmic axis": curves([-1.0, 0.0, 3.0, 1e-3], log_y=True, log_x=True),
    "only negative on a logarithmic axis": curves([-1.0, -2.0], log_y=True),
    "marks": curves([1.0, 2.0], marks=[(0.5, ODD), (math.nan, "x"), (None, "y"), (9e9, "far")], band=(0.5, math.inf)),
    "marks on a logarithmic axis": curves([1.0, 2.0, 3.0], log_x=True, marks=[(0.0, "at 0"), (-1.0, "x"), (2.0, "y")]),
    "uneven bands": Curves([Curve("a", [1, 2], [1.0, 2.0], low=[0.5], high=[2.0, None, 1.0])], "x", "y", log_y=True),
    "points": Curves([Curve("a", [1, 1, 2], [1.0, None, 2.0], look="points")] * 2, "x", "y", log_x=True),
    "odd names": Curves([Curve(ODD, [0, 1], [0, 1])] * 20, ODD, ODD),
    "uneven lengths": Curves([Curve("a", [0, 1, 2], [1.0])], "x", "y"),
    "no panels": Panels([], []),
    "odd panels": Panels([ODD] * 3, [curves([1.0, None]), curves([]), curves([math.nan])]),
    "hundred panels": Panels([f"net.block.{one}" for one in range(100)], [curves([1.0, 1e-6], log_y=True)] * 100),
    "bars": Bars([ODD, "b", "c"], [math.nan, -1e12, None], ODD, ["train"]),
    "no bars": Bars([], [], "x"),
    "many bars": Bars([f"class {one}" for one in range(200)], [1.0] * 200, "examples"),
    "no classes": Matrix([], []),
    "odd classes": Matrix([ODD, "b"], [[0, 0], [None, 3]]),
    "uneven matrix": Matrix(["a", "b", "c"], [[1], [1, 2, 3, 4]]),
    "no trials": Scatter([Axis("lr", "log")], [[]], Axis("loss"), []),
    "no options": Scatter([], [], Axis("loss"), [1.0]),
    "odd trials": Scatter(
        [Axis(ODD, "log"), Axis(ODD, "categories", [ODD, "b"]), Axis("whole", "whole"), Axis("c", "categories")],
        [[1e-3, -1.0, None], [0.0, 1.0, 7.0], [2.0, 2.0, 2.0], [0.0, 0.0, math.nan]],
        Axis(ODD, "log"),
        [math.nan, 0.0, 1e300],
        "high",
        ["finished"],
        [math.inf, None],
        ODD,
    ),
    "many options": Scatter([Axis(f"option {one}") for one in range(40)], [[1.0, 2.0]] * 40, Axis("loss"), [1.0, 2.0]),
    "no lines": ParallelCoordinates([Axis("a"), Axis("b")], []),
    "no axes": ParallelCoordinates([], [[1.0]]),
    "one axis": ParallelCoordinates([Axis("a", "log")], [[1.0], [None]]),
    "odd lines": ParallelCoordinates(
        [Axis(ODD, "categories", [ODD] * 30), Axis("b", "log"), Axis(ODD)],
        [[0.0, -1.0], [None, 1.0, math.inf], []],
        "high",
    ),
    "many axes": ParallelCoordinates([Axis(f"option {one}") for one in range(40)], [[1.0] * 40, [2.0] * 40]),
    "many classes": Matrix([f"class {one}" for one in range(120)], [[one] * 120 for one in range(120)]),
}


@pytest.mark.parametrize("name", AWKWARD)
def test_everything_can_be_drawn_and_is_sound_xml(name: str) -> None:
    text = svg_of(AWKWARD[name], "figure-1", ODD.replace("\u0000", "").replace("\u0007", "").replace("\ud800", ""))
    root = ElementTree.fromstring(text)
    assert root.tag == "svg"
    assert root.attrib["role"] == "img"
    assert root.attrib["aria-label"]
    assert not [one.tag for one in root.iter() if one.tag in ("style", "metadata", "script", "b")]
    assert "nan" not in text.lower().replace("finance", "")
    ids = [one.attrib["id"] for one in root.iter() if "id" in one.attrib]
    assert len(ids) == len(set(ids))
    assert all(one.startswith("figure-1-") for one in ids)


def test_words_are_words_letter_by_letter() -> None:
    root = ElementTree.fromstring(svg_of(Bars(["$x^2$ <b>"], [1.0], "a & $b$"), "f", "x"))
    words = [one.text for one in root.iter("text")]
    assert "$x^2$ <b>" in words
    assert "a & $b$" in words


def test_ink_is_that_of_the_page_and_splits_have_its_colours() -> None:
    drawn = [
        Curve(role, [0, 1], [place, place + 1], role) for place, role in enumerate(("train", "validation", "test"))
    ]
    text = svg_of(Curves(drawn, "x", "y"), "f", "x")
    assert "currentColor" in text
    assert "#1b1f24" not in text
    assert all(f"var(--{role})" in text for role in ("train", "validation", "test"))


def test_the_same_data_give_the_same_text_whatever_matplotlib_is_set_to() -> None:
    import matplotlib as mpl

    content = Curves([Curve("a", [0, 1, 2], [1.0, None, 3.0])], "x", "y", marks=[(1.0, "here")])
    before = svg_of(content, "f", "x")
    with mpl.rc_context({"text.usetex": True, "font.size": 30, "axes.facecolor": "black", "svg.fonttype": "path"}):
        assert svg_of(content, "f", "x") == before
        assert mpl.rcParams["font.size"] == 30


def test_files_are_png_on_white() -> None:
    from PIL import Image

    with Image.open(io.BytesIO(png_of(AWKWARD["gaps"]))) as image:
        assert image.convert("RGB").getpixel((0, 0)) == (255, 255, 255)
    assert figure_of(AWKWARD["gaps"]).axes  # for loggers


@pytest.mark.parametrize("content", [Listing(["a"], [["1"]]), Picture("a.png", "a")])
def test_tables_and_pictures_are_not_drawn(content: Content) -> None:
    with pytest.raises(ValueError, match="shown as it is"):
        figure_of(content)


def test_of_a_hundred_layers_24_are_drawn_with_the_first_and_the_last() -> None:
    words = {one.text for one in ElementTree.fromstring(svg_of(AWKWARD["hundred panels"], "f", "x")).iter("text")}
    shown = {one for one in words if (one or "").startswith("net.block.")}
    assert len(shown) == 24
    assert {"net.block.0", "net.block.99"} <= shown
    assert spread(3) == [0, 1, 2]


@pytest.mark.parametrize(
    ("values", "wanted"),
    [
        ([1, 1e-4], True),
        ([1, 0.5], False),
        ([-1, 1e-4, 1], False),
        ([], False),
        ([0.0, 1e-4, 1, None], True),
        ([0, 0, 0, 1, 1e-4], False),
    ],
)
def test_a_logarithmic_axis_where_values_span_decades(values: list, wanted: bool) -> None:
    assert spans_decades(values) is wanted


def test_a_search_that_explodes_shows_where_it_fell() -> None:
    rates = [10 ** (place / 10 - 7) for place in range(80)]
    losses = [2.0 - 1.2 * (place > 40) + 10.0 ** (place - 70) * (place > 66) for place in range(80)]
    text = svg_of(Curves([Curve("loss", rates, losses, "train")], "learning rate", "loss", log_x=True), "f", "x")
    assert "goes on to 1×10⁹" in text.replace(" ", " ")


def test_what_stays_the_same_does_not_look_like_a_change() -> None:
    words = [one.text for one in ElementTree.fromstring(svg_of(curves([0.001] * 9), "f", "x")).iter("text")]
    assert {"0", "0.001", "0.002"} <= set(words)


def test_names_lose_what_they_begin_with_alike() -> None:
    names = ["total", *(f"network.backbone.encoder.layers.{one}" for one in range(9))]
    root = ElementTree.fromstring(svg_of(Panels(names, [curves([1.0, 2.0])] * 10), "f", "x"))
    assert {"total", "encoder.layers.3"} & {one.text for one in root.iter("text")} == {"total", "encoder.layers.3"}


def test_names_too_long_for_a_panel_stay_apart() -> None:
    names = ["backbone.fc", *(f"backbone.layer{stage}.0.downsample.1" for stage in range(1, 8))]
    root = ElementTree.fromstring(svg_of(Panels(names, [curves([1.0, 2.0])] * 8), "f", "x"))
    titles = [one.text or "" for one in root.iter("text") if "layer" in (one.text or "")]
    assert [title[:8] for title in titles] == [f"layer{stage}.0" for stage in range(1, 8)]
    assert all("…" in title for title in titles)


def test_score_beside_what_it_is_held_against() -> None:
    words = score_svg(Score("val/accuracy", "max", 0.98, 10, 359, 0.96, 0.99, 0.1, 0.995, 0.97), "x")
    assert all(one in words for one in ("98.0%", "99.5%", "97.0%", "10.0%, off the scale"))
    assert "off the scale" not in score_svg(Score("val/accuracy", "max", 0.4, 10, majority=0.1, known=0.9), "x")
    assert "<svg" in score_svg(Score("val/loss", "min", math.nan, 10, low=None), "x")


@pytest.mark.parametrize(
    ("value", "text"),
    [(0.1, "0.1"), (1200.0, "1,200"), (1234.5, "1,234"), (-0.5, "−0.5"), (1.5e-7, "1.5×10⁻⁷"), (0.00098, "0.00098"),
     (2e9, "2×10⁹"), (0.0, "0"), (None, "none"), (math.nan, "none"), (math.inf, "∞")],
)  # fmt: skip
def test_numbers_in_few_letters(value: float | None, text: str) -> None:
    assert number(value) == text


def test_ticks_and_long_names() -> None:
    assert [power_of_ten(10.0**power) for power in (-5, 0, 4)] == ["10⁻⁵", "1", "10⁴"]
    assert shortened("backbone.layer1.0.conv1", 12) == "bac….0.conv1"
    assert plain("a\nb") == "a b"


@pytest.mark.parametrize("text", ["$" * 500, "日本語" * 100, "x", "", ODD * 5])
def test_words_fit_whatever_they_are_made_of(text: str) -> None:
    assert width_of(fitted(text, 1.0).replace("\\$", "")) <= 1.0


def test_what_is_predicted_is_dashed_inside_its_band_and_points_are_not_joined() -> None:
    law = Curve("law", [1.0, 2.0], [0.5, 0.4], "validation", look="dashes", low=[0.4, 0.2], high=[0.6, 0.7])
    fits = Curve("fits", [1.0, 1.0], [0.4, 0.6], "validation", look="points")
    axes = figure_of(Curves([law, fits], "examples", "error", log_x=True, log_y=True)).axes[0]
    line, points = axes.lines
    assert line.get_linestyle() == "--"
    assert points.get_linestyle() == "None"
    assert points.get_marker() == "o"
    (band,) = axes.collections
    corners = band.get_paths()[0].vertices
    assert (corners[:, 1].min(), corners[:, 1].max()) == (0.2, 0.7)


def test_a_logarithmic_axis_over_less_than_a_decade_has_ticks() -> None:
    axes = figure_of(curves([0.021, 0.045, 0.08], log_y=True)).axes[0]
    low, high = axes.get_ylim()
    assert sum(low <= tick <= high for tick in axes.get_yticks()) >= 3


def test_trials_that_failed_were_stopped_or_are_the_best_look_different() -> None:
    content = Scatter([Axis("lr", "log")], [[1e-3, 1e-2, 1e-1]], Axis("loss"), [0.1, 0.2, None],
                      ends=["stopped", "finished", "failed"])  # fmt: skip
    words = [one.text for one in ElementTree.fromstring(svg_of(content, "f", "x")).iter("text")]
    assert {"finished", "ended early", "failed (on the axis)", "best", "lr", "loss"} <= set(words)
    alone = Scatter([Axis("lr", "log")], [[1e-3, 1e-2]], Axis("loss"), [0.1, 0.2], ends=["finished"] * 2)
    words = [one.text for one in ElementTree.fromstring(svg_of(alone, "f", "x")).iter("text")]
    assert "finished" not in words


def test_the_best_line_is_of_ink_and_all_colours_are_those_of_the_page() -> None:
    lines = [[float(one), float(one % 7)] for one in range(20)]
    text = svg_of(ParallelCoordinates([Axis("a"), Axis("loss")], lines), "f", "x")
    assert all(f"var(--ramp-{place})" in text for place in range(5))
    assert "var(--card)" in text
    assert not re.findall(r"#[0-9a-f]{6}", text)


def test_of_forty_axes_the_last_is_shown() -> None:
    words = {one.text for one in ElementTree.fromstring(svg_of(AWKWARD["many axes"], "f", "x")).iter("text")}
    assert {"option 0", "option 10", "option 39"} <= words
    assert "option 11" not in words


def test_axes_go_as_far_as_was_searched_and_count_in_whole_numbers() -> None:
    rate = scale_of(Axis("lr", "log", low=1e-5, high=1e-1), [1e-3])
    assert rate.shares([1e-5, 1e-3, 1e-1, 0.0]) == pytest.approx([0.0, 0.5, 1.0, math.nan], nan_ok=True)
    assert [words for _, words in rate.ticks(6)][:2] == ["10⁻⁵", "10⁻⁴"]
    assert [words for _, words in scale_of(Axis("layers", "whole"), [1, 2]).ticks(5)] == ["1", "2"]
    assert [words for _, words in scale_of(Axis("kind", "categories", ["a", "b"]), []).ticks(5)] == ["a", "b"]
    assert steps_of([1.0, 1e9, 2.0, None, 3.0], 5) == [0, 3, 1, 0, 2]
    assert steps_of([7.0], 5) == [4]


def test_what_is_counted_has_whole_ticks() -> None:
    def ticks(x: list[float]) -> list[float]:
        curve = Curve("loss", x, [value / 10 for value in x])
        return list(figure_of(Curves([curve], "trial", "loss")).axes[0].get_xticks())

    assert all(tick == int(tick) for tick in ticks([1, 2, 3, 4, 5, 6]))
    assert any(tick != int(tick) for tick in ticks([0.5, 1, 1.5, 2.5]))
