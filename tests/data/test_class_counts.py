"""missing-class and its neighbours: the judgement on counts."""

from __future__ import annotations

from typing import Any

import pytest

from lightning_rules import Severity
from lightning_rules.data.class_counts import Counts, judge

EVEN = dict.fromkeys(range(10), 140)
HELD = dict.fromkeys(range(10), 36)


def counts(train: dict[int, int], validation: dict[int, int] | None, **more: Any) -> Counts:
    held = None if validation is None else sum(validation.values())
    known = {"train_whole": True, "classes": 10, "softmax": True}
    return Counts(train, validation, sum(train.values()), held, **{**known, **more})


def alarms(seen: Counts) -> list[tuple[str, Severity]]:
    return [(finding.rule, finding.severity) for finding in judge([seen]) if finding.severity >= Severity.WARNING]


@pytest.mark.parametrize(
    ("seen", "expected"),
    [
        (counts({k: v for k, v in EVEN.items() if k != 5}, HELD), [Severity.ERROR]),
        (counts({k: v for k, v in EVEN.items() if k < 5}, {7: 36, 8: 36}), [Severity.ERROR]),  # a set split in order
        (counts({0: 60, 1: 60}, {0: 12, 1: 12, 2: 3}), [Severity.WARNING]),  # 13 were expected
        (counts({**EVEN, 3: 4, 7: 4}, HELD), [Severity.WARNING, Severity.WARNING]),  # 3% of two classes kept
    ],
)
def test_classes_that_training_lacks(seen: Counts, expected: list[Severity]) -> None:
    assert alarms(seen) == [("missing-class", severity) for severity in expected]


def test_splits_that_seem_swapped() -> None:
    assert alarms(counts(HELD, EVEN)) == [("split-ratio", Severity.WARNING)]


@pytest.mark.parametrize(
    "seen",
    [
        counts(EVEN, HELD),
        counts(EVEN, EVEN),
        counts(EVEN, None),
        counts({**EVEN, 3: 10}, {**HELD, 3: 3}),  # 14:1 in both
        counts({**EVEN, 3: 10}, HELD, handled=True),  # 14:1 in training alone, weighed
        counts(EVEN, {**HELD, 3: 1}),  # balanced for training, natural in validation
        counts({0: 500, 1: 500}, {0: 990, 1: 10}, classes=2),
        counts({0: 30, 1: 20}, {0: 6, 1: 5, 2: 1}),  # of a long tail, by chance
        counts({0: 60, 1: 60}, {0: 12, 1: 12, 2: 3}, train_whole=False),  # not seen in the sample
        counts(EVEN, {20: 36, 21: 36}),  # classes beyond the head: others by design
        counts(EVEN, {20: 36, 21: 36}, softmax=False),
        counts({k: v for k, v in EVEN.items() if k != 5}, HELD, used=False),
        counts({0: 10}, {0: 10}),
    ],
)
def test_no_alarm(seen: Counts) -> None:
    assert alarms(seen) == []


def test_what_is_told() -> None:
    found = {finding.rule: finding for finding in judge([counts({**EVEN, 3: 10}, {**HELD, 3: 3}, classes=12)])}
    assert found["imbalance"].message == (
        "10 classes of 10 (class 3) to 140 (class 9) training examples; the loss has 12 classes, 14:1, not weighed by "
        "loss or sampler."
    )
    assert found["class-size"].evidence == {"smallest": 10}
    assert found["k-fold-when-small"].evidence == {"examples": 1270 + 327}
    assert found["split-ratio"].message == "327 of 1,597 examples (20%) are held out for validation."
    assert all(finding.severity <= Severity.INFO for finding in found.values())


def test_streams_are_added_up() -> None:
    first = Counts({0: 100}, {0: 20}, None, None, False, 2, True)
    second = Counts({1: 100}, {1: 20}, None, None, False, 2, True)
    (balance,) = [finding for finding in judge([first, second]) if finding.rule == "imbalance"]
    assert balance.evidence["classes"] == 2
