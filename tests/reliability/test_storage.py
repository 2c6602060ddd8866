"""Real disks that fail: full, read-only, gone; clocks that jump, runs that share a folder, repositories in a mess."""

from __future__ import annotations

import json
import os
import resource
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import lightning.pytorch as L
import pytest
import torch
from lightning.pytorch.loggers import CSVLogger
from lightning.pytorch.strategies import SingleDeviceStrategy

from lightning_rules import GitTagCheckpoint
from lightning_rules.reproduce import run_files
from lightning_rules.reproduce.checkpoint_file import file_hash
from lightning_rules.testing.demo import DemoClassifier


class Growing(DemoClassifier):
    """Logs the epoch as its score, and brings more to each checkpoint: no size is known beforehand."""

    def __init__(self, kilobytes: int = 0) -> None:
        super().__init__()
        self.kilobytes = kilobytes

    def on_train_epoch_end(self) -> None:
        self.log("score", float(self.current_epoch + 1))

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint["more"] = torch.zeros(self.current_epoch * self.kilobytes * 250)


class In(L.Callback):
    """Does something when an epoch starts."""

    def __init__(self, epoch: int, deed: Callable[[], Any]) -> None:
        self.epoch, self.deed = epoch, deed

    def on_train_epoch_start(self, trainer: Any, pl_module: Any) -> None:
        if trainer.current_epoch == self.epoch:
            self.deed()


def train(
    folder: Any, *callbacks: Any, epochs: int = 3, kilobytes: int = 0, ckpt_path: Any = None, **options: Any
) -> GitTagCheckpoint:
    """Fit with checkpoints in a folder; the rule that kept them."""
    options = {"filename": "{step}", "monitor": "score", "mode": "max", "save_last": True} | options
    keep = GitTagCheckpoint(dirpath=str(folder), **options)
    trainer = L.Trainer(
        accelerator="cpu",
        max_epochs=epochs,
        limit_train_batches=2,
        limit_val_batches=0,
        logger=CSVLogger("logs", name="digits", version="first"),
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=[keep, *callbacks],
    )
    trainer.fit(Growing(kilobytes), ckpt_path=ckpt_path)
    return keep


def expect_whole(folder: Any, *names: str) -> None:
    """Exactly these checkpoints are there, each with its record, and each holds what its record says."""
    expected = sorted(f"{name}.ckpt{end}" for name in names for end in ("", ".json"))
    assert sorted(os.listdir(folder)) == expected
    for name in names:
        path = Path(folder, f"{name}.ckpt")
        record = json.loads(Path(f"{path}.json").read_text())
        assert file_hash(path) == record["checkpoint"]["sha256"]
        assert torch.load(path, weights_only=True)["global_step"] == record["step"]


def one_sentence(error: pytest.ExceptionInfo[BaseException]) -> str:
    text = str(error.value)
    assert "\n" not in text
    return text


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 256 kB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    done = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", str(folder)], capture_output=True)
    if done.returncode:
        pytest.skip("mounting needs a privilege; the limit on file sizes is tested instead")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


