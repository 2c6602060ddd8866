"""Two real processes over gloo, and beside them one: one start for the scenarios of all test files."""

from __future__ import annotations

import json
import os
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


def _start(ranks: int, folder: Path, names: list[str]) -> list[subprocess.Popen[str]]:
    """One process a rank, each writing what it says to a file of its own."""
    folder.mkdir(parents=True)
    shared = {**os.environ, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(_free_port()), "OMP_NUM_THREADS": "1"}
    shared.pop("WORLD_SIZE", None)
    if ranks > 1:
        shared |= {"WORLD_SIZE": str(ranks), "NODE_RANK": "0"}
    started = []
    for rank in range(ranks):
        environment = {**shared, "LOCAL_RANK": str(rank)} if ranks > 1 else shared
        with (folder / f"{rank}.txt").open("w") as said:
            command = [sys.executable, str(SCRIPT), str(folder), *names]
            started.append(subprocess.Popen(command, env=environment, stdout=said, stderr=subprocess.STDOUT, text=True))
    return started


def _run(folder: Path, names: list[str], timeout: float = 600) -> None:
    """Run the scenarios in one process (``one``) and on two ranks (``two``), all at the same time."""
    started = [*_start(1, folder / "one", names), *_start(2, folder / "two", names)]
    try:
        for process in started:
            process.wait(timeout)
    finally:
        for process in started:
            process.kill()
    for process, said in zip(started, ("one/0.txt", "two/0.txt", "two/1.txt"), strict=True):
        assert process.returncode == 0, (folder / said).read_text()[-4000:]


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
