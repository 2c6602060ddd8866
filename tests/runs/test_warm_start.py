"""Processes that begin with everything imported: real ones, which say what they are."""

import json
import os
import sys
from pathlib import Path
from typing import Any

import pytest

from lightning_recipe.runs import pool
from lightning_recipe.runs.fit import Fit
from lightning_recipe.runs.pool import Places
from lightning_recipe.runs.warm_start import can_start_warm

# `fit --config FOLDER/NAME.yaml`
SCRIPT = """
import atexit, json, os, random, signal, sys
from pathlib import Path
config = Path(sys.argv[3])
warm = "lightning.pytorch" in sys.modules
import beside, torch
told = {
    "status": "finished", "warm": warm, "argv": sys.argv, "orig_argv": sys.orig_argv, "drawn": random.random(),
    "main": __name__, "threads": torch.get_num_threads(), "parent": os.environ.get("ONLY_HERE"),
    "beside": beside.value, "stdin": sys.stdin.read(),
}
if config.stem == "dies":
    os.kill(os.getpid(), signal.SIGSEGV)
if config.stem == "exits":
    sys.exit(3)
config.with_suffix(".json").write_text(json.dumps(told))
print("it prints")
atexit.register(print, "and at its end")
"""


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What four fits wrote, run two at a time from a server in another folder."""
    folder = tmp_path_factory.mktemp("warm")
    (folder / "train.py").write_text(SCRIPT)
    (folder / "beside.py").write_text("value = 'found'")
    before = os.getcwd()
    os.chdir(folder)
    os.environ["ONLY_HERE"] = "yes"
    try:
        fits = [Fit(Path("all"), name, {}) for name in ("one", "two", "dies", "exits")]
        pool.train_apart(fits, 0, Places([sys.executable, "train.py"], 2, warm=True))
        return {fit.name: json.loads(fit.entry.path.read_text()) | {"printed": fit.log.read_text()} for fit in fits} | {
            "main": sys.modules["__main__"]
        }
    finally:
        os.chdir(before)
        del os.environ["ONLY_HERE"]


def test_a_fit_begins_with_everything_imported_and_is_run_like_a_script(told: dict[str, Any]) -> None:
    one = told["one"]
    assert one["warm"]
    assert one["main"] == "__main__"
    assert one["argv"] == ["train.py", "fit", "--config", "all/one.yaml"]
    assert one["orig_argv"] == [sys.executable, "train.py", "fit", "--config", "all/one.yaml"]
    assert one["beside"] == "found", "what lies beside the script can be imported"
    assert one["parent"] == "yes"
    assert one["stdin"] == ""
    assert one["threads"] == max(1, int(os.environ.get("OMP_NUM_THREADS", 0)) or (os.cpu_count() or 1) // 2)


def test_fits_are_apart_from_each_other(told: dict[str, Any]) -> None:
    assert told["one"]["drawn"] != told["two"]["drawn"], "the server's random state is not that of its children"
    assert told["one"]["printed"] == "it prints\nand at its end\n"
    assert told["dies"]["error"] == "killed by signal 11"
    assert told["exits"]["error"] == "ended with status 3"
    assert sys.modules["__main__"] is told["main"]


def test_scripts_that_need_their_own_interpreter_start_cold() -> None:
    assert can_start_warm(["python", "train.py"])
    assert can_start_warm(["python", "-m", "package"])
    assert not can_start_warm(["python", "-O", "train.py"])
    assert not can_start_warm(["python", "-S", "-m", "package"])


def test_a_module_can_be_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "project.py").write_text(SCRIPT)
    (tmp_path / "beside.py").write_text("value = 'there'")
    fit = Fit(Path("all"), "one", {})
    pool.train_apart([fit], 0, Places([sys.executable, "-m", "project"], warm=True))
    assert fit.entry.read()["beside"] == "there"
    assert fit.entry.read()["warm"]
