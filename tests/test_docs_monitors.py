"""What docs/monitors.md shows is what happens."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

import lightning_rules
from lightning_rules.catalogue import family_of, rules_in

PAGE = (Path(__file__).resolve().parents[1] / "docs" / "monitors.md").read_text()
EXAMPLE, OWN = re.findall(r"^```python\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)
(SHOWN,) = re.findall(r"^```text\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)

pytestmark = pytest.mark.filterwarnings("ignore")


def plain(text: str) -> str:
    """Words alone: how lines break and how large a loss became is another matter."""
    return re.sub(r"\d\S*", "#", " ".join(text.split()))


def test_the_first_block_prints_what_is_shown(capsys: pytest.CaptureFixture[str]) -> None:
    exec(EXAMPLE, {})
    printed = plain(capsys.readouterr().out)
    for row in re.split(r"^  (?=error)", SHOWN, flags=re.MULTILINE)[1:]:
        assert plain(row) in printed


def test_the_second_block_is_a_rule_that_works() -> None:
    names: dict[str, Any] = {}
    exec(OWN, names)
    rule = names["WeightNorm"]()
    own = EXAMPLE.replace("LossDecreases(), GradientHealth(), UpdateRatio()", "rule").replace("lr=1e9", "lr=1e-3")
    exec(own, {"rule": rule})
    (finding,) = rule.findings
    assert (finding.rule, str(finding.severity)) == ("weight-norm", "ok")
    assert names["WeightNorm"].judge([1e4])[0].advice == "Decay them."


def test_each_rule_has_its_line() -> None:
    named = set(re.findall(r"^\| \[([a-z-]+)\]\(rules.md#\1\)", PAGE, re.MULTILINE))
    assert named == {rule.name for rule in rules_in(lightning_rules) if family_of(rule) == "watch"}
