"""What docs/preflight.md shows is what happens."""

from __future__ import annotations

import json
import re
import shlex
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest

from lightning_recipe.cli import main
from lightning_rules.check import CHECKED
from lightning_rules.preflight_check import PreflightCheck

ROOT = Path(__file__).resolve().parents[1]
PAGE = (ROOT / "docs" / "preflight.md").read_text()

pytestmark = pytest.mark.filterwarnings("ignore")


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)


COMMANDS = [line for block in blocks("sh") for line in block.splitlines()]


@pytest.mark.slow
@pytest.mark.parametrize("command", COMMANDS)
def test_commands_run(command: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    shutil.copytree(ROOT / "configs", "configs")
    words = shlex.split(command)
    assert words[:3] == ["python", "scripts/train.py", "check"]
    quicker = ["--skip", "gradient-check=it takes the longest"] if "--only" not in words else []
    monkeypatch.setattr(sys, "argv", ["scripts/train.py", *words[2:], *quicker])
    main()
    printed = capsys.readouterr().out
    if "--json" in words:
        report = json.loads(printed)
        said = {finding["rule"]: finding["message"] for finding in report["findings"]}
        assert report["ok"]
        assert said["step-size"] == "Ignored: the rate is what we study."
        return
    asked = [words[place + 1] for place, word in enumerate(words) if word == "--only"]
    assert "error" not in printed
    assert "warning" not in printed
    aspects = {"model-audit": "right-loss"}  # an audit speaks by its aspects
    expected = [aspects.get(name, name) for name in asked] or ["no-leak", "overfit-one-batch", "label-suspects"]
    assert all(name in printed for name in expected)


def test_the_python_block_prints_what_is_shown(capsys: pytest.CaptureFixture[str]) -> None:
    (block,) = blocks("python")
    names: dict[str, Any] = {}
    exec(block, names)
    printed, shown = (
        re.sub(r"0\.\d+", "#", " ".join(text.split())) for text in (capsys.readouterr().out, *blocks("text"))
    )
    assert shown in printed
    assert not names["report"].ok


def test_each_check_has_its_line() -> None:
    named = set(re.findall(r"^\| \[([a-z-]+)\]", PAGE, re.MULTILINE))
    checks = {rule.name for rule in CHECKED if issubclass(rule, PreflightCheck)}
    assert named == checks | {"loss-at-init"}
