"""The verdict in the terminal: the same words as on the page."""

from __future__ import annotations

import logging
import os
from pathlib import Path

import pytest

from lightning_rules.finding import Finding, Severity
from lightning_rules.report.document import Document
from lightning_rules.report.terminal import print_summary, summary_of
from lightning_rules.report.verdict import verdict_of


def test_a_healthy_run(documents: dict[str, Document]) -> None:
    lines = dict(summary_of(documents["healthy"], f"{os.getcwd()}/logs/digits/rules/report.html"))
    assert lines["verdict"] == verdict_of(documents["healthy"]).line
    assert lines["val/accuracy"] == "98.3% (95% interval 96.4% to 99.2%, from 359 examples; step 429)"
    assert lines["previous run"] == "97.5% (digits/version_2: this run is better, but that could be chance)"
    assert lines["commonest class"].startswith("10.6%")
    assert lines["best known"] == "99.5%"
    assert lines["cost"] == "whole run 51.2 s, rules that watch 1.1 s (2.1% of the run), a step 81.2 ms"
    assert lines["report"] == "logs/digits/rules/report.html"


def test_nothing_is_made_up(documents: dict[str, Document]) -> None:
    assert summary_of(documents["bare"], "") == [("verdict", verdict_of(documents["bare"]).line)]
    assert (
        "do not trust" in dict(summary_of(documents["sick"], ""))["verdict"].lower()
        or "failed" in dict(summary_of(documents["sick"], ""))["verdict"]
    )


def test_plain_text_where_the_output_is_no_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    name = "[red]a[/red]"
    document = Document(state="finished", findings=[Finding(name, Severity.WARNING, "Seen.", "Do.")])
    print_summary(document, "elsewhere/report.html")
    printed = capsys.readouterr().out
    assert "\x1b" not in printed
    assert f"verdict  Look before you trust this run: 1 warning ({name})." in printed
    assert "report   elsewhere/report.html" in printed


def test_silence_is_kept(capsys: pytest.CaptureFixture[str], documents: dict[str, Document], tmp_path: Path) -> None:
    log = logging.getLogger("lightning_rules")
    level = log.level
    log.setLevel(logging.ERROR)
    try:
        print_summary(documents["healthy"], str(tmp_path))
    finally:
        log.setLevel(level)
    assert capsys.readouterr().out == ""
