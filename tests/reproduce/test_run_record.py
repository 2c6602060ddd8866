"""What a run's record says, that it survives JSON and a safe load, and that secrets stay out of it."""

import importlib
import json
import subprocess
import sys
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import lightning as L
import pytest
import torch
import yaml
from lightning.pytorch.demos.boring_classes import BoringModel
from lightning.pytorch.loggers import CSVLogger
from torch.utils.data import DataLoader, IterableDataset, Subset, TensorDataset

from lightning_rules.repository.tags import parse_tag_message, tag_message, tag_name
from lightning_rules.reproduce.data_fingerprint import describe_dataset
from lightning_rules.reproduce.environment import versions
from lightning_rules.reproduce.plain_values import mask_secrets, plain, without_secrets
from lightning_rules.reproduce.resolved_config import resolved_config
from lightning_rules.reproduce.run_record import describe_run, own_folders, run_name

GitCall = Callable[..., str]
QUIET = {"enable_progress_bar": False, "enable_model_summary": False, "enable_checkpointing": False}


class Recorder(L.Callback):
    """Takes the record where GitTagCheckpoint does."""

    record: dict[str, Any]

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self.record = describe_run(trainer, pl_module)


class Tiny(BoringModel):
    """A module with hyperparameters and 64 examples."""

    def __init__(self, width: int = 3, api_key: str | None = None) -> None:
        super().__init__()
        self.save_hyperparameters()

    def train_dataloader(self) -> DataLoader[Any]:
        return DataLoader(TensorDataset(torch.arange(64 * 32.0).view(64, 32)), batch_size=8)


class WithoutTuple(Tiny):
    def training_step(self, batch: Any, batch_idx: int) -> Any:
        return super().training_step(batch[0], batch_idx)


def recorded(**options: Any) -> dict[str, Any]:
    recorder = Recorder()
    options = {"logger": CSVLogger("logs", "digits"), "limit_val_batches": 0, "max_steps": 1, **QUIET, **options}
    L.Trainer(callbacks=[recorder], accelerator="cpu", **options).fit(WithoutTuple(width=5))
    return recorder.record


