"""Two ranks share the examples, or are told that they do not; both say the same."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest


@pytest.fixture(scope="module")
def results(ran: Path) -> Any:
    """What each rank said; one process alone has nothing to share."""
    return [json.loads((ran / f"two/2-{rank}.json").read_text()) for rank in (0, 1)]


def alarms(found: list[list[str]]) -> list[list[str]]:
    return [one for one in found if one[0] in ("warning", "error")]


def test_ranks_agree(results: Any) -> None:
    assert results[0] == results[1]


@pytest.mark.parametrize("scenario", ["shared_out", "shared_stream"])
def test_healthy_sharing_is_no_alarm(results: Any, scenario: str) -> None:
    found = results[0][scenario]
    assert alarms(found) == []
    assert all("failed" not in message for _, _, message in found)


@pytest.mark.parametrize(
    ("scenario", "severity", "words"),
    [
        ("sampler_off", "warning", "Each of 2 ranks draws the whole training set (300 of 300 examples)"),
        ("sampler_off_in_step", "error", "All 2 ranks draw the same examples in the same order"),
        ("hidden_sampler", "warning", "nothing calls set_epoch"),
        ("same_stream", "warning", "All 2 ranks read the same stream"),
    ],
)
def test_a_fault_in_sharing_is_told(results: Any, scenario: str, severity: str, words: str) -> None:
    (alarm,) = alarms(results[0][scenario])
    assert alarm[:2] == [severity, "distributed-sampling"]
    assert words in alarm[2]


def test_examples_counted_twice_are_told(results: Any) -> None:
    told = [message for _, rule, message in results[0]["shared_out"] if rule == "distributed-sampling"]
    assert told[1].startswith("Validation counts 1 of 41 examples twice")


def test_shuffled_training_labels_are_found(results: Any) -> None:
    ((severity, rule, message),) = alarms(results[0]["shuffled_labels"])
    assert (severity, rule) == ("error", "label-suspects")
    assert message.startswith("Training labels say nothing about their inputs")