@pytest.fixture
def size_limit() -> Iterator[None]:
    """No file may grow beyond 100 kB: writing fails, as on a full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, hard))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_disk_that_fills_up_ends_the_run_and_keeps_what_was_there(small_disk: Path) -> None:
    with pytest.raises(OSError, match=r"the disk is full \(0\.000 GB are free\); make room there or choose") as error:
        train(small_disk, kilobytes=250)
    assert "step=4.ckpt" in one_sentence(error)
    expect_whole(small_disk, "last", "step=2")


def test_a_disk_that_is_too_small_ends_the_run_before_it_starts(small_disk: Path) -> None:
    (small_disk / "other").write_bytes(b"x" * 255_000)
    with pytest.raises(OSError, match=r"need .* GB \(3 files of .* GB, and 500000% to spare\), but .* GB are free"):
        train(small_disk, margin=5000)
    assert os.listdir(small_disk) == ["other"]


def test_a_disk_without_room_for_the_record_keeps_the_old(small_disk: Path, monkeypatch: Any) -> None:
    """The checkpoint still fits, its record does not."""
    write = run_files.write_text

    def fill_and_write(text: str, path: Path) -> None:
        if path.name == "step=4.ckpt.json":
            free = shutil.disk_usage(small_disk).free
            (small_disk / "other").write_bytes(b"x" * free)
        write(text, path)

    monkeypatch.setattr(run_files, "write_text", fill_and_write)
    with pytest.raises(OSError, match=r"step=4\.ckpt\.json was not written, because the disk is full"):
        train(small_disk)
    (small_disk / "other").unlink()
    assert (small_disk / "step=4.ckpt").exists()
    (small_disk / "step=4.ckpt").unlink()
    expect_whole(small_disk, "last", "step=2")


@pytest.mark.usefixtures("size_limit")
def test_a_limit_on_sizes_ends_the_run_and_keeps_what_was_there() -> None:
    with pytest.raises(OSError, match=r"the system forbids files of this size; raise the limit") as error:
        train("kept", kilobytes=150)
    assert "step=4.ckpt" in one_sentence(error)
    expect_whole("kept", "last", "step=2")


def test_after_the_disk_has_room_again_the_run_goes_on(small_disk: Path) -> None:
    (small_disk / "other").write_bytes(b"x" * 120_000)
    with pytest.raises(OSError, match="the disk is full"):
        train(small_disk, kilobytes=90)
    (small_disk / "other").unlink()
    keep = train(small_disk, kilobytes=10, ckpt_path="last")
    expect_whole(small_disk, "last", "step=6")
    assert os.path.basename(keep.best_model_path) == "step=6.ckpt"


def test_a_folder_that_becomes_read_only(small_disk: Path) -> None:
    def lock() -> None:
        subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)

    with pytest.raises(OSError, match=r"cannot be written .*mend its permissions or choose another `dirpath`") as error:
        train(small_disk, In(1, lock))
    one_sentence(error)
    expect_whole(small_disk, "last", "step=2")


@pytest.mark.skipif(os.geteuid() == 0, reason="permissions do not bind root; a read-only disk is tested instead")
def test_a_folder_whose_permissions_change() -> None:
    try:
        with pytest.raises(OSError, match=r"cannot be written .*mend its permissions"):
            train("kept", In(1, lambda: os.chmod("kept", 0o555)))
    finally:
        os.chmod("kept", 0o755)
    expect_whole("kept", "last", "step=2")


def test_a_file_in_the_place_of_the_folder_ends_the_run_before_it_starts() -> None:
    Path("kept").write_text("mine")
    with pytest.raises(OSError, match=r"The folder .*kept for checkpoints cannot be made .*choose another"):
        train("kept")
    assert Path("kept").read_text() == "mine"


def test_a_folder_that_vanishes_is_not_made_again() -> None:
    """It may have been unmounted: what is written below an empty mount point is lost later."""
    with pytest.raises(OSError, match="kept is gone; was it moved, deleted or unmounted") as error:
        train("kept", In(1, lambda: os.rename("kept", "elsewhere")))
    one_sentence(error)
    assert not os.path.exists("kept")
    expect_whole("elsewhere", "last", "step=2")


def test_old_checkpoints_that_cannot_be_deleted_stay(monkeypatch: pytest.MonkeyPatch) -> None:
    """Deleting fails: the run goes on, and says so."""

    def lock(*_: Any) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(SingleDeviceStrategy, "remove_checkpoint", lock)
    keep = train("kept", epochs=2)
    expect_whole("kept", "last", "step=2", "step=4")
    assert "An old checkpoint was not deleted" in keep.findings[-1].message


def test_a_clock_that_jumps_does_not_choose_what_is_resumed() -> None:
    train("kept")
    shutil.copytree("kept", "older")
    train("kept", epochs=4, ckpt_path="last")
    for end in ("", ".json"):
        os.rename(f"older/last.ckpt{end}", f"kept/last-v1.ckpt{end}")
    os.utime("kept/last.ckpt", (0, 0))
    os.utime("kept/last-v1.ckpt", (2**32, 2**32))
    resumed = []
    train("kept", In(4, lambda: resumed.append(4)), In(3, lambda: resumed.append(3)), epochs=5, ckpt_path="last")
    assert resumed == [4]


def test_two_runs_in_one_folder_at_the_same_time() -> None:
    """The second runs as a whole within the first."""
    second: list[GitTagCheckpoint] = []
    first = train("kept", In(1, lambda: second.append(train("kept"))))
    expect_whole("kept", "last", "last-v1", "step=6", "step=6-v1")
    for keep, last, best in ((first, "last", "step=6-v1"), (second[0], "last-v1", "step=6")):
        assert os.path.basename(keep.best_model_path) == f"{best}.ckpt"
        for name in (last, best):
            inside = torch.load(f"kept/{name}.ckpt", weights_only=True)
            assert inside["run_record"]["id"] == keep.run_record["id"]  # type: ignore[index]


@pytest.fixture
def git(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., str]:
    """Call git in a repository of the test's own, which is the working folder."""
    settings = tmp_path / "gitconfig"
    settings.write_text("[user]\n\tname = A Tester\n\temail = tester@example.org\n[init]\n\tdefaultBranch = main\n")
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", str(settings))
    monkeypatch.setenv("GIT_CONFIG_NOSYSTEM", "1")
    root = tmp_path / "project"
    root.mkdir()
    monkeypatch.chdir(root)

    def call(*arguments: str) -> str:
        done = subprocess.run(["git", *arguments], cwd=root, capture_output=True, text=True, check=True)
        return done.stdout.strip()

    (root / "model.py").write_text("layers = 1\n")
    call("init", "--quiet")
    call("add", "--all")
    call("commit", "--quiet", "--message", "first")
    return call


