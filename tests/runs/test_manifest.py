import json
import os
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from lightning_recipe.runs.manifest import SILENCE, Entry, file_hash


@pytest.fixture
def entry(tmp_path: Path) -> Entry:
    return Entry(tmp_path / "runs" / "member_0.json")


def hold(entry: Entry, pid: int, host: str = socket.gethostname()) -> None:
    entry.lock.parent.mkdir(exist_ok=True)
    entry.lock.write_text(json.dumps({"host": host, "pid": pid}))


def dead_process() -> int:
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return process.pid


def test_one_process_at_a_time(entry: Entry) -> None:
    assert entry.holder() is None
    assert entry.claim() is None
    assert entry.holder() == f"process {os.getpid()} on {socket.gethostname()}"
    assert entry.claim() == entry.holder(), "nobody takes it twice"
    entry.release()
    assert entry.claim() is None


def test_what_a_killed_process_held_is_free(entry: Entry) -> None:
    hold(entry, dead_process())
    assert entry.holder() is None
    assert entry.claim() is None


def test_a_process_of_another_machine_is_alive_while_it_says_so(entry: Entry) -> None:
    hold(entry, 1234, "elsewhere")
    assert entry.holder() == "process 1234 on elsewhere"
    long_ago = time.time() - SILENCE - 1
    os.utime(entry.lock, (long_ago, long_ago))
    assert entry.holder() is None
    entry.pulse()
    assert entry.claim() == "process 1234 on elsewhere"


def test_records(entry: Entry) -> None:
    assert entry.read() == {"status": "waiting"}
    entry.write({"status": "running", "epoch": 3})
    assert entry.read()["epoch"] == 3
    assert [path.name for path in entry.path.parent.iterdir()] == ["member_0.json"], "written beside, and renamed"
    for damaged in ('{"status": "runn', "[1, 2]"):
        entry.path.write_text(damaged)
        with pytest.raises(ValueError, match=r"member_0.json .*: remove it, and the run is made again"):
            entry.read()


def test_checkpoints_are_compared_with_their_hash(entry: Entry, tmp_path: Path) -> None:
    inside, outside = entry.path.parent / "member_0" / "best.ckpt", tmp_path / "outside.ckpt"
    for path in (inside, outside):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("weights")
    assert entry.described_checkpoint(str(inside)) == {"path": "member_0/best.ckpt", "sha256": file_hash(inside)}
    for path in (outside, inside):
        entry.write({"status": "finished", "checkpoint": entry.described_checkpoint(str(path))})
        assert entry.checkpoint() == path
    inside.write_text("other weights")
    with pytest.raises(ValueError, match=r"The checkpoint of member_0, .*best.ckpt, is damaged, .* remove .*0.json"):
        entry.checkpoint()
    inside.unlink()
    with pytest.raises(ValueError, match=r"The checkpoint of member_0, .*best.ckpt, is gone: put it back, or remove"):
        entry.checkpoint()
