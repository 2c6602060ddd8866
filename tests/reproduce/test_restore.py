"""A kept checkpoint comes back with its code and configuration, whole, or not at all and with one sentence."""

import hashlib
import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from lightning_rules import restore
from lightning_rules.repository.git import GitError
from lightning_rules.repository.kept_runs import checkpoint_file, list_runs, tag_of
from lightning_rules.repository.repository import Repository
from lightning_rules.repository.tags import tag_message, tag_name
from lightning_rules.reproduce.environment import versions
from lightning_rules.reproduce.run_record import describe_run

GitCall = Callable[..., str]
Keep = Callable[..., Path]


@pytest.fixture
def keep(project: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Path]:
    """Save, record and tag a checkpoint as GitTagCheckpoint does, of the project as it is now."""

    def call(run: str = "digits/version_0", step: int = 10, tagged: bool = True, **changes: Any) -> Path:
        monkeypatch.chdir(project)
        trainer = SimpleNamespace(
            loggers=[SimpleNamespace(name=run, version=None, save_dir="logs")],
            checkpoint_callbacks=[],
            callbacks=[],
            train_dataloader=None,
            fit_loop=None,
            default_root_dir=".",
        )
        record = {**describe_run(trainer, torch.nn.Linear(1, 1)), **changes}
        path = project / "logs" / run / f"{step}.ckpt"
        path.parent.mkdir(parents=True, exist_ok=True)
        torch.save({"run_record": record, "global_step": step, "state_dict": {"weight": torch.zeros(3)}}, path)
        sha256 = hashlib.sha256(path.read_bytes()).hexdigest()
        checkpoint = {"path": str(path), "sha256": sha256, "bytes": path.stat().st_size}
        full = {"metrics": {}, **record, "step": step, "epoch": 0, "tag": None}
        full.setdefault("checkpoint", checkpoint)
        if tagged:
            name, code = tag_name(record, step), full["code"]
            full["tag"] = Repository.find(project).tag(name, code["snapshot"], tag_message({**full, "tag": name}))
        Path(f"{path}.json").write_text(json.dumps(full))
        return path

    return call


def beside(project: Path) -> list[str]:
    return sorted(path.name for path in project.parent.iterdir() if path.name != "home")


@pytest.mark.parametrize("way", ["tag", "checkpoint", "json", "link", "run", "inside"])
def test_code_and_configuration_come_back(way: str, project: Path, keep: Keep, git: GitCall) -> None:
    (project / "model.py").write_text("layers = 2\n")
    (project / "new.py").write_text("new = True\n")
    path = keep(config="width: 5\n")
    (project / "model.py").write_text("layers = 3\n")
    (project / "new.py").unlink()
    link = project / "last.ckpt"
    if way == "inside":
        Path(f"{path}.json").unlink()
    if way == "link":
        link.symlink_to(path)
    tag = "runs/digits/version_0/10"
    ways = {"tag": tag, "json": f"{path}.json", "link": link, "run": "digits/version_0"}
    status = git(project, "status", "--porcelain")
    restored = restore(ways.get(way, path))
    assert restored.folder == project.parent / "project-digits-version_0-10"
    assert (restored.folder / "model.py").read_text() == "layers = 2\n"
    assert (restored.folder / "new.py").exists()
    assert restored.checkpoint.samefile(path)
    assert restored.config == restored.folder / "config.yaml"
    assert restored.config.read_text() == "width: 5\n"
    assert restored.tag == tag
    assert restored.commit == git(project, "rev-parse", f"{tag}^{{commit}}").strip()
    assert restored.notes == []
    assert git(project, "status", "--porcelain") == status
    assert tag in str(restored)


def test_commands_of_a_command_line(project: Path, keep: Keep) -> None:
    command = ["python", "../scripts/train.py", "fit", "--model.width=5"]
    record: dict[str, Any] = {"config": "width: 5\n", "config_source": "cli", "command": command, "folder": "src"}
    (project / "src" / "config.yaml").write_text("of the project")
    code = {"snapshot": Repository.find(project).snapshot("a run").commit, "import_paths": ["lib", "scripts"]}
    restored = restore(keep(**record, code=code), folder="new tree")
    folder, path = project / "new tree", project / "logs" / "digits" / "version_0" / "10.ckpt"
    modules = f"PYTHONPATH='{folder}/lib:{folder}/scripts'\"${{PYTHONPATH:+:$PYTHONPATH}}\""
    start = f"cd '{folder}/src' && {modules} {sys.executable} ../scripts/train.py"
    options = f"--config restored/config.yaml --ckpt_path {path}"
    assert restored.command == f"{start} test {options}"
    assert restored.resume == f"{start} fit {options}"
    assert (folder / "src" / "config.yaml").read_text() == "of the project"
    assert (folder / "src" / "restored" / "config.yaml").read_text() == "width: 5\n"


