"""activation-health: a unit that lives on one rank lives, and the ranks say the same."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest


@pytest.fixture(scope="module")
def ranks(ran: Path) -> list[Any]:
    return [json.loads((ran / f"two/2-{rank}.json").read_text()) for rank in (0, 1)]


def test_ranks_agree(ranks: list[Any]) -> None:
    assert ranks[0] == ranks[1]


@pytest.mark.parametrize(("scenario", "severity"), [("dead_on_both", "warning"), ("dead_on_one", "ok")])
def test_units_are_dead_on_all_ranks_or_not_at_all(ranks: list[Any], scenario: str, severity: str) -> None:
    assert [said for said, rule, _ in ranks[0][scenario] if rule == "dying-units"] == [severity]


def test_a_rank_that_refuses_ends_it_on_all(ranks: list[Any]) -> None:
    ((severity, rule, message),) = ranks[1]["refused_on_one"]
    assert (severity, rule) == ("info", "activation-health")
    assert message.startswith("Does not apply: a compiled function runs this module")