def test_record_of_a_run(project: Path, git: GitCall, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(project / "src")
    monkeypatch.setenv("PL_GLOBAL_SEED", "42")
    monkeypatch.setenv("MY_SECRET", "do-not-store-me")
    (project / "model.py").write_text("layers = 2\n")
    record = recorded()
    head = git(project, "rev-parse", "HEAD").strip()
    code = record["code"]
    assert (code["commit"], code["branch"], code["dirty"], code["why_not"]) == (head, "main", True, None)
    assert git(project, "show", f"{code['snapshot']}:model.py") == "layers = 2\n"
    assert record["id"] in git(project, "show", "-s", "--format=%B", code["snapshot"])
    assert (record["format"], record["run"], record["folder"], record["seed"]) == (1, "digits/version_0", "src", 42)
    assert record["versions"] == versions()
    assert abs((datetime.now(UTC) - datetime.fromisoformat(record["started"])).total_seconds()) < 60
    config = yaml.safe_load(record["config"])
    assert config["model"]["init_args"] == {"width": 5, "api_key": None}
    assert record["config_source"] == "hparams"
    assert record["data"]["datasets"][0]["length"] == 64
    assert record["data"]["datasets"][0]["fingerprint"]
    assert "do-not-store-me" not in json.dumps(record)
    assert json.loads(json.dumps(record)) == record
    torch.save({"run_record": record}, tmp_path / "a.ckpt")
    assert torch.load(tmp_path / "a.ckpt", weights_only=True)["run_record"] == record


def test_run_folders_leave_the_code_clean(project: Path, git: GitCall, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(project)
    (project / ".gitignore").unlink()
    git(project, "commit", "--quiet", "--all", "--message", "nothing is ignored")
    (project / "logs" / "digits" / "version_0").mkdir(parents=True)
    (project / "logs" / "digits" / "version_0" / "metrics.csv").write_text("1")
    record = recorded()
    assert record["run"] == "digits/version_1"
    assert (record["code"]["dirty"], record["code"]["snapshot"]) == (False, record["code"]["commit"])


def test_own_folders_never_hold_the_program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "code").mkdir()
    monkeypatch.chdir(tmp_path / "code")
    loggers = [CSVLogger(".", "digits", version=0), CSVLogger("..", "other", version=0), CSVLogger("../logs", None, 0)]
    keeper = SimpleNamespace(dirpath="s3://bucket/checkpoints")
    trainer = SimpleNamespace(loggers=loggers, checkpoint_callbacks=[keeper])
    found = {str(folder.relative_to(tmp_path.resolve())) for folder in own_folders(trainer)}
    assert found == {"code/digits", "code/digits/version_0", "other", "other/version_0", "logs", "logs/version_0"}


def test_without_a_repository_the_rest_is_there(tmp_path: Path, home: Path) -> None:
    record = recorded(logger=False)
    assert record["code"]["why_not"].endswith("is in no git repository: make one with `git init`, or work in one.")
    assert (record["code"]["commit"], record["code"]["snapshot"], record["folder"]) == (None, None, ".")
    assert record["run"].startswith(f"{tmp_path.name}/20")
    assert record["config"]
    assert record["data"]["datasets"]


def test_a_tree_too_large_keeps_its_commit(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from lightning_rules.repository import working_tree

    monkeypatch.setattr(working_tree, "MOST_FILES", 0)
    monkeypatch.chdir(project)
    (project / "new.py").touch()
    code = recorded()["code"]
    assert (code["commit"] is not None, code["dirty"], code["snapshot"]) == (True, True, None)
    assert "1 untracked files, and 0 are the most" in code["why_not"]


@pytest.mark.slow
def test_configuration_and_words_of_a_command_line(project: Path) -> None:
    """As a program: the configuration that LightningCLI parsed, from which the command line makes the same run."""
    (project / "train.py").write_text(
        "import json\nfrom lightning.pytorch import Callback\nfrom lightning.pytorch.cli import LightningCLI\n"
        "from lightning.pytorch.demos.boring_classes import BoringModel\n"
        "class Model(BoringModel):\n"
        "    def __init__(self, width: int = 3, api_key: str = ''):\n        super().__init__()\n"
        "class Recorder(Callback):\n"
        "    def on_train_start(self, trainer, pl_module):\n"
        "        from lightning_rules.reproduce.run_record import describe_run\n"
        "        json.dump(describe_run(trainer, pl_module), open('record.json', 'w'))\n"
        "if __name__ == '__main__':\n    LightningCLI(Model, trainer_defaults={'callbacks': [Recorder()]})\n"
    )
    options = ["--trainer.max_steps=1", "--trainer.logger=false", "--trainer.enable_checkpointing=false"]
    options += ["--trainer.limit_val_batches=0", "--trainer.accelerator=cpu", "--model.width=7"]
    command = [sys.executable, str(project / "train.py"), "fit", *options, "--model.api_key", "hunter2"]
    subprocess.run(command, cwd=project / "src", check=True, capture_output=True)
    text = (project / "src" / "record.json").read_text()
    record = json.loads(text)
    assert "hunter2" not in text
    assert record["command"] == ["python", "../train.py", "fit", *options, "--model.api_key", "***"]
    assert (record["config_source"], record["masked"]) == ("cli", ["model.api_key"])
    config = yaml.safe_load(record["config"])
    assert (config["model"]["width"], config["trainer"]["max_steps"]) == (7, 1)
    assert record["code"]["import_paths"] == ["."]
    assert record["seed"] == config["seed_everything"]


@pytest.mark.parametrize("namespace", ["lightning.pytorch", "pytorch_lightning"])
def test_configuration_of_either_namespace(namespace: str) -> None:
    cli = importlib.import_module(f"{namespace}.cli").LightningCLI
    model = importlib.import_module(f"{namespace}.demos.boring_classes").BoringModel
    made = cli(model, args=["--trainer.max_steps=7", "--trainer.accelerator=cpu"], run=False)
    config = resolved_config(made.trainer, made.model)
    assert config.source == "cli"
    assert yaml.safe_load(str(config.text))["trainer"]["max_steps"] == 7


def test_run_names() -> None:
    started = datetime(2026, 11, 21, 7, 5, 9, tzinfo=UTC)

    def named(**logger: Any) -> str:
        loggers = [SimpleNamespace(save_dir="logs", **logger)] if logger else []
        return run_name(SimpleNamespace(loggers=loggers, default_root_dir="/somewhere/project"), started)

    assert named(name="digits", version=3) == "digits/version_3"
    assert named(name="digits", version="abc123") == "digits/abc123"
    assert named(name=None, version=0) == "logs/version_0"
    assert named(name="digits", version=None) == "digits"
    assert named(name="", version="") == "project/20261121-070509"
    assert named() == "project/20261121-070509"


@pytest.mark.parametrize(
    ("run", "monitor", "score", "expected"),
    [
        ("digits/version_3", "val/accuracy", torch.tensor(0.98333), "runs/digits/version_3/408-val-accuracy=0.9833"),
        ("digits/version_3", None, None, "runs/digits/version_3/408"),
        ("digits", "loss", None, "runs/digits/408-loss"),
        ("digits", "loss", float("nan"), "runs/digits/408-loss=nan"),
        ("../.hidden//a b~^:?*[\\@{.lock", "x..y", 1e-9, "runs/run/hidden/a-b--lock/408-x.y=1e-09"),
        ("/", "a.lock", None, "runs/408-a-lock"),
        ("é" * 300, "-", 0.5, f"runs/{'é' * 60}/408--=0.5"),
    ],
)
def test_tag_names_are_legal(
    run: str, monitor: str | None, score: Any, expected: str, git: GitCall, project: Path
) -> None:
    name = tag_name({"run": run}, 408, monitor, score)
    git(project, "check-ref-format", f"refs/tags/{name}")
    git(project, "tag", name)
    assert name == expected


def test_tag_messages_hold_the_record() -> None:
    full = {"format": 1, "run": "digits/version_3", "step": 408, "metrics": {"val/accuracy": 0.98333, "epoch": 3}}
    message = tag_message({**full, "config": "a: 1\n\nb: 2\n"})
    assert message.splitlines()[0] == "digits/version_3, step 408, val/accuracy 0.9833"
    assert parse_tag_message(message) == {**full, "config": "a: 1\n\nb: 2\n"}
    for foreign in ("Release 1.0", "a\n\n[1]", "a\n\n{}", ""):
        with pytest.raises(ValueError, match="Expected a tag of GitTagCheckpoint"):
            parse_tag_message(foreign)


def test_secrets_of_a_command_line() -> None:
    words = [
        "fit",
        "--model.api_key=abc",
        "--hub-token",
        "abc",
        "--lr",
        "1",
        "PASSWORD=abc",
        "--a={'api_key': 'abc', 'b': 1}",
    ]
    words += ["--uri=http://me:abc@host/x", "--secret", "--lr=2"]
    assert without_secrets(words) == [
        *(
            "fit",
            "--model.api_key=***",
            "--hub-token",
            "***",
            "--lr",
            "1",
            "PASSWORD=***",
            "--a={'api_key': ***, 'b': 1}",
        ),
        *("--uri=http://***@host/x", "--secret", "--lr=2"),
    ]


def test_secrets_of_a_configuration() -> None:
    names = {"pad_token": "<pad>", "max_tokens": 5, "key": "image", "monitor": "val/key", "hf_token": None}
    config = {**names, "logger": [{"api_key": "abc", "password": "abc"}], "uri": "http://me:abc@host/x"}
    assert mask_secrets(config) == ["logger.0.api_key", "logger.0.password", "uri"]
    assert config == {**names, "logger": [{"api_key": "***", "password": "***"}], "uri": "http://***@host/x"}


def test_plain_values() -> None:
    value = {"path": Path("a"), 1: (torch.tensor(2), {3.0}), "none": None, "net": torch.nn.ReLU(), "bytes": "\udcff"}
    expected = {"path": "a", "1": [2, [3.0]], "none": None, "net": "torch.nn.modules.activation.ReLU"}
    assert plain(value) == {**expected, "bytes": "\\udcff"}


def test_data_fingerprints_tell_data_apart() -> None:
    x, y = torch.randn(100, 3), torch.arange(100) % 7

    def fingerprint(dataset: Any) -> str | None:
        return describe_dataset(dataset)["fingerprint"]

    same = fingerprint(TensorDataset(x, y))
    assert same is not None
    assert same == fingerprint(TensorDataset(x.clone(), y.clone()))
    relabelled = y.clone()
    relabelled[50] += 1
    others = [TensorDataset(x + 1, y), TensorDataset(x, relabelled), TensorDataset(x[:99], y[:99])]
    subsets = [Subset(TensorDataset(x, y), list(range(start, start + 50))) for start in (0, 1)]
    assert len({same, *map(fingerprint, [*others, *subsets])}) == 6
    column = SimpleNamespace(_fingerprint="abc", __len__=lambda: 3)
    assert describe_dataset(column)["of"] == "Hugging Face's fingerprint"


def test_unknown_data_says_so_and_is_not_read() -> None:
    class Silent:
        def __len__(self) -> int:
            return 10**12

        def __getitem__(self, index: int) -> None:
            raise AssertionError("an example was read")

    class Stream(IterableDataset[int]):
        def __iter__(self) -> Any:
            raise AssertionError("the stream was read")

    class Broken:
        @property
        def targets(self) -> None:
            raise RuntimeError("no labels today")

        def __len__(self) -> int:
            return 3

    state = torch.get_rng_state()
    assert describe_dataset(Silent())["of"] == "unknown data set: only class and length are known"
    assert describe_dataset(Stream()) == {**describe_dataset(Stream()), "length": None, "fingerprint": None}
    assert describe_dataset(Broken())["of"] == "unknown data set (RuntimeError: no labels today)"
    assert torch.equal(state, torch.get_rng_state())
