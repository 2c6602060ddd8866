"""Shared by all tests: one thread for each worker process, no stray output, nothing written outside tmp_path."""

import gc
import os
import sys

# Two pytest workers on two cores: more threads than that only slow each other down.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("WANDB_MODE", "offline")
os.environ.setdefault("COLUMNS", "120")
# Containers often set it; every process that a test starts would compile torch, Lightning and all the rest anew.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)

from pathlib import Path

import pytest
import torch

sys.dont_write_bytecode = False
ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(autouse=True)
def _in_a_folder_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Run each test in its own folder, so that default log folders land there, with one thread."""
    monkeypatch.chdir(tmp_path)
    torch.set_num_threads(1)
    torch.manual_seed(0)


@pytest.hookimpl(trylast=True)  # of what `-k` and `-m` have left
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Begin with the longest tests, dealt out over the workers, so that none is left alone with one in the end.

    `worksteal` gives each worker one piece of the list to begin with, all of the same length. The tests of tests/ddp
    share one start, and stay together.
    """
    workers = int(getattr(config, "workerinput", {}).get("workercount", 1))
    together: list[pytest.Item] = []
    long: list[pytest.Item] = []
    rest: list[pytest.Item] = []
    for item in items:
        shared = item.path.parent == ROOT / "tests" / "ddp"
        (together if shared else long if item.get_closest_marker("slow") else rest).append(item)
    long.sort(key=lambda item: -item.get_closest_marker("slow").kwargs.get("seconds", 10))
    pieces = [long[(worker - 1) % workers :: workers] for worker in range(workers)]
    pieces[0] = together + pieces[0]
    for worker, piece in enumerate(pieces):
        already = sum(map(len, pieces[:worker]))
        size = (len(items) - already) // (workers - worker)
        taken = max(size - len(piece), 0)
        piece += rest[:taken]
        del rest[:taken]
    items[:] = [item for piece in pieces for item in piece]


def pytest_collection_finish() -> None:
    """What is here for good, modules and collected tests, is not searched for garbage any more: 0.5 s each time."""
    gc.collect()
    gc.freeze()


def pytest_unconfigure() -> None:
    """So that extensions find nothing left when Python ends."""
    gc.unfreeze()
