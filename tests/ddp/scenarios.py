"""What the scripts of scenarios share: which rank this is, and how all of them are run."""

from __future__ import annotations

import json
import os
import sys
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch

RANK, WORLD = int(os.environ.get("LOCAL_RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))


def run_all(scenarios: Mapping[str, Callable[[], Any]]) -> None:
    """Run each in a folder of its own below the script's argument; what they return goes to ``<ranks>-<rank>.json``."""
    torch.set_num_threads(1)
    warnings.filterwarnings("ignore")
    folder = Path(sys.argv[1])
    results = {}
    for name, scenario in scenarios.items():
        place = folder / name
        place.mkdir(parents=True, exist_ok=True)
        os.chdir(place)
        results[name] = scenario()
    (folder / f"{WORLD}-{RANK}.json").write_text(json.dumps(results))
