"""Two real processes over gloo."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


@pytest.fixture(scope="session")
def run_ranks() -> Callable[..., None]:
    """Run a script once a rank, at the same time; all must end well within the time limit."""

    def run(script: Path, *arguments: str, ranks: int = 2, timeout: float = 240) -> None:
        shared = {**os.environ, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(_free_port()), "OMP_NUM_THREADS": "1"}
        shared |= {"WORLD_SIZE": str(ranks), "NODE_RANK": "0"}
        command = [sys.executable, str(script), *arguments]
        if ranks == 1:
            shared.pop("WORLD_SIZE")
            environments = [shared]
        else:
            environments = [{**shared, "LOCAL_RANK": str(rank)} for rank in range(ranks)]
        pipe = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
        started = [subprocess.Popen(command, env=environment, **pipe) for environment in environments]
        try:
            outputs = [process.communicate(timeout=timeout)[0] for process in started]
        finally:
            for process in started:
                process.kill()
        for process, output in zip(started, outputs, strict=True):
            assert process.returncode == 0, output[-4000:]

    return run


@pytest.fixture(scope="module")
def ran(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, run_ranks: Callable[..., None]
) -> Path:
    """The folder in which the scenarios of a test module have run, in one process (``one``) and on two ranks (``two``).

    Those of ``test_core_ddp.py`` are in ``core_scenarios.py``.
    """
    name = request.path.stem.removeprefix("test_").removesuffix("_ddp")
    folder, script = tmp_path_factory.mktemp(name), request.path.with_name(f"{name}_scenarios.py")
    run_ranks(script, str(folder / "one"), ranks=1)
    run_ranks(script, str(folder / "two"), ranks=2)
    return folder


@pytest.fixture(scope="module")
def results(ran: Path) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]]:
    """What one process saw, and what each of two ranks saw."""
    one, first, second = (json.loads((ran / f"{name}.json").read_text()) for name in ("one/1-0", "two/2-0", "two/2-1"))
    return one, first, second