def test_without_a_command_line_the_recorded_words_are_given(project: Path, keep: Keep) -> None:
    restored = restore(keep(command=["python", "train.py", "--epochs", "3"], config_source="hparams", config="a: 1\n"))
    assert restored.command.endswith(" train.py --epochs 3")
    assert restored.resume is None


def test_what_differs_is_said(project: Path, keep: Keep) -> None:
    (project / "data").mkdir()
    (project / ".gitignore").write_text("logs/\ndata/\n")
    config = "root: data\nsave_dir: logs\nmonitor: val/loss\napi_key: '***'\n"
    changes = {"config": config, "config_source": "cli", "masked": ["api_key"]}
    (project / "large.ckpt").touch()
    restored = restore(keep(versions={**versions(), "torch": "1.0"}, **changes))
    assert restored.notes == [
        f"Versions differ from then: torch 1.0 to {versions()['torch']}.",
        "Not in the snapshot: large.ckpt (a checkpoint).",
        "The configuration holds *** for secrets: api_key.",
        f"The configuration names what git does not hold: link or copy data from {project}.",
    ]


@pytest.mark.parametrize("moved", ["folder", "project"])
def test_moved_checkpoints_are_found(moved: str, project: Path, keep: Keep, monkeypatch: pytest.MonkeyPatch) -> None:
    keep()
    monkeypatch.chdir(project.parent)
    if moved == "folder":
        new = project / "kept"
        (project / "logs" / "digits" / "version_0").rename(new)
        restored = restore(new / "10.ckpt.json", repository=project)
        assert restored.checkpoint == new / "10.ckpt"
    else:
        project.rename(project.parent / "renamed")
        restored = restore("runs/digits/version_0/10", repository="renamed")
        assert restored.checkpoint == project.parent / "renamed" / "logs" / "digits" / "version_0" / "10.ckpt"


def test_missing_and_altered_checkpoints_are_refused(project: Path, keep: Keep) -> None:
    path = keep()
    before = beside(project)
    with path.open("ab") as file:
        file.write(b"x")
    with pytest.raises(
        ValueError, match=r"is not the one that was saved: its SHA-256 differs; `git worktree add FOLDER"
    ):
        restore("digits/version_0")
    path.unlink()
    for what in ("runs/digits/version_0/10", path, f"{path}.json"):
        with pytest.raises(FileNotFoundError, match=r"is gone: it is not at .*10.ckpt; `git worktree add"):
            restore(what)
    keep(step=20, checkpoint={"path": "s3://bucket/20.ckpt", "sha256": "0" * 64})
    with pytest.raises(FileNotFoundError, match=r"is at s3://bucket/20.ckpt: fetch it, and name the file; `git"):
        restore("runs/digits/version_0/20")
    assert beside(project) == before


def test_code_that_is_gone_says_what_is_left(project: Path, keep: Keep, git: GitCall) -> None:
    (project / "model.py").write_text("layers = 2\n")
    path = keep(tagged=False, config="a: 1\n")
    git(project, "prune", "--expire=now")
    before = beside(project)
    said = r"git has pruned it, for no tag held it; its record still holds config, versions, data, and the commit that"
    with pytest.raises(ValueError, match=said):
        restore(path)
    path = keep(step=20, tagged=False, code={"why_not": "git is not installed."})
    with pytest.raises(ValueError, match=r"was not recorded \(git is not installed\); its record still holds"):
        restore(path)
    assert beside(project) == before


def test_nothing_is_half_done(project: Path, keep: Keep, monkeypatch: pytest.MonkeyPatch, git: GitCall) -> None:
    path = keep(config="a: 1\n", folder="model.py")  # a file, where a folder has to be
    before = beside(project)
    with pytest.raises(OSError, match=r"model\.py"):
        restore(path)
    assert beside(project) == before
    assert git(project, "worktree", "list", "--porcelain").count("worktree ") == 1
    (project.parent / "project-digits-version_0-20").mkdir()
    with pytest.raises(GitError, match="exists: name one that does not"):
        restore(keep(step=20))


def test_a_foreign_record_writes_nothing_outside(project: Path, keep: Keep) -> None:
    restored = restore(keep(config="a: 1\n", folder="../../elsewhere"))
    assert restored.config == restored.folder / "config.yaml"
    assert not (project.parent.parent / "elsewhere").exists()


