"""activation-health: the judgements on numbers, and the windows they come from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch

from lightning_rules import Severity
from lightning_rules.activation_functions import RELU, TANH
from lightning_rules.watch import layer_sizes, output_ranges, stuck_units
from lightning_rules.watch.activation_health import Seen, judge
from lightning_rules.watch.layer_sizes import LayerSizes, SizesSeen
from lightning_rules.watch.output_ranges import OutputRanges
from lightning_rules.watch.step_watch import Place
from lightning_rules.watch.stuck_units import UnitsSeen
from lightning_rules.watch.unit_windows import History, Tally, is_hidden, restored, saved

ALIVE = UnitsSeen(Place("net.1", "ReLU", 0), True, 64, True, 0.1, (0.1, 0.1))


def other(*shares: float, name: str = "net.1", **changes: Any) -> UnitsSeen:
    return replace(ALIVE, place=Place(name, "ReLU", 0), shares=shares, **changes)


@pytest.mark.parametrize(
    ("seen", "severity"),
    [
        ([ALIVE], Severity.OK),
        ([other(0.6, 0.7)], Severity.INFO),
        ([other(0.95, 0.92)], Severity.WARNING),
        ([other(0.95, 0.85, start=0.5)], Severity.INFO),  # come back
        ([other(0.95, 0.85)], Severity.WARNING),  # died since the start
        ([other(0.72, 0.75), other(0.8, 0.7, name="net.3")], Severity.WARNING),  # everywhere
        ([other(0.72, 0.75), other(0.8, 0.6, name="net.3")], Severity.INFO),
        ([other(0.95, 0.95, units=12)], Severity.INFO),  # too few units for a share
        ([other(1.0, 1.0, units=12)], Severity.WARNING),
        ([other(0.99, 0.99, hidden=False)], Severity.INFO),  # an answer that is mostly zero
        ([other(1.0, 1.0, hidden=False)], Severity.WARNING),
    ],
)
def test_dying_units(seen: Sequence[UnitsSeen], severity: Severity) -> None:
    (finding,) = stuck_units.judge([seen])
    assert (finding.rule, finding.severity) == ("dying-units", severity)


def test_units_that_cannot_be_judged() -> None:
    assert list(stuck_units.judge([[other(1.0), other(1.0, 1.0, units=4, name="net.3")]])) == []


@pytest.mark.parametrize(
    ("seen", "severity"),
    [
        ((1.0, 0.95), Severity.WARNING),
        ((1.0, 0.85), Severity.INFO),  # functions with two ends have no lower limit for those that have risen
        ((0.2, 0.2), Severity.OK),
    ],
)
def test_saturated_units(seen: tuple[float, float], severity: Severity) -> None:
    tanh = replace(ALIVE, place=Place("", "tanh", 0), floor=False, shares=seen)
    (finding,) = stuck_units.judge([[tanh]])
    assert (finding.rule, finding.severity) == ("saturated-units", severity)
    answer = replace(tanh, hidden=False, shares=(1.0, 1.0))
    (finding,) = stuck_units.judge([[answer]])
    assert finding.severity is Severity.INFO, "what a classifier says at the end of training"


def test_a_unit_lives_if_it_lives_on_one_rank() -> None:
    (finding,) = stuck_units.judge([[other(1.0, 1.0)], [ALIVE]])
    assert finding.severity is Severity.OK
    (finding,) = stuck_units.judge([[other(1.0, 1.0)], [other(0.97, 1.0)]])
    assert finding.severity is Severity.WARNING
    assert "97% of the 64 units of the ReLU in `net.1` were off for every example" in finding.message
    assert "(10% at the first batch)" in finding.message
    assert finding.advice.startswith("Lower the learning rate")


def windows(history: History, numbers: list[float], samples: int = 4, examples: int = 128, last: bool = False) -> Any:
    history.take(Tally(torch.tensor(numbers), samples, examples), history.begun + 16, 34, last)
    return history.shares


def test_a_unit_is_dead_only_if_it_was_off_in_the_whole_window() -> None:
    history = History.begin(RELU, True, torch.tensor([-1.0, -1.0, 2.0, float("nan")]), 0)
    assert history.start == 0.5
    assert windows(history, [-1.0, 0.5, -1.0, -1.0], samples=2, examples=64) == []
    assert windows(history, [-1.0, -1.0, 2.0, float("nan")], samples=2, examples=64) == [0.25]
    assert windows(history, [-1.0] * 4) == [0.25, 1.0]
    assert windows(history, [1.0] * 4) == [1.0, 0.0]
    assert windows(history, [-1.0] * 4, samples=2, examples=40) == [1.0, 0.0], "too few examples"
    assert windows(history, [-1.0] * 4, samples=1, examples=30, last=True) == [0.0, 1.0], "nothing will follow"
    again = restored(saved({Place("a", "ReLU", 0): history}))
    assert again == {Place("a", "ReLU", 0): history}


def test_an_epoch_is_a_window_where_it_is_short() -> None:
    history = History.begin(RELU, True, torch.zeros(4), 0)
    history.take(Tally(torch.zeros(4), 4, 64), 30, 34, last=False)
    assert history.shares == []
    history.take(Tally(torch.zeros(4), 1, 10), 34, 34, last=False)
    assert history.shares == [1.0]


def test_a_saturated_unit_may_leave_its_end_now_and_then() -> None:
    history = History.begin(TANH, True, torch.tensor([1.0, 0.2]), 0)
    assert windows(history, [3.9, 3.7]) == [0.5]


@pytest.mark.parametrize(
    ("place", "kind", "hidden"),
    [
        (Place("net.1", "ReLU", 0), RELU, True),
        (Place("generator.1", "tanh", 0), TANH, False),  # the discriminator reads it
        (Place("", "tanh", 0), TANH, True),
        (Place("discriminator.2", "tanh", 0), TANH, True),
    ],
)
def test_hidden(place: Place, kind: Any, hidden: bool) -> None:
    layers = {"generator.0": True, "discriminator.0": True, "discriminator.1": False}
    assert is_hidden(place, kind, 1, layers) is hidden
    assert not is_hidden(place, kind, 2, layers), "a norm is no layer that reads"


def rows(*sizes: dict[str, float], loss: float | None = 1.0, begin: int = 0) -> list[Any]:
    return [(begin + 4 * place, one, loss) for place, one in enumerate(sizes)]


def test_exploding_activations() -> None:
    sizes, usual = LayerSizes(), {"a": 1.0, "b": 2.0, "zero": 0.0, "head": 0.1}
    sizes.take(rows(*[usual] * 5))
    sizes.take(rows(*[{"a": 5.0, "b": 2500.0, "zero": 900.0, "head": 1e6}] * 4, begin=20))
    (finding,) = layer_sizes.judge([sizes.seen(True)])
    assert finding.severity is Severity.OK, "once may be chance"
    again = LayerSizes(**sizes.state())
    again.take(rows(*[{"a": 5.0, "b": 2500.0, "zero": 900.0, "head": 1e6}] * 4, begin=40))
    (finding,) = layer_sizes.judge([SizesSeen(4), again.seen(True)])
    assert (finding.rule, finding.severity) == ("exploding-activations", Severity.WARNING)
    assert "`b` has grown from 2 (root mean square, first batches) to 2.5e+03" in finding.message
    learning = LayerSizes(**sizes.state())
    learning.take(rows(*[{"a": 5.0, "b": 2500.0, "zero": 900.0, "head": 1e6}] * 4, loss=0.5, begin=40))
    (finding,) = layer_sizes.judge([learning.seen(True)])
    assert finding.severity is Severity.OK, "the loss has gone down all the same"
    again.take(rows(*[usual] * 4, begin=60))
    (finding,) = layer_sizes.judge([again.seen(True)])
    assert finding.severity is Severity.OK, "it has come back"


@pytest.mark.parametrize(
    ("size", "loss", "told"),
    [
        (float("inf"), float("nan"), True),
        (float("nan"), None, True),
        (float("inf"), None, False),  # a mask, perhaps
        (float("nan"), 1.0, False),  # it did no harm
        (1.0, float("nan"), False),  # no layer's fault
    ],
)
def test_non_finite_activations(size: float, loss: float | None, told: bool) -> None:
    sizes = LayerSizes()
    sizes.take(rows({"a": 1.0, "b": 1.0}))
    sizes.take(rows({"a": 1.0, "b": size, "c": size}, loss=loss, begin=32))
    (finding,) = layer_sizes.judge([sizes.seen(weights=False)])
    assert (finding.severity is Severity.ERROR) is told
    if told:
        assert finding.rule == "non-finite-activations"
        expected = "`b` is the first layer whose output is not finite, at batch 32 (so are its weights)"
        assert finding.message.startswith(expected)
        assert "at batch 0 all were finite" in finding.message


def ranges(*looks: float, targets: float = 9.0, values: bool = False) -> Any:
    seen = OutputRanges()
    for place, size in enumerate(looks):
        seen.take([(16 * place + 4 * sample, "cross_entropy", values, size, targets) for sample in range(4)])
    return seen.seen()


@pytest.mark.parametrize(
    ("seen", "severity"),
    [
        (ranges(0.0, 0.0, 0.0), Severity.WARNING),
        (ranges(1e-5, 2e-5, 1e-5), Severity.WARNING),
        (ranges(1e-5, 1e-4, 5e-4), Severity.OK),  # begins to learn
        (ranges(0.0, 0.0, 0.1), Severity.OK),
        (ranges(0.1, 0.0, 0.0), Severity.OK),
        (ranges(1e-4, 1e-4, 1e-4, values=True), Severity.WARNING),
        (ranges(0.1, 0.1, 0.1, targets=300.0, values=True), Severity.OK),
    ],
)
def test_constant_outputs(seen: Any, severity: Severity) -> None:
    (finding,) = output_ranges.judge([seen])
    assert (finding.rule, finding.severity) == ("constant-outputs", severity)


def test_outputs_that_cannot_be_judged() -> None:
    assert output_ranges.judge([ranges(0.0, 0.0)]) == []
    assert output_ranges.judge([ranges(0.0, 0.0, 0.0, targets=0.0)]) == [], "the targets are all alike"
    (finding,) = output_ranges.judge([ranges(0.0, 0.0, 0.0), ranges(1.0, 1.0, 1.0)])
    assert finding.severity is Severity.OK, "they differ on the other rank"


def test_too_little_to_judge_is_said() -> None:
    (finding,) = judge([Seen((), SizesSeen(), {})])
    assert (finding.rule, finding.severity) == ("activation-health", Severity.INFO)
