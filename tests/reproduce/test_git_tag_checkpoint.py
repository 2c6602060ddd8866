"""Checkpoints and their code: records, tags, what is kept, what is removed, and how a killed run goes on."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import shutil
from argparse import Namespace
from collections.abc import Callable
from pathlib import Path
from typing import Any

import fsspec
import lightning.pytorch as L
import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.cli import LightningCLI
from lightning.pytorch.demos.boring_classes import BoringDataModule, BoringModel
from lightning.pytorch.loggers import CSVLogger

from lightning_rules import GitTagCheckpoint, Severity
from lightning_rules.repository.tags import parse_tag_message
from lightning_rules.reproduce import proven_checkpoint, run_files
from lightning_rules.reproduce.code_state import continued, judge_code
from lightning_rules.reproduce.kept_files import is_taken
from lightning_rules.reproduce.proven_save import read_back_folder
from lightning_rules.testing.demo import DemoClassifier

Train = Callable[..., Any]
CODE = {"commit": "a" * 40, "dirty": False, "snapshot": "a" * 40, "tree": "t", "left_out": [], "why_not": None}


class Scored(DemoClassifier):
    """Logs scores that the test chooses, one an epoch."""

    def __init__(self, *scores: float) -> None:
        super().__init__()
        self.scores = scores

    def on_train_epoch_end(self) -> None:
        self.log("score", self.scores[self.current_epoch])


class Killed(BaseException):
    """Stands for SIGKILL: nothing of the process runs after it."""


def files(folder: str = "kept") -> list[str]:
    return sorted(os.listdir(folder))


def both(*names: str) -> list[str]:
    return sorted(name for stem in names for name in (f"{stem}.ckpt", f"{stem}.ckpt.json"))


def beside(name: str) -> dict[str, Any]:
    record: dict[str, Any] = json.loads(Path("kept", f"{name}.ckpt.json").read_text())
    return record


def tags(here: Callable[..., str]) -> list[str]:
    return here("tag", "--list", "--sort=refname").splitlines()


def said(rule: GitTagCheckpoint) -> list[str]:
    return [finding.message for finding in rule.findings]


# What is recorded, and tied to what


def test_record_and_tag_tie_a_checkpoint_to_its_code(train: Train, keep: Any, here: Any) -> None:
    rule = keep()
    train(rule, module=Scored(1, 2))
    commit = here("rev-parse", "HEAD")
    inside, record = torch.load("kept/step=4.ckpt", weights_only=True), beside("step=4")
    assert inside["run_record"]["id"] == record["id"] == rule.run_record["id"]
    assert inside["run_record"]["code"]["commit"] == commit
    assert record["checkpoint"]["sha256"] == run_files.file_hash("kept/step=4.ckpt")
    assert record["checkpoint"]["path"] == os.path.realpath("kept/step=4.ckpt")
    assert (record["step"], record["epoch"], record["metrics"]["score"]) == (4, 1, 2.0)
    assert (record["monitor"], record["mode"]) == ("score", "max")  # by which `restore` finds the best of a run
    assert tags(here) == [record["tag"]]
    assert record["tag"].endswith("/4-score=2")
    assert here("rev-parse", f"{record['tag']}^{{commit}}") == commit
    told = parse_tag_message(here("tag", "-l", "--format=%(contents)", record["tag"]))
    assert told == record
    assert said(rule) == [f"Checkpoints of this run are tied to commit {commit[:7]}."]


def test_a_dirty_tree_is_tagged_by_its_snapshot(train: Train, keep: Any, here: Any) -> None:
    Path("model.py").write_text("layers = 2\n")
    Path("new.py").write_text("new\n")
    rule = keep()
    train(rule, module=Scored(1, 2))
    tag = beside("step=4")["tag"]
    assert here("show", f"{tag}^{{commit}}:model.py") == "layers = 2"
    assert here("ls-tree", "--name-only", f"{tag}^{{commit}}").splitlines() == [
        ".gitignore",
        "model.py",
        "new.py",
        "src",
    ]
    assert "(dirty tree: snapshot " in said(rule)[0]
    assert here("status", "--porcelain").splitlines()[:2] == ["M model.py", "?? kept/"]


@pytest.mark.parametrize(
    ("policy", "tagged"), [("none", []), ("best", ["4-score=2"]), ("all", ["4-score=2", "6-score=1.5"])]
)
def test_policies(train: Train, keep: Any, here: Any, policy: str, tagged: list[str]) -> None:
    train(keep(policy=policy), epochs=3, module=Scored(1, 2, 1.5), limit_val_batches=0)
    assert files() == both("last", "step=4")
    assert beside("last")["step"] == 6  # though it was not among the best
    assert [tag.rpartition("/")[2] for tag in tags(here)] == tagged


def test_all_also_tags_last_and_moves_its_tag(train: Train, keep: Any, here: Any) -> None:
    train(keep(policy="all", every_n_epochs=1, save_top_k=-1), epochs=3, module=Scored(1, 2, 3))
    names = {name: beside(name)["tag"] for name in ("step=2", "step=4", "step=6", "last")}
    assert sorted(names.values()) == tags(here)
    assert names["last"] == names["step=6"] + "-2"


def test_without_a_repository_the_run_goes_on_and_the_record_stays(train: Train, keep: Any) -> None:
    rule = keep()
    train(rule, module=Scored(1, 2))
    assert rule.findings[0].message.startswith("Checkpoints are tied to no commit: ")
    assert [finding.severity for finding in rule.findings] == [Severity.INFO]
    assert beside("step=4")["tag"] is None
    assert beside("step=4")["id"]


def test_a_tag_that_git_refuses_is_said_once(train: Train, keep: Any, here: Any) -> None:
    shutil.rmtree(".git/refs/tags")
    Path(".git/refs/tags").write_text("in the way")
    rule = keep(save_top_k=-1)
    train(rule, epochs=3, module=Scored(1, 2, 3))
    troubles = [finding for finding in rule.findings if "tag was not made" in finding.message]
    assert 1 <= len(troubles) <= 3
    assert all(finding.severity is Severity.INFO for finding in troubles)
    assert files() == both("last", "step=2", "step=4", "step=6")


def test_require_clean(train: Train, keep: Any, here: Any) -> None:
    (Path(".git/info/exclude")).write_text("kept/\n")
    train(keep(require_clean=True), module=Scored(1, 2))
    Path("model.py").write_text("layers = 2\n")
    with pytest.raises(RuntimeError, match="differs from the last commit, and `require_clean` is set; commit it"):
        train(keep(require_clean=True), module=Scored(1, 2))
    shutil.rmtree(".git")
    with pytest.raises(RuntimeError, match=r"has no commit \("):
        train(keep(require_clean=True), module=Scored(1, 2))


def test_two_rules_share_one_record(train: Train, keep: Any, here: Any) -> None:
    best, newest = keep(), GitTagCheckpoint(dirpath="other", every_n_train_steps=3)
    train(newest, best, module=Scored(1, 2))
    assert best.run_record == newest.run_record
    assert files("other") == both("epoch=1-step=3")


def test_what_the_user_saves_by_hand_holds_the_record(train: Train, keep: Any) -> None:
    trainer = train(keep(), module=Scored(1, 2))
    trainer.save_checkpoint("mine.ckpt")
    assert torch.load("mine.ckpt", weights_only=True)["run_record"]["id"] == beside("last")["id"]


def test_classes_that_a_safe_load_refuses_are_said_once(train: Train, keep: Any) -> None:
    module = Scored(1, 2)
    module.save_hyperparameters({"options": Namespace(depth=3)})
    rule = keep()
    train(rule, module=module)
    assert len([text for text in said(rule) if "argparse.Namespace" in text and "weights_only=False" in text]) == 1


# What is kept, and what goes


def test_the_worst_goes_with_record_and_tag(train: Train, keep: Any, here: Any) -> None:
    here("tag", "-a", "-m", "mine", "runs/mine")
    rule = keep(save_top_k=2)
    train(rule, epochs=4, module=Scored(3, 1, 4, 2))
    assert files() == both("last", "step=2", "step=6")
    assert {tag.rpartition("/")[2] for tag in tags(here)} == {"2-score=3", "6-score=4", "mine"}
    assert os.path.basename(rule.best_model_path) == "step=6.ckpt"


def test_the_old_goes_only_after_last_is_rewritten(train: Train, keep: Any, monkeypatch: Any) -> None:
    """Killed between best and last, the run can go on from the old last, whose best is still there."""
    save = proven_checkpoint.save_proven

    def killed_at_the_second_last(trainer: Any, path: str, *rest: Any, **more: Any) -> Any:
        if trainer.global_step == 4 and path.endswith("last.ckpt"):
            raise Killed
        return save(trainer, path, *rest, **more)

    with monkeypatch.context() as patch:
        patch.setattr(proven_checkpoint, "save_proven", killed_at_the_second_last)
        with pytest.raises(Killed):
            train(keep(), epochs=3, module=Scored(1, 2, 3))
    assert files() == both("last", "step=2", "step=4")
    assert torch.load("kept/last.ckpt", weights_only=True)["global_step"] == 2
    rule = keep()
    trainer = train(rule, epochs=3, module=Scored(1, 2, 3), ckpt_path="last")
    assert files() == both("last", "step=6")  # step=4 was written again, not as step=4-v1, and removed in its turn
    assert trainer.global_step == 6
    assert os.path.basename(rule.best_model_path) == "step=6.ckpt"


def test_removals_that_a_kill_prevented_are_made_up_for(train: Train, keep: Any, monkeypatch: Any) -> None:
    def killed(*_: Any) -> None:
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(GitTagCheckpoint, "_on_replaced", killed)
        with pytest.raises(Killed):
            train(keep(), epochs=2, module=Scored(1, 2))
    assert files() == both("last", "step=2", "step=4")
    train(keep(), epochs=3, module=Scored(1, 2, 1), ckpt_path="last")
    assert files() == both("last", "step=4")


def test_a_kill_while_an_old_one_is_deleted_leaves_no_tag_behind(train: Train, keep: Any, here: Any) -> None:
    """Tag, checkpoint, record: what is left still tells what else has to go."""

    def killed(*_: Any) -> str:
        raise Killed

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(run_files, "delete_record", killed)
        with pytest.raises(Killed):
            train(keep(), module=Scored(1, 2))
    assert files() == sorted([*both("last", "step=4"), "step=2.ckpt.json"])
    assert [tag.rpartition("/")[2] for tag in tags(here)] == ["4-score=2"]
    train(keep(), epochs=3, module=Scored(1, 2, 1), ckpt_path="last")
    assert files() == both("last", "step=4")


def test_two_runs_in_one_folder_leave_each_other_alone(train: Train, keep: Any, here: Any) -> None:
    first, second = keep(), keep()
    train(first, module=Scored(1, 2))
    before = {name: Path("kept", name).read_bytes() for name in files()}
    train(second, module=Scored(3, 4))
    assert first.run_record["id"] != second.run_record["id"]
    assert files() == both("last", "last-v1", "step=4", "step=4-v1")
    assert {name: Path("kept", name).read_bytes() for name in before} == before
    assert len(tags(here)) == 2


def test_an_instance_that_fits_again_starts_over(train: Train, here: Any) -> None:
    rule = GitTagCheckpoint(filename="{step}", monitor="score", mode="max")
    train(rule, module=Scored(8, 9), default_root_dir="a")
    first = rule.run_record["id"]
    train(rule, module=Scored(1, 2), default_root_dir="b")
    assert (files("a/checkpoints"), files("b/checkpoints")) == (both("step=4"), both("step=4"))
    assert rule.best_model_path.endswith("b/checkpoints/step=4.ckpt")
    assert rule.run_record["id"] != first


def test_one_trainer_that_fits_on_goes_on_with_its_record(train: Train, keep: Any) -> None:
    rule = keep()
    trainer = train(rule, module=Scored(1, 2, 3))
    record = rule.run_record["id"]
    trainer.fit_loop.max_epochs = 3
    trainer.fit(Scored(1, 2, 3))
    assert (rule.run_record["id"], files()) == (record, both("last", "step=6"))


def test_a_link_is_there_at_any_moment(train: Train, keep: Any, here: Any) -> None:
    train(keep(save_last="link"), module=Scored(1, 2))
    assert files() == sorted([*both("step=4"), "last.ckpt"])
    assert os.readlink("kept/last.ckpt") == "step=4.ckpt"
    trainer = train(keep(save_last="link"), epochs=3, module=Scored(1, 2, 3), ckpt_path="last")
    assert trainer.global_step == 6
    assert os.readlink("kept/last.ckpt") == "step=6.ckpt"


def test_save_on_exception(train: Train, keep: Any) -> None:
    class Fails(Scored):
        def on_train_epoch_start(self) -> None:
            if self.current_epoch == 1:
                raise ValueError("mine")

    with pytest.raises(ValueError, match="mine"):
        train(keep(save_on_exception=True, every_n_epochs=5), module=Fails(1, 2))
    assert files() == both("last", "step=2")


def test_a_failed_save_is_not_tried_again(train: Train, keep: Any, monkeypatch: Any) -> None:
    tries = []

    def full(*arguments: Any, **options: Any) -> Any:
        tries.append(arguments)
        raise OSError("full")

    monkeypatch.setattr(proven_checkpoint, "save_proven", full)
    with pytest.raises(OSError, match="full"):
        train(keep(save_on_exception=True), module=Scored(1, 2))
    assert len(tries) == 1


def test_fast_dev_run_writes_nothing(train: Train, keep: Any, here: Any) -> None:
    rule = keep()
    train(rule, module=Scored(1, 2), fast_dev_run=True)
    assert said(rule) == ["Does not apply: fast_dev_run saves no checkpoints."]
    assert not os.path.exists("kept")


# A resumed run


def test_a_resumed_run_keeps_its_record_and_tells_of_changed_code(train: Train, keep: Any, here: Any) -> None:
    first = keep()
    train(first, module=Scored(1, 2, 3))
    same, other = keep(), keep()
    train(same, epochs=3, module=Scored(1, 2, 1), ckpt_path="last")
    assert same.run_record["id"] == first.run_record["id"]
    assert same.run_record["earlier"] == []
    Path("model.py").write_text("layers = 2\n")
    train(other, epochs=4, module=Scored(1, 2, 1, 3), ckpt_path="last")
    assert other.run_record["id"] == first.run_record["id"]
    assert [session["code"] for session in other.run_record["earlier"]] == [first.run_record["code"]]
    assert len([text for text in said(other) if text.startswith("The code has changed since this run began")]) == 1
    assert beside("step=8")["earlier"] == other.run_record["earlier"]
    again = keep()
    train(again, epochs=5, module=Scored(1, 2, 1, 3, 1), ckpt_path="last")
    assert len(again.run_record["earlier"]) == 1  # the same dirty tree: a new snapshot, but no other code


def test_a_resumed_run_knows_what_it_saved_last(train: Train, keep: Any) -> None:
    """The state in a checkpoint tells of this very checkpoint: its step is not saved again."""
    rule = keep()
    train(rule, module=Scored(1, 2))
    inside = torch.load("kept/last.ckpt", weights_only=True)["callbacks"][rule.state_key]
    other = keep()
    other.load_state_dict(inside)
    assert other._last_global_step_saved == rule._last_global_step_saved == 4
    assert other._last_checkpoint_saved == rule._last_checkpoint_saved == os.path.realpath("kept/last.ckpt")


def test_only_what_this_run_wrote_later_and_does_not_keep_is_written_again(train: Train, keep: Any) -> None:
    rule = keep()
    train(rule, module=Scored(1, 2))
    path, run = rule.best_model_path, rule.run_record["id"]
    assert not is_taken(rule._fs, path, run, step=4, kept=set())
    assert not is_taken(rule._fs, "kept/nothing.ckpt", run, step=4, kept=set())
    assert is_taken(rule._fs, path, run, step=5, kept=set())
    assert is_taken(rule._fs, path, run, step=4, kept={path})
    assert is_taken(rule._fs, path, "another", step=4, kept=set())


def test_best_checkpoints_that_are_gone_are_forgotten(train: Train, keep: Any, here: Any) -> None:
    train(keep(save_top_k=2), epochs=3, module=Scored(3, 1, 2))
    os.unlink("kept/step=2.ckpt")
    rule = keep(save_top_k=2)
    train(rule, epochs=4, module=Scored(3, 1, 2, 1), ckpt_path="last")
    gone = [finding for finding in rule.findings if finding.severity is Severity.WARNING]
    assert [finding.message for finding in gone] == [
        "1 of the best checkpoints that the resumed run knew are gone: step=2.ckpt."
    ]
    assert {os.path.basename(path): float(score) for path, score in rule.best_k_models.items()} == {
        "step=6.ckpt": 2, "step=8.ckpt": 1,
    }  # fmt: skip
    assert os.path.basename(rule.best_model_path) == "step=6.ckpt"
    assert float(rule.best_model_score) == 2


def test_a_folder_that_was_moved_is_followed(train: Train, keep: Any) -> None:
    train(keep(), module=Scored(5, 2))
    os.rename("kept", "moved")
    rule = keep(dirpath="moved")
    train(rule, epochs=3, module=Scored(5, 2, 4), ckpt_path="moved/last.ckpt")
    assert files("moved") == both("last", "step=2")
    assert rule.best_model_path == os.path.realpath("moved/step=2.ckpt")


def test_best_of_another_folder_still_counts_and_stays(train: Train, keep: Any) -> None:
    train(keep(), module=Scored(5, 2))
    rule = keep(dirpath="new")
    train(rule, epochs=4, module=Scored(5, 2, 4, 6), ckpt_path="kept/last.ckpt")
    assert rule.best_model_path == os.path.realpath("new/step=8.ckpt")
    assert (files(), files("new")) == (both("last", "step=2"), both("last", "step=8"))


def test_last_is_the_newest_by_its_step_whatever_the_clock_says(train: Train, keep: Any) -> None:
    rule = keep()
    train(rule, module=Scored(1, 2, 3))
    shutil.copy("kept/last.ckpt", "kept/last-v1.ckpt")
    shutil.copy("kept/last.ckpt.json", "kept/last-v1.ckpt.json")
    trainer = train(keep(), epochs=3, module=Scored(1, 2, 3), ckpt_path="last")
    assert files() == both("last", "last-v1", "step=6")
    newest = next(name for name in ("last", "last-v1") if beside(name)["step"] == 6)
    os.utime(f"kept/{newest}.ckpt", (0, 0))
    assert keep()._find_last_checkpoints(trainer) == {os.path.realpath(f"kept/{newest}.ckpt")}


def test_last_is_found_among_the_versions_of_a_logger(tmp_path: Path) -> None:
    """Each start of a program gets a folder of its own; Lightning alone finds nothing there and begins anew."""

    def start(epochs: int, ckpt_path: str | None = None) -> L.Trainer:
        keep = GitTagCheckpoint(save_last=True, policy="none")
        logger = CSVLogger(str(tmp_path), name="digits")
        quiet = {"enable_progress_bar": False, "enable_model_summary": False, "accelerator": "cpu"}
        trainer = L.Trainer(max_epochs=epochs, limit_train_batches=2, logger=logger, callbacks=[keep], **quiet)
        trainer.fit(DemoClassifier(), ckpt_path=ckpt_path)
        return trainer

    first, second = start(1), start(2, "last")
    assert first.log_dir != second.log_dir
    assert second.ckpt_path == str(Path(str(first.log_dir), "checkpoints", "last.ckpt"))
    assert second.global_step == 4


def damage(path: str) -> None:
    content = bytearray(Path(path).read_bytes())
    content[len(content) // 2] ^= 1
    Path(path).write_bytes(content)


def test_a_damaged_last_is_passed_over(train: Train, keep: Any, caplog: Any, monkeypatch: Any) -> None:
    trainer = train(keep(), module=Scored(1, 2))
    for name in ("last.ckpt", "last.ckpt.json"):
        shutil.copy(f"kept/{name}", f"kept/{name.replace('last', 'last-v1')}")
    damage("kept/last.ckpt")
    monkeypatch.setattr(logging.getLogger("lightning_rules"), "propagate", True)
    assert keep()._find_last_checkpoints(trainer) == {os.path.realpath("kept/last-v1.ckpt")}
    assert "last.ckpt is damaged and was passed over" in caplog.text
    damage("kept/last-v1.ckpt")
    assert keep()._find_last_checkpoints(trainer) == {os.path.realpath("kept/step=4.ckpt")}
    damage("kept/step=4.ckpt")
    assert keep()._find_last_checkpoints(trainer) == set()


def test_a_kill_between_a_checkpoint_and_its_record_costs_nothing(train: Train, keep: Any) -> None:
    train(keep(), module=Scored(1, 2, 3))
    shutil.copy("kept/last.ckpt.json", "old.json")
    trainer = train(keep(), epochs=3, module=Scored(1, 2, 3), ckpt_path="last")
    last = {os.path.realpath("kept/last.ckpt")}
    shutil.copy("old.json", "kept/last.ckpt.json")
    assert keep()._find_last_checkpoints(trainer) == last
    os.unlink("kept/last.ckpt.json")
    assert keep()._find_last_checkpoints(trainer) == last
    assert run_files.run_and_step("kept/last.ckpt")[1] == 6


def test_a_last_that_needs_an_unsafe_load_is_found_without_its_record(train: Train, keep: Any) -> None:
    module = Scored(1, 2)
    module.save_hyperparameters({"options": Namespace(depth=3)})
    trainer = train(keep(), module=module)
    os.unlink("kept/last.ckpt.json")
    assert keep()._find_last_checkpoints(trainer) == {os.path.realpath("kept/last.ckpt")}
    damage("kept/last.ckpt")
    assert keep()._find_last_checkpoints(trainer) == {os.path.realpath("kept/step=4.ckpt")}


def test_a_folder_of_shards_is_hashed_found_and_ordered(train: Train, keep: Any) -> None:
    trainer = train(keep(monitor=None), epochs=1)
    shards = Path("kept/last-v1.ckpt")
    shards.mkdir()
    (shards / "0.distcp").write_bytes(b"first")
    (shards / "1.distcp").write_bytes(b"second")
    first = read_back_folder(shards)
    assert first.bytes == 11
    (shards / "1.distcp").write_bytes(b"decond")
    assert read_back_folder(shards).sha256 != first.sha256
    run_files.write_record({**beside("last"), "step": 9}, str(shards))
    assert keep()._find_last_checkpoints(trainer) == {os.path.realpath(shards)}


def test_a_remote_folder(train: Train, keep: Any, here: Any) -> None:
    rule = keep(dirpath="memory://bucket/kept")
    train(rule, module=Scored(1, 2))
    files = sorted(path.rpartition("/")[2] for path in fsspec.filesystem("memory").ls("/bucket/kept", detail=False))
    assert files == both("last", "step=4")
    record = run_files.read_record(rule.best_model_path)
    assert record["tag"] == here("tag")
    with fsspec.open(rule.best_model_path, "rb") as file:
        assert hashlib.file_digest(file, "sha256").hexdigest() == record["checkpoint"]["sha256"]
    other = keep(dirpath="memory://bucket/kept")
    train(other, epochs=3, module=Scored(1, 2, 3), ckpt_path=rule.last_model_path)
    assert other.run_record["id"] == rule.run_record["id"]
    assert here("tag").endswith("/6-score=3")


# As a callback of either Trainer, and of the command line


def test_it_takes_the_place_of_model_checkpoint(train: Train, keep: Any) -> None:
    rule, seen = keep(), []

    class Last(L.Callback):
        def on_train_start(self, trainer: Any, pl_module: Any) -> None:
            seen.extend(trainer.callbacks)

    trainer = train(rule, Last(), module=Scored(1, 2))
    assert trainer.checkpoint_callbacks == [rule]
    assert trainer.checkpoint_callback is rule
    assert seen[-1] is rule
    assert isinstance(rule, ModelCheckpoint)


def test_options_of_model_checkpoint_have_its_names_and_defaults() -> None:
    import inspect

    theirs = inspect.signature(ModelCheckpoint.__init__).parameters
    ours = inspect.signature(GitTagCheckpoint.__init__).parameters
    assert {name: ours[name].default for name in theirs} == {name: theirs[name].default for name in theirs}


def test_command_line() -> None:
    cli = LightningCLI(
        BoringModel,
        BoringDataModule,
        args=["fit", "--trainer.max_steps=1", "--trainer.accelerator=cpu", "--trainer.logger=false",
              "--trainer.callbacks=lightning_rules.GitTagCheckpoint", "--trainer.callbacks.dirpath=kept",
              "--trainer.callbacks.policy=all", "--trainer.callbacks.train_time_interval=00:00:00"],
    )  # fmt: skip
    assert cli.trainer.checkpoint_callback.policy == "all"
    assert cli.trainer.checkpoint_callback.train_time_interval.total_seconds() == 0
    assert files()


@pytest.mark.parametrize(
    "options", [{"policy": "some"}, {"margin": -0.1}, {"margin": float("nan")}, {"margin": True}], ids=str
)
def test_wrong_options(options: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="Expected `"):
        GitTagCheckpoint(**options)


# Judgements


def test_findings_about_code() -> None:
    def messages(code: dict[str, Any], before: Any = None) -> list[str]:
        return [finding.message for finding in judge_code("rule", {"code": {**CODE, **code}}, before)]

    assert messages({}) == ["Checkpoints of this run are tied to commit aaaaaaa."]
    assert messages({"dirty": True, "snapshot": "b" * 40, "left_out": ["big.bin"]}) == [
        "Checkpoints of this run are tied to commit aaaaaaa (dirty tree: snapshot bbbbbbb).",
        "The snapshot of the code leaves out 1 files: big.bin.",
    ]
    (unsaved,) = judge_code("rule", {"code": {**CODE, "dirty": True, "snapshot": None, "why_not": "Too large."}}, None)
    assert unsaved.severity is Severity.WARNING
    assert unsaved.message.endswith("there is no snapshot: Too large.")
    assert messages({"commit": None, "why_not": "No git."}) == ["Checkpoints are tied to no commit: No git."]
    assert len(messages({}, {"code": {**CODE, "commit": "c" * 40}})) == 2
    assert len(messages({}, {"code": CODE})) == 1


def test_a_record_goes_on() -> None:
    before = {"id": "1", "run": "a", "started": "then", "code": CODE, "seed": 1}
    now = {"id": "2", "run": "b", "started": "now", "code": {**CODE, "tree": "u"}, "seed": 2}
    after = continued(now, before)
    assert (after["id"], after["run"], after["started"], after["seed"]) == ("1", "a", "then", 2)
    assert after["earlier"] == [{"resumed": "now", "code": CODE}]
    third = continued({**now, "started": "later"}, after)
    assert third["earlier"] == after["earlier"]
