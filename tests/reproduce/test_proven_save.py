"""A save leaves a checkpoint that has been read back, or the old one and an exception."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import threading
from argparse import Namespace
from collections.abc import Callable
from pathlib import Path
from typing import Any

import fsspec
import lightning.pytorch as L
import pytest
import torch
from lightning.pytorch.plugins.io import AsyncCheckpointIO

from lightning_rules.reproduce import checkpoint_file
from lightning_rules.reproduce.checkpoint_file import prove, remove_stale_parts, write_checkpoint
from lightning_rules.reproduce.proven_save import save_proven
from lightning_rules.testing.demo import DemoClassifier

STATE = {"state_dict": {"weight": torch.arange(1000.0)}, "global_step": 3}


class Unpicklable:
    """Refuses, as a handle or a lock does."""

    def __reduce__(self) -> Any:
        raise TypeError("cannot pickle this")


class Saver(L.Callback):
    """Saves at the end of training."""

    def __init__(self, path: str, **options: Any) -> None:
        self.path, self.options, self.saved = path, options, None

    def on_train_end(self, trainer: Any, pl_module: Any) -> None:
        self.saved = save_proven(trainer, self.path, **self.options)


def test_what_is_saved_is_what_lightning_saves_and_loads_safely(train: Callable[..., Any]) -> None:
    saver = Saver("ours.ckpt", extra={"run_record": {"id": "a"}})
    trainer = train(saver, enable_checkpointing=False)
    trainer.save_checkpoint("theirs.ckpt")
    ours, theirs = (torch.load(path, weights_only=True) for path in ("ours.ckpt", "theirs.ckpt"))
    assert ours.pop("run_record") == {"id": "a"}
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours["state_dict"][key], value) for key, value in theirs["state_dict"].items())
    content = Path("ours.ckpt").read_bytes()
    assert (saver.saved.sha256, saver.saved.bytes) == (hashlib.sha256(content).hexdigest(), len(content))
    assert saver.saved.refused == ()
    resumed = train(epochs=3, ckpt_path="ours.ckpt", enable_checkpointing=False)
    assert resumed.global_step == 6


def test_weights_only(train: Callable[..., Any]) -> None:
    train(Saver("weights.ckpt", weights_only=True), enable_checkpointing=False)
    assert "optimizer_states" not in torch.load("weights.ckpt", weights_only=True)


def test_a_class_that_a_safe_load_refuses_is_named(train: Callable[..., Any]) -> None:
    module = DemoClassifier()
    module.save_hyperparameters({"options": Namespace(depth=3)})
    saver = Saver("odd.ckpt")
    train(saver, module=module, enable_checkpointing=False)
    assert saver.saved.refused == ("argparse.Namespace",)


def test_a_remote_path_is_written_by_lightning_and_read_back(train: Callable[..., Any]) -> None:
    saver = Saver("memory://bucket/remote.ckpt")
    train(saver, enable_checkpointing=False)
    with fsspec.open("memory://bucket/remote.ckpt", "rb") as file:
        assert saver.saved.sha256 == hashlib.sha256(file.read()).hexdigest()


def test_an_asynchronous_plugin_does_not_return_before_the_file_is_there(train: Callable[..., Any]) -> None:
    saver = Saver("now.ckpt")
    train(saver, enable_checkpointing=False, plugins=[AsyncCheckpointIO()])
    assert saver.saved.bytes == Path("now.ckpt").stat().st_size


def test_a_state_that_cannot_be_pickled_leaves_the_old_file_and_names_the_entry(train: Callable[..., Any]) -> None:
    class Holds(DemoClassifier):
        def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
            checkpoint["handle"] = threading.Lock()

    Path("a.ckpt").write_bytes(b"old")
    with pytest.raises(RuntimeError, match=r"its entry 'handle' cannot be pickled \(TypeError.*keep handles"):
        train(Saver("a.ckpt"), module=Holds(), enable_checkpointing=False)
    assert (os.listdir(), Path("a.ckpt").read_bytes()) == (["a.ckpt"], b"old")


def test_a_state_that_cannot_be_dumped_raises(train: Callable[..., Any]) -> None:
    class Fails(DemoClassifier):
        def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
            raise KeyError("mine")

    with pytest.raises(RuntimeError, match="mine"):
        train(Saver("a.ckpt"), module=Fails(), enable_checkpointing=False)
    assert os.listdir() == []


@pytest.mark.parametrize(
    ("path", "said"),
    [("gone/a.ckpt", "the folder gone is gone"), ("file/a.ckpt", "the folder file is gone")],
)
def test_a_folder_that_is_none_is_one_sentence(path: str, said: str) -> None:
    Path("file").write_text("not a folder")
    with pytest.raises(OSError, match=said) as caught:
        write_checkpoint(STATE, path)
    assert str(caught.value).count("\n") == 0
    assert os.listdir() == ["file"]


def test_bytes_that_changed_on_the_disk_are_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    """A disk that loses a bit, played by a hand that flips one after the flush."""
    write_checkpoint(STATE, "a.ckpt")
    before = Path("a.ckpt").read_bytes()
    flush = os.fsync

    def flip(handle: int) -> None:
        flush(handle)
        for part in Path().glob(".*.part"):
            content = bytearray(part.read_bytes())
            content[len(content) // 2] ^= 1
            part.write_bytes(content)

    monkeypatch.setattr(checkpoint_file.os, "fsync", flip)
    with pytest.raises(OSError, match="it holds other bytes than were written"):
        write_checkpoint({**STATE, "global_step": 4}, "a.ckpt")
    assert (os.listdir(), Path("a.ckpt").read_bytes()) == (["a.ckpt"], before)


def test_other_weights_than_went_in_are_noticed() -> None:
    saved = write_checkpoint(STATE, "a.ckpt")
    assert prove(Path("a.ckpt"), saved.sha256, STATE["state_dict"]) == ()
    for other in ({"weight": torch.zeros(999)}, {"weight": torch.zeros(1000).double()}, {}):
        with pytest.raises(RuntimeError, match="other weights"):
            prove(Path("a.ckpt"), saved.sha256, other)


def test_a_name_that_another_run_takes_meanwhile_is_not_overwritten() -> None:
    Path("a.ckpt").write_bytes(b"theirs")
    with pytest.raises(OSError, match=r"another run wrote that name.*`dirpath` of its own"):
        write_checkpoint(STATE, "a.ckpt", overwrite=False)
    assert (os.listdir(), Path("a.ckpt").read_bytes()) == (["a.ckpt"], b"theirs")
    write_checkpoint(STATE, "a.ckpt")
    assert torch.load("a.ckpt", weights_only=True)["global_step"] == 3


def test_an_interrupt_during_a_save_leaves_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(*arguments: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(checkpoint_file, "prove", interrupt)
    with pytest.raises(KeyboardInterrupt):
        write_checkpoint(STATE, "a.ckpt")
    assert os.listdir() == []


def test_only_parts_of_dead_processes_are_removed() -> None:
    dead = subprocess.run([sys.executable, "-c", "import os; print(os.getpid())"], capture_output=True, text=True)
    with subprocess.Popen(
        [sys.executable, "-c", "import fcntl, sys\nfile = open('.e.ckpt.999999999.part', 'wb')\n"
         "fcntl.flock(file, fcntl.LOCK_EX)\nprint('locked', flush=True)\nsys.stdin.read()"],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE,
    ) as living:  # fmt: skip
        living.stdout.readline()  # type: ignore[union-attr]
        ours = [f".a.ckpt.{dead.stdout.strip()}.part", f".b.ckpt.{os.getpid()}.part"]
        others = [f".c.ckpt.{living.pid}.part", "d.part", ".d.123.part.txt", ".x.part"]
        for name in [*ours, *others]:
            Path(name).write_text("half")
        assert sorted(remove_stale_parts(Path())) == sorted(ours)
        assert sorted(os.listdir()) == sorted([*others, ".e.ckpt.999999999.part"])  # its owner is on another machine
        living.stdin.close()  # type: ignore[union-attr]
    assert remove_stale_parts(Path("nowhere")) == []
