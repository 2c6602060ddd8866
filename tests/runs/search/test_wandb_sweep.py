"""The same search for W&B's agents, as W&B's own command takes it; and for several machines."""

import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest
import yaml

from lightning_recipe.runs.search.dimension import Dimension
from lightning_recipe.runs.search.plan import Plan
from lightning_recipe.runs.search.wandb_sweep import as_sweep
from lightning_recipe.runs.search.workers import as_commands, as_slurm, without

Make = Callable[..., Plan]
SPACE = [
    Dimension("model.init_args.lr", "log10", -5, -1),
    Dimension("model.init_args.optimizer_options.momentum", "one_minus_log10", -3, -1),
    Dimension("data.init_args.batch_size", "int", 16, 128),
    Dimension("model.init_args.drop_rate", "uniform", 0, 0.5),
    Dimension("model.init_args.optimizer", "choice", choices=("sgd", "adamw")),
]
SCRIPT = ["/usr/bin/python3", "scripts/train.py"]


def test_dimensions_have_distributions_of_wandb(plan: Make, settings: dict[str, Any]) -> None:
    text = as_sweep(plan(30, SPACE, pruner="median"), settings, SCRIPT, ["--config", "a.yaml"])
    sweep = yaml.safe_load(text)
    assert sweep["method"] == "random"
    assert sweep["metric"] == {"name": "val/loss", "goal": "minimize"}
    assert sweep["run_cap"] == 30
    rate, momentum, size, drop, kind = sweep["parameters"].values()
    assert rate == {"distribution": "log_uniform_values", "min": 1e-5, "max": 0.1}
    assert momentum["values"][::4] == pytest.approx([1 - 10 ** (-26 / 9), 0.99, 1 - 10 ** (-10 / 9)], rel=1e-5)
    assert size == {"distribution": "int_uniform", "min": 16, "max": 128}
    assert drop == {"distribution": "uniform", "min": 0.0, "max": 0.5}
    assert kind == {"values": ["sgd", "adamw"]}
    words = ["${env}", "python", "scripts/train.py", "fit", "--config", "a.yaml"]
    assert sweep["command"] == [*words, "--trainer.logger=WandbLogger", "--trainer.logger.save_dir=logs", "${args}"]
    assert sweep["early_terminate"] == {"type": "hyperband", "min_iter": 1, "eta": 3}
    assert "# W&B has no scale for 1 - 10^U(low, high)" in text
    settings["trainer"]["logger"] = {"class_path": "lightning.pytorch.loggers.WandbLogger", "init_args": {}}
    sweep = yaml.safe_load(as_sweep(plan(30, SPACE, sampler="tpe"), settings, SCRIPT, []))
    assert sweep["command"] == ["${env}", "python", "scripts/train.py", "fit", "${args}"]
    assert sweep["method"] == "bayes"
    assert "early_terminate" not in sweep


class Wandb(BaseHTTPRequestHandler):
    """The server of W&B, as far as `wandb sweep` asks it."""

    received: list[str] = []  # noqa: RUF012

    def do_POST(self) -> None:
        asked = json.loads(self.rfile.read(int(self.headers["content-length"])))
        answer: dict[str, Any] = {"viewer": {"id": "u", "entity": "me", "flags": "{}", "teams": {"edges": []}}}
        if "upsertSweep" in asked["query"]:
            self.received.append(asked["variables"]["config"])
            project = {"id": "1", "name": "digits", "entity": {"id": "2", "name": "me"}}
            answer = {"upsertSweep": {"sweep": {"name": "abc", "project": project}, "configValidationWarnings": []}}
        body = json.dumps({"data": answer}).encode()
        self.send_response(200)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *arguments: object) -> None:
        pass


@pytest.fixture
def server() -> Iterator[str]:
    with HTTPServer(("127.0.0.1", 0), Wandb) as listening:
        threading.Thread(target=listening.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{listening.server_port}"
        listening.shutdown()


def test_wandb_sweep_takes_it(plan: Make, settings: dict[str, Any], server: str) -> None:
    text = as_sweep(plan(30, SPACE, pruner="hyperband", sampler="gp"), settings, SCRIPT, ["--config", "a.yaml"])
    Path("sweep.yaml").write_text(text)
    words = [sys.executable, "-m", "wandb", "sweep", "--project", "digits", "--entity", "me", "sweep.yaml"]
    own = {"WANDB_BASE_URL": server, "WANDB_API_KEY": "0" * 40, "WANDB_MODE": "online", "HOME": str(Path.cwd())}
    done = subprocess.run(words, env={**os.environ, **own}, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert "Run sweep agent with: wandb agent me/digits/abc" in done.stderr
    assert "rror" not in done.stderr
    assert yaml.safe_load(Wandb.received[-1]) == yaml.safe_load(text)


def test_a_grid_is_of_values(plan: Make, settings: dict[str, Any]) -> None:
    sweep = yaml.safe_load(as_sweep(plan(9, [SPACE[0], SPACE[2]], sampler="grid"), settings, SCRIPT, []))
    assert sweep["method"] == "grid"
    assert sweep["parameters"]["data.init_args.batch_size"] == {"values": [34, 72, 110]}
    assert sweep["parameters"]["model.init_args.lr"]["values"] == pytest.approx([10 ** (-13 / 3), 1e-3, 10 ** (-5 / 3)])


def test_workers_get_the_same_command(tmp_path: Path) -> None:
    given = ["search", "--emit", "slurm", "--config", "a b.yaml", "--jobs=4", "--emit=commands", "--trials", "9"]
    words = ["python", *without(given, "--emit", "--jobs")]
    assert words == ["python", "search", "--config", "a b.yaml", "--trials", "9"]
    lines = as_commands(words, 3, "all/study.journal").splitlines()
    assert lines[0] == "# each on a machine or GPU of its own; they share the study in all/study.journal"
    assert lines[1:] == ["python search --config 'a b.yaml' --trials 9"] * 3
    text = as_slurm(["echo", "search", "a b.yaml"], 3, tmp_path)
    assert "#SBATCH --array=0-2" in text
    done = subprocess.run(["bash", "-c", f'srun() {{ "$@"; }}\n{text}'], capture_output=True, text=True, check=True)
    assert done.stdout == "search a b.yaml\n"
