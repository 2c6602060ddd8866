"""Settings, studies, and fits that do something else than train: what the tests of a search share."""

import copy
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from lightning_recipe.runs import pool
from lightning_recipe.runs.judged_by import Judge
from lightning_recipe.runs.search.dimension import Dimension
from lightning_recipe.runs.search.plan import Plan
from lightning_recipe.runs.search.samplers import make_pruner, make_sampler
from lightning_recipe.runs.search.search import Search
from lightning_recipe.runs.search.standing import Standing
from lightning_recipe.runs.search.storage import open_storage, open_study

SETTINGS: dict[str, Any] = {
    "seed_everything": 42,
    "fold": None,
    "model": {
        "class_path": "Model",
        "init_args": {
            "lr": 1e-3,
            "weight_decay": 0.01,
            "optimizer": "sgd",
            "optimizer_options": None,
            "hidden_size": 64,
            "num_layers": 2,
            "drop_rate": 0.0,
            "pretrained": False,
            "scheduler_options": {"decay_epochs": 3},
        },
    },
    "data": {"class_path": "Data", "init_args": {"batch_size": 32}},
    "trainer": {
        "max_epochs": 4,
        "logger": False,
        "callbacks": [{"class_path": "ModelCheckpoint", "init_args": {"monitor": "val/loss", "mode": "min"}}],
    },
}

# `fit --config all/trial_0000.yaml`: the loss is least at a rate of 1e-3, too high a rate uses all memory; while
# there is a file `slow` it does not go on (and says so by a file `.waits`), and with a file `patient` it lets others
# look at each epoch. The loss of a test is greater by 1 on each further fold.
SCRIPT = """
import json, math, os, socket, sys, time
from pathlib import Path
import yaml
config = Path(sys.argv[3])
settings = yaml.safe_load(config.read_text())
rate, fold = settings["model"]["init_args"]["lr"], int(str(settings.get("held_out", "0/1")).partition("/")[0])
lock = config.with_suffix(".lock")
lock.write_text(json.dumps({"host": socket.gethostname(), "pid": os.getpid()}))
history = []
def record(status, **told):
    best = {"name": "val/loss", "mode": "min", "value": min(value for _, value in history)} if history else None
    text = json.dumps({"status": status, "history": history, "best": best, **told})
    config.with_suffix(".new").write_text(text)
    os.replace(config.with_suffix(".new"), config.with_suffix(".json"))
def end(status, **told):
    record(status, **told)
    lock.unlink()
    sys.exit()
record("running")
if rate > 0.05:
    lock.unlink()
    print("out of memory")
    os.kill(os.getpid(), 9)
for epoch in range(1, 5):
    while config.with_name("slow").exists():
        config.with_suffix(".waits").touch()
        time.sleep(0.02)
    history.append([10 * epoch, (math.log10(rate) + 3) ** 2 + 1 / epoch])
    record("running")
    if config.with_name("patient").exists():
        time.sleep(0.3)
    if config.with_suffix(".stop").exists():
        end("stopped")
end("finished", test={"test/loss": (math.log10(rate) + 3) ** 2 + fold})
"""


@pytest.fixture
def settings() -> dict[str, Any]:
    """All settings of a `fit`, of which nothing is ever built."""
    return copy.deepcopy(SETTINGS)


@pytest.fixture
def script(tmp_path: Path) -> list[str]:
    """The words that start a fit that does not train."""
    (tmp_path / "train.py").write_text(SCRIPT)
    return [sys.executable, str(tmp_path / "train.py")]


@pytest.fixture
def plan() -> Callable[..., Plan]:
    """A plan to search a rate, or other dimensions."""

    def make(trials: int = 4, space: Sequence[Dimension] = (), mode: Any = "min", **options: Any) -> Plan:
        rate = Dimension("model.init_args.lr", "log10", -5, -2)
        metric = "test/loss" if options.get("folds") else "val/loss"
        return Plan(tuple(space) or (rate,), Judge(metric, mode), trials, **options)

    return make


@pytest.fixture
def opened(settings: dict[str, Any]) -> Callable[..., Search]:
    """The search of a plan, in the folder `all`."""

    def make(plan: Plan, where: str = "all/study.journal") -> Search:
        storage = open_storage(where)
        standing = Standing(storage, "all", plan)
        pruner = make_pruner(plan.pruner, 4)
        study = open_study(storage, "all", plan.describe(settings), where, make_sampler(plan, standing), pruner)
        return Search(study, standing, settings, Path("all"))

    return make


@pytest.fixture
def train(script: list[str]) -> Callable[..., Search]:
    """Make all fits of a search."""

    def run(search: Search, jobs: int = 2) -> Search:
        try:
            pool.train_apart(
                search.fits(), 0, pool.Places(script, jobs), total=None, ended=search.ended, look=search.look
            )
        finally:
            search.close()
        return search

    return run
