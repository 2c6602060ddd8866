"""A checkpoint on a local disk: written beside, flushed, read back, and only then put in its place."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import re
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, cast

import torch
from torch import Tensor

locks: Any
try:
    import fcntl as locks
except ImportError:  # Windows
    locks = None

GIGABYTE = 1e9
_PART = re.compile(r"\..+\.(\d+)\.part")


@dataclass(frozen=True)
class SavedFile:
    """A checkpoint that has been read back.

    Attributes:
        path: Where it is.
        sha256: Of its bytes, in hexadecimal.
        bytes: Its size.
        refused: Classes in it that ``torch.load(weights_only=True)`` refuses; empty in a checkpoint of plain values.
    """

    path: str
    sha256: str
    bytes: int
    refused: tuple[str, ...] = ()


class _HashingFile:
    """What ``torch.save`` writes to: hashes what passes, and remembers the first error, which torch covers up."""

    def __init__(self, file: IO[bytes]) -> None:
        self.file, self.hash, self.bytes = file, hashlib.sha256(), 0
        self.error: OSError | None = None

    def write(self, data: Any) -> int:
        if self.error is not None:
            return len(data)  # the file is lost already; let torch come to its end
        try:
            self.file.write(data)
        except OSError as error:
            self.error = error
        self.hash.update(data)
        self.bytes += len(data)
        return len(data)

    def flush(self) -> None:
        """Left to the caller, who flushes once."""


def write_checkpoint(state: Mapping[str, Any], path: str | os.PathLike[str], overwrite: bool = True) -> SavedFile:
    """Write a state beside its path, read it back, and rename it: at ``path`` is the old file or the new, both whole.

    Args:
        state: What ``torch.save`` takes; its entry "state_dict" is compared with what the file holds.
        path: Local; its folder exists.
        overwrite: Whether a file may stand there already.

    Raises:
        OSError: The file could not be written, or holds other bytes than were written; one sentence. Nothing is left
            of it, and an earlier file stands as it was.
        RuntimeError: The state cannot be pickled, or does not load again; likewise.
    """
    path = Path(path)
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        with open(part, "wb") as file:
            _lock(file)
            sha256, size = _write(state, file)
        refused = prove(part, sha256, state.get("state_dict", {}))
        _put_in_place(part, path, overwrite)
        sync_folder(path.parent)
    except OSError as error:
        raise OSError(explain(error, path)) from error
    finally:
        with contextlib.suppress(OSError):
            part.unlink(missing_ok=True)
    return SavedFile(str(path), sha256, size, refused)


def _lock(file: IO[bytes]) -> None:
    """Tell other runs that this file has a living owner, wherever that runs; some file systems know no locks."""
    if locks is not None:
        with contextlib.suppress(OSError):
            locks.flock(file, locks.LOCK_EX | locks.LOCK_NB)


def _write(state: Mapping[str, Any], file: IO[bytes]) -> tuple[str, int]:
    """Write and flush to the disk; the hash of what was handed over, and its size."""
    hashing = _HashingFile(file)
    try:
        torch.save(dict(state), cast(IO[bytes], hashing))
    except Exception as error:
        if hashing.error is None:
            raise RuntimeError(_unpicklable(state, error)) from error
    if hashing.error is not None:
        raise hashing.error
    file.flush()
    os.fsync(file.fileno())
    return hashing.hash.hexdigest(), hashing.bytes


def _unpicklable(state: Mapping[str, Any], error: Exception) -> str:
    """Which entry of the state is to blame."""
    blamed = []
    for key, value in state.items():
        with open(os.devnull, "wb") as nowhere:
            try:
                torch.save(value, cast(IO[bytes], _HashingFile(nowhere)))
            except Exception:
                blamed.append(repr(key))
    where = f"its entry {', '.join(blamed)}" if blamed else "it"
    reason = f"{type(error).__name__}: {str(error).partition(chr(10))[0]}"
    return (
        f"The state of the run was not saved, because {where} cannot be pickled ({reason}); "
        "keep handles, locks and lambdas out of hyperparameters and states."
    )


def prove(path: Path, sha256: str, expected: Mapping[str, Any]) -> tuple[str, ...]:
    """Read a checkpoint back.

    Args:
        path: The file.
        sha256: What its bytes were when they were handed over.
        expected: The state dict that went in.

    Returns:
        The classes in it that ``weights_only=True`` refuses; such a file, our own, is loaded without.

    Raises:
        OSError: Its bytes are others.
        RuntimeError: It does not load, or holds other weights.
    """
    if file_hash(path) != sha256:
        raise OSError(errno.EIO, "it holds other bytes than were written")
    try:
        refused = tuple(torch.serialization.get_unsafe_globals_in_checkpoint(path))
        loaded = torch.load(path, map_location="cpu", mmap=True, weights_only=not refused)
    except Exception as error:
        raise RuntimeError(
            f"The checkpoint does not load after it was written ({type(error).__name__}: "
            f"{str(error).partition(chr(10))[0]}); saved values must be of classes that unpickle by themselves."
        ) from error
    if _shapes(loaded.get("state_dict", {})) != _shapes(expected):
        raise RuntimeError("The checkpoint holds other weights than the module has after it was written; report this.")
    return refused


def _shapes(state_dict: Mapping[str, Any]) -> dict[str, Any]:
    return {
        name: (tuple(value.shape), value.dtype) if isinstance(value, Tensor) else type(value).__name__
        for name, value in state_dict.items()
    }


def file_hash(path: str | os.PathLike[str]) -> str:
    """SHA-256 of a file's bytes, in hexadecimal."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _put_in_place(part: Path, path: Path, overwrite: bool) -> None:
    if not overwrite:
        try:
            os.link(part, path)  # fails if the name is taken, which a rename would not
            return
        except FileExistsError:
            raise
        except OSError:  # no hard links on this file system
            if path.exists():
                raise FileExistsError(errno.EEXIST, "it exists") from None
    os.replace(part, path)


