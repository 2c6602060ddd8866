"""right-loss and silent-broadcast: the judgement on numbers."""

from __future__ import annotations

from typing import Any

import pytest

from lightning_rules import Severity
from lightning_rules.preflight.function_calls import Difference, stretched
from lightning_rules.preflight.loss_facts import LossFacts
from lightning_rules.preflight.right_loss import LossesSeen, judge, judge_call


def call(name: str = "cross_entropy", output: Any = (32, 10), target: Any = (32,), **more: Any) -> LossFacts:
    given = {"lowest": -1.0, "highest": 1.0, "examples": output[0]} | more
    return LossFacts(name, output, target, **given)


@pytest.mark.parametrize(
    ("facts", "severity", "words"),
    [
        (call(squashed="Softmax", sums="rows", lowest=0.0), Severity.ERROR, "given the output of a softmax"),
        (call(sums="rows", lowest=0.0), Severity.ERROR, "given the output of a softmax"),
        (call(squashed="LogSoftmax", sums="log rows"), Severity.INFO, "the second changes nothing"),
        (call(squashed="LogSoftmax", sums="log columns"), Severity.ERROR, "runs over the batch"),
        (call(squashed="Sigmoid"), Severity.WARNING, "the output of a sigmoid"),
        (call(squashed="Relu"), Severity.WARNING, "the output of a relu"),
        (call(output=(32, 1)), Severity.ERROR, "is given one class"),
        (call("nll_loss", squashed="Softmax", sums="rows", lowest=0.0), Severity.ERROR, "the log is missing"),
        (call("nll_loss"), Severity.ERROR, "the log-softmax is missing"),
        (call("binary_cross_entropy_with_logits", squashed="Sigmoid"), Severity.ERROR, "Remove the sigmoid"),
        (call("binary_cross_entropy_with_logits", squashed="Relu"), Severity.WARNING, "Remove the relu"),
        (
            call("binary_cross_entropy", (32, 1), squashed="Softmax", lowest=1.0, highest=1.0),
            *(Severity.ERROR, "a dimension of size 1"),
        ),
        (call("mse_loss", one_hot=True, squashed="Softmax"), Severity.WARNING, "one-hot labels of 10 classes after"),
        (call("mse_loss", one_hot=True), Severity.INFO, "one-hot labels of 10 classes."),
        (
            call("mse_loss", target=(32, 1), whole=True, distinct=10, target_highest=9.0),
            *(Severity.WARNING, "each of 10 outputs with the number of the class"),
        ),
        (
            call("mse_loss", (32,), whole=True, distinct=10, target_highest=9.0),
            *(Severity.INFO, "wrong for the numbers of classes"),
        ),
        (call("l1_loss", (32, 1), (32, 1), squashed="Sigmoid", above=0.5), Severity.WARNING, "50% of the targets"),
        (call("huber_loss", (32, 1), (32,)), Severity.ERROR, "pairs every example with every other"),
        (call(dropped=0.1), Severity.WARNING, "10% of the examples weigh nothing"),
        (call(smoothing=0.95), Severity.WARNING, "smooths labels by 0.95"),
        (call(ignored=1.0), Severity.ERROR, "every target of the batch equals ignore_index"),
        (call(weights=(0.1, float("inf"), 0, False)), Severity.ERROR, "not all finite"),
        (call(weights=(-0.1, 1.0, 0, True)), Severity.ERROR, "negative (-0.1)"),
        (call(weights=(0.0, 1.0, 2, True)), Severity.INFO, "2 class weights of cross_entropy are 0"),
    ],
)
def test_one_call(facts: LossFacts, severity: Severity, words: str) -> None:
    (finding,) = judge_call(facts)
    assert finding.severity is severity
    assert words in f"{finding.message} {finding.advice}"
    assert finding.advice


@pytest.mark.parametrize(
    "facts",
    [
        call(),
        call(ignored=0.9, weights=(0.1, 14.0, 0, True)),
        call("nll_loss", squashed="LogSoftmax", sums="log rows", highest=-0.1),
        call("nll_loss", highest=-0.1),  # less than a distribution: some mass is elsewhere
        call("binary_cross_entropy_with_logits", (32, 1), (32, 1)),
        call("binary_cross_entropy", (32, 1), (32, 1), squashed="Sigmoid", lowest=0.1, highest=0.9),
        call("mse_loss", (32, 64), (32, 64), one_hot=True, reconstructs=True),
        call("mse_loss", (32, 64), (32, 64), squashed="Sigmoid"),
        call("mse_loss", (32, 64), (32, 64), squashed="Tanh", above=0.1),  # few are out of reach
        call("mse_loss", (32, 1), ()),  # a constant for all, as in least-squares GANs
        call("mse_loss", (32, 5), (32, 1)),  # one target for several heads
        call("mse_loss", (2, 1), (2, 1), squashed="Softmax", sums="columns"),  # two numbers say little
    ],
)
def test_healthy_calls(facts: LossFacts) -> None:
    assert list(judge_call(facts)) == []


def test_ranks_and_places() -> None:
    wrong, right = call(squashed="Softmax"), call()
    (alone,) = judge([LossesSeen((right,), ()), LossesSeen((right,), ())])
    assert alone.severity is Severity.OK
    found = judge([LossesSeen((right, right), ()), LossesSeen((right, wrong), ())])
    assert [finding.severity for finding in found] == [Severity.ERROR], "what one rank sees counts, once"
    assert judge([LossesSeen((), ())]) == []


def test_differences_of_unlike_shapes() -> None:
    (finding,) = judge([LossesSeen((), (Difference(None, (32, 1), (32,)),))] * 2)
    assert (finding.rule, finding.severity) == ("silent-broadcast", Severity.ERROR)
    assert judge([LossesSeen((), (Difference(None, (32, 1), (10,)),))]) == [], "examples against centres"


@pytest.mark.parametrize(
    ("one", "other", "both"),
    [
        ((32, 1), (32,), True),
        ((32,), (32, 1), True),
        ((32, 1), (1, 32), False),  # of one rank: on purpose
        ((32, 1), (32, 1), False),
        ((32, 10), (10,), False),
        ((32, 10), (), False),
        ((1, 1), (1,), False),
        ((32, 10), (32,), False),  # raises by itself
    ],
)
def test_stretched(one: Any, other: Any, both: bool) -> None:
    assert stretched(one, other) is both
