"""Two real processes over gloo, and beside them one: one start for the scenarios of all test files."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from filelock import FileLock

SCRIPT = Path(__file__).with_name("scenarios.py")


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def _run(folder: Path, names: list[str], timeout: float = 600) -> None:
    """Run the scenarios in one process (``one``) and on two ranks (``two``), all at the same time."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    for name in ("WORLD_SIZE", "LOCAL_RANK"):
        environment.pop(name, None)
    command = [sys.executable, str(SCRIPT), str(folder), str(_free_port()), *names]
    started = subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, process_group=0
    )
    try:
        said, _ = started.communicate(timeout=timeout)
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(started.pid, signal.SIGKILL)  # ranks that are left
    assert started.returncode == 0, said


@pytest.fixture(scope="session")
def all_ran(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, testrun_uid: str) -> Path:
    """The folder in which the scenarios of all collected test modules have run, once for all workers of pytest."""
    names = sorted(
        {
            item.path.stem.removeprefix("test_").removesuffix("_ddp")
            for item in request.session.items
            if item.path.parent == SCRIPT.parent
        }
    )
    shared = tmp_path_factory.getbasetemp()
    shared = (shared.parent if os.environ.get("PYTEST_XDIST_WORKER") else shared) / f"ddp-{testrun_uid}"
    with FileLock(f"{shared}.lock"):
        if not shared.exists():
            _run(shared, names)
    return shared


@pytest.fixture(scope="module")
def ran(request: pytest.FixtureRequest, all_ran: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a test module: ``one`` and ``two`` hold what one process and two ranks have left of its scenarios.

    Those of ``test_core_ddp.py`` are in ``core_scenarios.py``.
    """
    name = request.path.stem.removeprefix("test_").removesuffix("_ddp")
    folder = tmp_path_factory.mktemp(name)
    for ranks in ("one", "two"):
        (folder / ranks).symlink_to(all_ran / ranks / name)
    return folder


@pytest.fixture(scope="module")
def results(ran: Path) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]]:
    """What one process saw, and what each of two ranks saw."""
    one, first, second = (json.loads((ran / f"{name}.json").read_text()) for name in ("one/1-0", "two/2-0", "two/2-1"))
    return one, first, second