def sync_folder(folder: Path) -> None:
    """Make a rename survive a power cut, where the system can."""
    if os.name != "nt":
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def write_text(text: str, path: Path) -> None:
    """Write a small file beside its path, flush it, and rename it.

    Raises:
        OSError: It could not be written; one sentence. Nothing is left of it.
    """
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        with open(part, "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        os.replace(part, path)
    except OSError as error:
        raise OSError(explain(error, path)) from error
    finally:
        with contextlib.suppress(OSError):
            part.unlink(missing_ok=True)


def explain(error: OSError, path: Path) -> str:
    """One sentence: what was not written, where, why, and what to do."""
    begin = f"The file {path} was not written, because"
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        with contextlib.suppress(OSError):
            free = shutil.disk_usage(path.parent).free / GIGABYTE
            return f"{begin} the disk is full ({free:.3f} GB are free); make room there or choose another `dirpath`."
        return f"{begin} the disk is full; make room there or choose another `dirpath`."
    if error.errno == errno.EFBIG:
        return f"{begin} the system forbids files of this size; raise the limit (`ulimit -f`) or save less."
    if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        why = f"{path.parent} cannot be written ({error.strerror})"
        return f"{begin} {why}; mend its permissions or choose another `dirpath`."
    if error.errno in (errno.ENOENT, errno.ENOTDIR):
        return f"{begin} the folder {path.parent} is gone; was it moved, deleted or unmounted?"
    if error.errno == errno.EEXIST:
        return f"{begin} another run wrote that name at the same time; give each run a `dirpath` of its own."
    return f"{begin} of {error.strerror or error}; is the disk in order?"


def remove_stale_parts(folder: Path) -> list[str]:
    """Remove what saves of dead processes left in a folder; files of living ones, here or elsewhere, stay.

    Returns:
        The names of the files removed.
    """
    removed = []
    for part in _parts(folder):
        with contextlib.suppress(OSError):
            if _is_stale(part):
                part.unlink()
                removed.append(part.name)
    return removed


def _parts(folder: Path) -> Iterator[Path]:
    try:
        yield from [path for path in folder.iterdir() if _PART.fullmatch(path.name) and path.is_file()]
    except OSError:
        return


def _is_stale(part: Path) -> bool:
    found = _PART.fullmatch(part.name)
    if found is None or _is_alive(int(found[1])):
        return False
    if locks is None:
        return True
    with open(part, "rb") as file:
        locks.flock(file, locks.LOCK_EX | locks.LOCK_NB)  # raises while an owner on any machine holds it
    return True


def _is_alive(pid: int) -> bool:
    """Whether another process of this number runs on this machine; our own has no save under way."""
    if pid == os.getpid():
        return False
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:
        return True
    return True
