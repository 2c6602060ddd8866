"""Which rank this is; and, as a script, all scenarios of the modules that it is told, in one process a rank.

    python scenarios.py FOLDER NAME [NAME ...]

runs what ``SCENARIOS`` lists in each ``NAME_scenarios.py``, every scenario in a folder of its own, and writes what
they return to ``FOLDER/NAME/<ranks>-<rank>.json``. Importing torch and Lightning takes longer than most scenarios: all
of them share one start.
"""

from __future__ import annotations

import faulthandler
import importlib
import json
import os
import sys
import warnings
from pathlib import Path

import torch

RANK, WORLD = int(os.environ.get("LOCAL_RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))


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
        results[name] = scenario()
    (folder / f"{WORLD}-{RANK}.json").write_text(json.dumps(results))


if __name__ == "__main__":
    faulthandler.dump_traceback_later(540, exit=True)  # a rank that waits for ever says where
    torch.set_num_threads(1)
    warnings.filterwarnings("ignore")
    # Workers are forked while this process has few threads: a fork beside many can wait for a lock for ever.
    for given in sorted(sys.argv[2:], key=lambda name: name != "seed"):
        run_all(Path(sys.argv[1]).absolute() / given, f"{given}_scenarios")
