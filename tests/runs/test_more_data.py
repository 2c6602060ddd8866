"""What a learning curve says in words, from numbers alone."""

import math

import pytest

from lightning_recipe.runs.more_data import Answer, answers, limits, more, say, sayings, shown
from lightning_recipe.runs.power_law import PowerLaw, fit_power_law

SIZES = (40, 80, 160, 320, 640, 1280)


def law_of(floor: float, scale: float, exponent: float, noise: float = 0.001) -> PowerLaw:
    return fit_power_law({n: [floor + scale * n**-exponent + noise * k for k in (-1, 0, 1)] for n in SIZES})


@pytest.fixture(scope="module")
def law() -> PowerLaw:
    return law_of(0.02, 2.0, 0.6)


def test_the_three_answers(law: PowerLaw) -> None:
    one, point, half = answers(law, is_share=True)
    now = law.at(1280)
    assert [answer.target for answer in (one, point, half)] == pytest.approx([0.99 * now, now - 0.01, now / 2])
    assert one.total == pytest.approx((2 / (0.99 * now - 0.02)) ** (1 / 0.6), rel=0.1)
    assert 1280 < one.low < one.total < one.high
    assert one.total < point.total
    assert half.total > point.total
    assert [answer.asked for answer in answers(law, is_share=False)] == ["1% of the error less", "half the error"]


def test_answers_in_words(law: PowerLaw) -> None:
    near = Answer("half the error", 0.02, 2280.0, 2000.0, math.inf)
    assert say(near, law, is_share=True) == (
        "half the error (2% instead of 4.73%): 1,000 more training examples (95% interval 720 to out of reach)."
    )
    far = say(Answer("half the error", 0.02, 20_000.0, 3000.0, 1e9), law, is_share=True)
    assert "(95% interval 1,700 to over 1,000 times as many); over more than 10 times the data this is a guess." in far
    out = say(Answer("half the error", 0.02, math.inf, math.inf, math.inf), law, is_share=True)
    assert "not reachable by more of this data, for the floor is estimated at " in out
    assert out.endswith("%).")
    assert say(Answer("x", 0.02, math.inf, 2000.0, math.inf), law, False).endswith(
        "; with luck 720 more training examples are enough."
    )


@pytest.mark.parametrize(
    ("total", "words"),
    [(1281, "1"), (1280.2, "1"), (1317.4, "37"), (2519, "1,200"), (2e6, "over 1,000 times as many")],
)
def test_numbers_of_examples_have_no_more_digits_than_are_known(total: float, words: str) -> None:
    assert more(total, 1280) == words


def test_a_law_says_whether_more_data_helps(law: PowerLaw) -> None:
    said = sayings(law, True, SIZES)
    assert len(said) == 3
    assert said[0].startswith("1% of the error less (")
    flat = law_of(0.1, 0.0, 0.5, noise=0.02)
    (none,) = sayings(flat, True, SIZES)
    assert none.startswith("More data shows no gain: from 40 to 1,280 examples the error does not fall by more than")
    assert sayings(None, True, [10, 20]) == [
        "No law can be fitted to 2 sizes: how much more data would help is not known."
    ]
    steps = fit_power_law({n: [(0.5 if n < 500 else 0.1) + 0.001 * k for k in range(3)] for n in SIZES})
    assert "points lie off a power law by more than chance" in sayings(steps, True, SIZES)[-1]


def test_whether_data_or_capacity_limits(law: PowerLaw) -> None:
    data = limits(0.005, 0.05, law, is_share=True)
    assert data.startswith("Data limits: the error is 0.5% on training and 5% on validation data, and the gap is the")
    assert "twice the data is predicted to take 0.9" in data
    capacity = limits(0.04, 0.05, law, is_share=True)
    assert capacity.startswith("Capacity limits: the error is 4% on training and 5% on validation data")
    assert "a larger network, longer training or better optimisation comes before more data; twice the" in capacity
    flat = law_of(0.1, 0.0, 0.5, noise=0.02)
    assert limits(0.01, 0.1, flat, True).startswith("Neither data nor capacity is seen to limit: ")
    assert limits(0.01, 0.1, None, True).startswith("Data or regularisation limits: ")
    assert limits(0.0, 0.0, law, True).startswith("Nothing is left to gain: ")
    assert limits(0.12, 0.1, None, False).startswith("Capacity limits: the error is 0.12 on training and 0.1 on")


def test_errors_are_shown_as_what_they_are() -> None:
    assert (shown(0.0306, True), shown(1.23456, False)) == ("3.06%", "1.235")
