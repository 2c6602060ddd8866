"""Programs of two processes over gloo: many runs share one start.

As a script, ``python two_ranks.py JOBS RESULTS`` is one of the processes.
"""

from __future__ import annotations

import os
import pickle
import socket
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

TIMEOUT = 3600.0  # seconds for all jobs of a start


def run(jobs: Sequence[Any]) -> list[Any]:
    """For each job its result, as of rank 0.

    Raises:
        RuntimeError: A process failed; with the last lines that it said.
    """
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "jobs").write_bytes(pickle.dumps(list(jobs)))
        port = _free_port()
        return _results(folder, [_start(folder, rank, port) for rank in range(2)])


def _start(folder: Path, rank: int, port: int) -> subprocess.Popen[str]:
    shared = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": "2", "NODE_RANK": "0"}
    paths = os.pathsep.join([str(Path(__file__).resolve().parents[1]), *filter(None, [os.environ.get("PYTHONPATH")])])
    environment = {**os.environ, **shared, "PYTHONPATH": paths, "LOCAL_RANK": str(rank), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, __file__, str(folder / "jobs"), str(folder / str(rank))]
    with (folder / f"{rank}.txt").open("w") as said:
        return subprocess.Popen(command, env=environment, stdout=said, stderr=subprocess.STDOUT, text=True)


def _results(folder: Path, started: Sequence[subprocess.Popen[str]]) -> list[Any]:
    try:
        for process in started:
            process.wait(TIMEOUT)
    finally:
        for process in started:
            process.kill()
    for rank, process in enumerate(started):
        if process.returncode:
            said = (folder / f"{rank}.txt").read_text()[-2000:]
            raise RuntimeError(f"Rank {rank} ended with exit status {process.returncode}; it said last: {said}")
    results: list[Any] = pickle.loads((folder / "0").read_bytes())  # written by this program
    return results


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def main() -> None:
    """Work through the jobs, in the same order as the other rank."""
    from planted_bugs.work import work

    jobs, results = (Path(path) for path in sys.argv[1:])
    found = [work(job, strategy="ddp", devices=2) for job in pickle.loads(jobs.read_bytes())]
    results.write_bytes(pickle.dumps(found))


if __name__ == "__main__":
    main()
