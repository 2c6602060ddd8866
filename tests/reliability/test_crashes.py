"""Runs that are killed at random moments, saves included; benchmarks/crashes.py does it 200 times."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

SCRIPT = Path(__file__).resolve().parents[2] / "benchmarks" / "crashes.py"


def crash(*arguments: str) -> dict[str, Any]:
    command = [sys.executable, str(SCRIPT), "--json", *arguments]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=500)
    assert done.returncode == 0, done.stderr[-3000:]
    (row,) = json.loads(done.stdout)
    return dict(row)


@pytest.mark.slow(seconds=30)
@pytest.mark.parametrize(("kind", "kills"), [("1x0", 3), ("1x2", 2), ("2x0", 1), ("2x2", 1)])
def test_killed_and_resumed_it_ends_with_the_same_bits(kind: str, kills: int) -> None:
    row = crash("--only", kind, "--kills", str(kills))
    assert row["kills"] == kills
    assert row["faults"] == []
    assert -9 in row["statuses"]


@pytest.mark.slow(seconds=30)
@pytest.mark.parametrize("kind", ["1x0", "2x0"])
def test_told_to_end_it_saves_and_says_so_by_its_status(kind: str) -> None:
    row = crash("--only", kind, "--kills", "2", "--signal", "SIGTERM")
    assert row["faults"] == []
    assert 75 in row["statuses"]
    assert set(row["statuses"]) <= {75, -15}  # -15: before it had begun to listen
