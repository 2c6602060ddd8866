"""What the benchmarks write: each its own section of RESULTS.md, and no other."""

import re
import runpy
import sys
from pathlib import Path

import pytest

FOLDER = Path(__file__).resolve().parents[1] / "benchmarks"


def test_a_section_is_added_and_replaced_and_the_others_stay(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    record = runpy.run_path(str(FOLDER / "results.py"))["record"]
    path = tmp_path / "RESULTS.md"
    monkeypatch.setattr(sys, "argv", ["benchmarks/a.py", "--seeds", "3", "--record"])
    record("Speed", "one", path)
    record("Speed of light", "two", path)
    assert path.read_text() == (
        "# Results\n\n## Speed\n`python benchmarks/a.py --seeds 3`: one\n"
        "\n## Speed of light\n`python benchmarks/a.py --seeds 3`: two\n"
    )
    for heading in ("Speed", "Speed of light"):
        record(heading, "new", path)
    assert path.read_text().count("`python benchmarks/a.py --seeds 3`: new\n") == 2
    assert [line for line in path.read_text().splitlines() if line.startswith("#")] == [
        "# Results",
        "## Speed",
        "## Speed of light",
    ]


def test_what_is_recorded_has_a_script() -> None:
    sections = (FOLDER / "RESULTS.md").read_text().split("\n## ")[1:]
    commands = [re.match(r"[^\n]+\n`python benchmarks/(\w+\.py)", section) for section in sections]
    assert len(sections) >= 3
    assert all(command and (FOLDER / command[1]).is_file() for command in commands), sections