def test_names_that_mean_nothing_or_too_much(project: Path, keep: Keep, git: GitCall) -> None:
    keep()
    keep("digits/version_1")
    with pytest.raises(ValueError, match=r"digits is the name of 2 runs \(digits/version_0, digits/version_1\)"):
        restore("digits")
    with pytest.raises(FileNotFoundError, match=r"nothing is no tag, run or checkpoint that .*project knows"):
        restore("nothing")
    (project / "foreign.ckpt").write_bytes(b"garbage")
    with pytest.raises(ValueError, match=r"cannot be loaded safely to look inside .*: name its tag or run instead"):
        restore("foreign.ckpt")
    torch.save({"state_dict": {}}, project / "plain.ckpt")
    with pytest.raises(ValueError, match="was not saved with GitTagCheckpoint"):
        restore("plain.ckpt")
    torch.save({"run_record": Path("not plain")}, project / "unsafe.ckpt")
    with pytest.raises(ValueError, match="cannot be loaded safely"):
        restore("unsafe.ckpt")
    (project / "odd.ckpt.json").write_text("[]")
    with pytest.raises(ValueError, match=r"odd\.ckpt\.json is not the record of a checkpoint"):
        restore("odd.ckpt.json")
    with pytest.raises(GitError, match="is in no git repository"):
        restore("digits", repository=project.parent / "home")


def test_a_run_means_its_best_checkpoint_or_its_newest(project: Path, keep: Keep) -> None:
    told = {"monitor": "loss", "mode": "min"}
    for step, loss in ((10, 0.5), (20, 0.3), (30, 0.4)):
        keep("known", step, metrics={"loss": loss}, **told)
        keep("unknown", step, metrics={"loss": loss})
    assert restore("known", folder="a").tag == "runs/known/20"
    assert restore("unknown", folder="b").tag == "runs/unknown/30"


def test_another_file_of_the_same_step_is_not_taken_for_altered(project: Path, keep: Keep) -> None:
    path = keep()
    last = path.with_name("last.ckpt")
    torch.save({**torch.load(path, weights_only=True), "other": 1}, last)
    restored = restore(last)
    assert (restored.checkpoint, restored.tag) == (last, "runs/digits/version_0/10")
    assert restored.notes == ["The checkpoint was not compared: no hash of it is recorded."]


def test_list_of_runs(project: Path, keep: Keep, git: GitCall) -> None:
    assert list_runs(project) == []
    paths = [
        keep(step=step, started=f"2026-11-21T0{step}:00:00+00:00", metrics={"loss": 0.5, "none": None})
        for step in (1, 2, 3)
    ]
    git(project, "tag", "--annotate", "runs/foreign", "--message", "a tag of another's")
    git(project, "tag", "runs/light")
    paths[1].unlink()
    paths[2].write_bytes(b"short")
    rows = list_runs(project)
    assert [(row.step, row.state) for row in rows] == [(1, "there"), (2, "missing"), (3, "altered")]
    assert {row.run for row in rows} == {"digits/version_0"}
    assert rows[0].metrics == {"loss": 0.5}
    assert rows[0].checkpoint == str(paths[0])


def test_tag_of_a_loaded_checkpoint(project: Path, keep: Keep, tmp_path: Path) -> None:
    loaded = torch.load(keep(), weights_only=True)
    assert tag_of(loaded) == "runs/digits/version_0/10"
    assert tag_of({**loaded, "global_step": 11}) is None
    assert tag_of({"state_dict": {}}) is None
    shutil.rmtree(project / ".git")
    assert tag_of(loaded) is None


def test_the_file_that_a_path_a_tag_or_a_run_means(project: Path, keep: Keep, tmp_path: Path) -> None:
    path = keep()
    relative = str(path.relative_to(project))
    assert [checkpoint_file(what, project) for what in (path, relative)] == [path, path]
    for what in ("runs/digits/version_0/10", "digits/version_0"):
        assert checkpoint_file(what) == path
    with path.open("ab") as file:
        file.write(b"x")
    assert checkpoint_file(path) == path, "a path is taken as it is"
    with pytest.raises(ValueError, match="is not the one that was saved: its SHA-256 differs"):
        checkpoint_file("digits/version_0")
    path.unlink()
    with pytest.raises(FileNotFoundError, match="is gone: it is not at"):
        checkpoint_file("digits/version_0")
    with pytest.raises(FileNotFoundError, match=r"nothing.ckpt is no tag, run or checkpoint that"):
        checkpoint_file("nothing.ckpt")
    with pytest.raises(FileNotFoundError, match=r"There is no checkpoint nothing: .*here is no git repository"):
        checkpoint_file("nothing", tmp_path / "home")
