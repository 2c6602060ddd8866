"""What the README shows is what happens."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from lightning_recipe.cli import RecipeCLI

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text()


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", README, re.MULTILINE | re.DOTALL)


def test_the_drop_in_script_runs_as_it_stands(tmp_path: Path) -> None:
    script, findings = blocks("python")
    (tmp_path / "script.py").write_text(f"{script}\n{findings}\nprint(len(findings), 'FINDINGS')\n")
    command = [sys.executable, "-W", "ignore", "script.py"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=180)
    assert done.returncode == 0, done.stderr[-2000:]
    assert int(re.search(r"(\d+) FINDINGS", done.stdout)[1]) > 20
    assert "Does not apply" not in done.stderr, "what a rule leaves alone stands in the table, and is not announced"
    assert "Set the bias of `net.2` to the log prior of 2 classes" in " ".join(done.stdout.split())
    assert (tmp_path / "lightning_logs/version_0/rules/findings.jsonl").is_file()


def test_it_takes_two_lines() -> None:
    script = blocks("python")[0]
    assert sum("recommended" in line for line in script.splitlines()) == 2
    assert len([line for line in script.splitlines() if line.strip()]) <= 20


@pytest.mark.parametrize("target", re.findall(r"^make (\w+)", README, re.MULTILINE))
def test_make_knows_the_commands(target: str) -> None:
    assert re.search(rf"^{target}:", (ROOT / "Makefile").read_text(), re.MULTILINE)


@pytest.mark.parametrize("folder", [".", "{{cookiecutter.project_slug}}"])
def test_the_command_line_knows_the_commands(folder: str) -> None:
    text = (ROOT / folder / "README.md").read_text()
    commands = re.findall(r"scripts/train\.py (\S+)((?: --config \S+)+)`?$", text, re.MULTILINE)
    commands += re.findall(r"scripts/train\.py (\S+)((?: --config [^\s`]+)+)`", text)
    assert commands
    for subcommand, configs in commands:
        assert subcommand in RecipeCLI.subcommands()
        assert all((ROOT / folder / name).is_file() for name in configs.split() if name != "--config")


@pytest.mark.parametrize("link", re.findall(r"\]\(([\w./]+)(?:#[\w-]+)?\)", README))
def test_links_lead_somewhere(link: str) -> None:
    assert (ROOT / link).exists()


def test_it_fits_a_screen_or_two() -> None:
    assert len(README.splitlines()) <= 110