def test_a_tag_that_exists_is_not_moved(git: Callable[..., str]) -> None:
    git("tag", "-a", "-m", "mine", "runs/digits/first/6-score=3")
    before = git("rev-parse", "runs/digits/first/6-score=3")
    keep = train("kept")
    assert git("tag").splitlines() == ["runs/digits/first/6-score=3", "runs/digits/first/6-score=3-2"]
    assert json.loads(Path("kept/step=6.ckpt.json").read_text())["tag"] == "runs/digits/first/6-score=3-2"
    assert git("rev-parse", "runs/digits/first/6-score=3") == before
    assert len(keep.findings) == 1


def test_a_detached_head(git: Callable[..., str]) -> None:
    git("checkout", "--quiet", "--detach")
    keep = train("kept")
    code = keep.run_record["code"]  # type: ignore[index]
    assert (code["branch"], code["commit"]) == (None, git("rev-parse", "HEAD"))
    assert git("tag") == "runs/digits/first/6-score=3"


def test_a_lock_that_another_git_left(git: Callable[..., str]) -> None:
    Path("model.py").write_text("layers = 2\n")
    Path(".git/index.lock").write_text("")
    index = Path(".git/index").read_bytes()
    keep = train("kept")
    assert git("show", "runs/digits/first/6-score=3^{commit}:model.py") == "layers = 2"
    assert Path(".git/index.lock").read_text() == ""
    assert Path(".git/index").read_bytes() == index
    assert "(dirty tree: snapshot " in keep.findings[0].message


def test_locked_tags_are_said_and_the_run_goes_on(git: Callable[..., str]) -> None:
    """Where no tag can be made, the record in the checkpoint and beside it stays."""
    Path(".git/refs/tags/runs").write_text("in the way")
    keep = train("kept")
    expect_whole("kept", "last", "step=6")
    assert json.loads(Path("kept/step=6.ckpt.json").read_text())["tag"] is None
    assert any("A tag was not made or not deleted: git tag failed" in finding.message for finding in keep.findings)
