"""Which runs of a procedure are finished, running or failed: a small file for each, so that machines do not race.

Beside the configuration `member_2.yaml` stands `member_2.json`, which the run itself writes, and while it is alive
`member_2.lock`, which it alone could make.
"""

import hashlib
import json
import os
import socket
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lightning_recipe.whole_file import whole_file

# A run on another machine that has not touched its lock for so many seconds is taken for dead.
SILENCE = 900.0
# How often a living run touches it, at most.
PULSE = 30.0


@dataclass(frozen=True)
class Entry:
    """The files of one run of a procedure.

    Args:
        path: Its record, `member_2.json`.
    """

    path: Path

    @property
    def name(self) -> str:
        """What the run is called: `member_2`."""
        return self.path.stem

    def read(self) -> dict[str, Any]:
        """Return the record: `status` is "waiting" where there is none yet, "running", "finished" or "failed".

        Raises:
            ValueError: If the file is damaged.
        """
        try:
            record = json.loads(self.path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            return {"status": "waiting"}
        except (OSError, ValueError) as error:
            raise ValueError(
                f"{self.path} cannot be read as the record of a run ({error}): remove it, and the run is made again."
            ) from error
        if not isinstance(record, dict) or "status" not in record:
            raise ValueError(f"{self.path} is not the record of a run: remove it, and the run is made again.")
        return record

    def write(self, record: Mapping[str, Any]) -> None:
        """Replace the record, which others see whole."""
        with whole_file(self.path) as file:
            json.dump(record, file, indent=1)

    def forget(self) -> None:
        """Remove the record of an attempt that has failed or was killed, before the next."""
        if self.holder() is None and self.read()["status"] != "finished":
            self.path.unlink(missing_ok=True)

    def checkpoint(self) -> Path:
        """Return the best checkpoint of a finished run, compared with its recorded hash.

        Raises:
            ValueError: If it is gone, or is not the one that was saved.
        """
        told = self.read()["checkpoint"]
        path = self.path.parent / str(told["path"])
        again = f"put it back, or remove {self.path} to train {self.name} again."
        if not path.is_file():
            raise ValueError(f"The checkpoint of {self.name}, {path}, is gone: {again}")
        if file_hash(path) != told["sha256"]:
            raise ValueError(f"The checkpoint of {self.name}, {path}, is damaged, for its SHA-256 differs: {again}")
        return path

    def described_checkpoint(self, path: str) -> dict[str, str]:
        """Path, relative to the record where it lies below it, and hash of a checkpoint."""
        absolute, here = Path(path).absolute(), self.path.parent.absolute()
        told = absolute.relative_to(here) if absolute.is_relative_to(here) else absolute
        return {"path": str(told), "sha256": file_hash(absolute)}

    @property
    def lock(self) -> Path:
        """The file that only a living run has."""
        return self.path.with_suffix(".lock")

    def holder(self) -> str | None:
        """Who is at work on this run, as in "process 123 on host"; None if nobody is."""
        try:
            told = json.loads(self.lock.read_text(encoding="utf-8"))
            silent = time.time() - self.lock.stat().st_mtime
        except FileNotFoundError:
            return None
        except (OSError, ValueError):
            told, silent = {"host": "another machine", "pid": 0}, 0.0  # it is being written
        alive = is_running(told["pid"]) if told["host"] == socket.gethostname() else silent < SILENCE
        return f"process {told['pid']} on {told['host']}" if alive else None

    def claim(self) -> str | None:
        """Take the run for this process; return who has it, if another process is at work on it."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        if self.lock.exists() and self.holder() is None:
            self.lock.unlink(missing_ok=True)  # its process was killed
        try:
            descriptor = os.open(self.lock, os.O_CREAT | os.O_EXCL | os.O_WRONLY)
        except FileExistsError:
            return self.holder() or "another process"
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            json.dump({"host": socket.gethostname(), "pid": os.getpid()}, file)
        return None

    def pulse(self) -> None:
        """Say that the run is alive, for other machines."""
        with suppress(OSError):
            os.utime(self.lock)

    def release(self) -> None:
        """Give the run back."""
        self.lock.unlink(missing_ok=True)


def is_running(pid: int) -> bool:
    """Whether a process of this machine is alive; one that nobody has waited for since its end is not."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except (PermissionError, OverflowError):
        pass
    try:
        state = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()[:1]
    except OSError:  # no Linux
        return True
    return state not in (["Z"], ["X"])


def file_hash(path: Path) -> str:
    """The SHA-256 of a file, in hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
