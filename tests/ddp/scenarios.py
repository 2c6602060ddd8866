"""Which rank this is; and, as a script, all scenarios of the modules that it is told, on one rank and on two.

    python scenarios.py FOLDER PORT NAME [NAME ...]

runs what ``SCENARIOS`` lists in each ``NAME_scenarios.py``, every scenario in a folder of its own, and writes what
they return to ``FOLDER/one/NAME/1-0.json`` and ``FOLDER/two/NAME/2-<rank>.json``; what a process says, to
``FOLDER/<one or two>/<rank>.txt``. Importing torch and Lightning takes longer than most scenarios: the three processes
are forks of one that has imported them, and all scenarios share one start.
"""

from __future__ import annotations

import faulthandler
import gc
import importlib
import json
import multiprocessing
import os
import sys
import time
import warnings
from pathlib import Path

import torch

RANK, WORLD = int(os.environ.get("LOCAL_RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))
IMPORTED_ONCE = ("lightning.pytorch", "lightning_rules", "matplotlib.figure", "sklearn.datasets", "torch._dynamo")


def run_all(folder: Path, module: str) -> None:
    """Run the scenarios of a module, one after the other."""
    scenarios = importlib.import_module(module)
    if WORLD not in getattr(scenarios, "WORLDS", (1, 2)):
        return
    listed = scenarios.SCENARIOS
    results = {}
    for name, scenario in (listed if isinstance(listed, dict) else {one.__name__: one for one in listed}).items():
        place = folder / name
        place.mkdir(parents=True, exist_ok=True)
        os.chdir(place)
        began = time.monotonic()
        results[name] = scenario()
        print(f"{module}.{name}: {time.monotonic() - began:.2f} s", flush=True)
    (folder / f"{WORLD}-{RANK}.json").write_text(json.dumps(results))


def run_names(folder: Path, names: list[str]) -> None:
    """Run the scenarios of all modules as the rank that the environment says."""
    faulthandler.dump_traceback_later(540, exit=True)  # a rank that waits for ever says where
    torch.set_num_threads(1)
    warnings.filterwarnings("ignore")
    # Workers are forked while this process has few threads: a fork beside many can wait for a lock for ever.
    for name in sorted(names, key=lambda name: name != "seed"):
        run_all(folder / name, f"{name}_scenarios")


def be(rank: int, ranks: int, folder: Path, port: str, names: list[str]) -> None:
    """Be a rank, in a process of its own that has imported much and run nothing."""
    said = os.open(folder / f"{rank}.txt", os.O_WRONLY | os.O_CREAT)
    os.dup2(said, 1)
    os.dup2(said, 2)
    if ranks > 1:
        address = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "NODE_RANK": "0"}
        os.environ.update(address, WORLD_SIZE=str(ranks), LOCAL_RANK=str(rank))
    else:
        os.nice(5)  # two ranks wait for one another at each step, and for nobody else
    importlib.import_module("scenarios").run_names(folder, names)


def main(folder: Path, port: str, names: list[str]) -> int:
    """Start one process, and two ranks, at the same time; 0, or 1 where one of them failed."""
    for name in IMPORTED_ONCE:
        importlib.import_module(name)
    gc.freeze()  # what is imported is not searched for garbage, nor copied for that
    fork = multiprocessing.get_context("fork")
    started = []
    for rank, ranks, place in ((0, 1, "one"), (0, 2, "two"), (1, 2, "two")):
        (folder / place).mkdir(parents=True, exist_ok=True)
        process = fork.Process(target=be, args=(rank, ranks, folder / place, port, names))
        process.start()
        started.append((process, folder / place / f"{rank}.txt"))
    gc.unfreeze()
    for process, said in started:
        process.join()
        if process.exitcode:
            print(f"{said} ended with {process.exitcode}:\n{said.read_text()[-4000:]}")
    return int(any(process.exitcode for process, _ in started))


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]).absolute(), sys.argv[2], sys.argv[3:]))
