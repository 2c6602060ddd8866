"""`report` at the command line: pages of runs that were trained by it, and what it says about names that are none."""

import re
from collections.abc import Callable
from pathlib import Path

import pytest

from lightning_recipe.cli import RecipeCLI

Command = Callable[..., RecipeCLI | None]
Error = Callable[..., str]
Capture = pytest.CaptureFixture[str]
REPORT = ["--rules=none", "--trainer.callbacks+=ReportCard", "--trainer.logger.save_dir=logs"]


def test_runs_are_compared_and_drawn_again(fit: Command, command: Command, error: Error, capfd: Capture) -> None:
    for seed in (1, 2, 3):
        fit(arguments=[*REPORT, "--trainer.logger.name=small", f"--seed_everything={seed}"])
    capfd.readouterr()
    assert command("report", "logs/small") is None
    lines = capfd.readouterr().out.splitlines()
    assert lines[0].startswith("run\tscore\t")
    assert {line.partition("\t")[0] for line in lines[1:4]} == {"version_0", "version_1", "version_2"}
    assert re.match(r"val/accuracy: \S+ ± \S+ points on average over 3 runs of one configuration", lines[4])
    assert lines[5] == "The comparison is logs/small/comparison.html."
    page = Path("logs/small/comparison.html").read_text(encoding="utf-8")
    assert "<h1>small: 3 runs</h1>" in page
    assert '<a href="version_2/rules/report.html">' in page
    assert "No setting differs" in page
    assert '<th scope="row">seed_everything</th><td>' in page or '<th scope="col">seed_everything</th>' in page

    drawn = Path("logs/small/version_1/rules/report.html")
    drawn.unlink()
    command("report", "logs/small/version_1")
    assert "The report is logs/small/version_1/rules/report.html." in capfd.readouterr().out
    assert "small/version_1</h1>" in drawn.read_text(encoding="utf-8")

    said = error("report", "logs/small/version_7")
    assert said.startswith("error: There is no folder or file logs/small/version_7: expected a run's log folder")
    assert "logs/small/version_" in said.partition("there are reports of ")[2]
    assert error("report", "logs", "logs/small/version_1").endswith("name each run once, or its folder.")
    assert "train.py report: error:" in error("report")


def test_help(command: Command, capsys: Capture) -> None:
    with pytest.raises(SystemExit) as raised:
        command("report", "--help")
    assert raised.value.code == 0
    assert "usage: train.py report" in capsys.readouterr().out
    with pytest.raises(SystemExit):
        command("--help")
    assert "`report RUN RUN ...` compares runs" in " ".join(capsys.readouterr().out.split())
