"""A save that either leaves a checkpoint which has been read back, or raises on all ranks."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import fsspec
import torch

from lightning_rules.ranks import gather, on_rank_zero, raise_together
from lightning_rules.reproduce.checkpoint_file import SavedFile, write_checkpoint
from lightning_rules.shards import shards

# Those that write one file on rank 0 with torch.save: we write it instead. The asynchronous one returns before it is.
OURS = ("TorchCheckpointIO", "AsyncCheckpointIO")


def is_remote(path: str) -> bool:
    """Whether a path is an address for fsspec ("s3://...") and not a file of this machine."""
    return "://" in str(path)


def save_proven(
    trainer: Any,
    path: str | os.PathLike[str],
    weights_only: bool = False,
    *,
    extra: Mapping[str, Any] | None = None,
    overwrite: bool = True,
) -> SavedFile:
    """Save the run's state, as ``trainer.save_checkpoint`` does, and prove it by reading it back.

    A collective. Rank 0 writes beside the path, flushes to the disk, compares the hash of what is there, loads it, and
    renames it. A kill at any moment leaves the old file or the new one. Strategies that shard the parameters, remote
    paths and foreign ``CheckpointIO`` plugins write as they always do; what they wrote is then read back.

    Args:
        trainer: A Trainer within fit, of either namespace.
        path: Local, in a folder that exists, or an address that fsspec knows.
        weights_only: Whether to leave out optimisers, schedulers and callbacks.
        extra: Entries added to the state, by name.
        overwrite: Whether a file may stand there already.

    Returns:
        What was saved; alike on all ranks.

    Raises:
        OSError: It could not be written; one sentence, on all ranks.
        RuntimeError: The state cannot be dumped, pickled or loaded again; one sentence, on all ranks.
    """
    path = os.fspath(path)
    if shards(trainer):
        trainer.save_checkpoint(path, weights_only)
        return on_rank_zero(trainer, lambda: _read_back(path))
    with trainer.profiler.profile("save_checkpoint"):
        state, failure = _dump(trainer, weights_only, extra)
        saved = None
        if failure is None and trainer.is_global_zero:
            try:
                saved = _write(trainer, state, path, overwrite)
            except Exception as error:
                failure = error
        raise_together(trainer, failure)
    result = gather(trainer, saved)[0]
    return result if result is not None else SavedFile(path, "", 0)


def _dump(trainer: Any, weights_only: bool, extra: Mapping[str, Any] | None) -> tuple[dict[str, Any], Exception | None]:
    """All ranks take part: states may be gathered."""
    try:
        return {**trainer._checkpoint_connector.dump_checkpoint(weights_only), **(extra or {})}, None
    except Exception as error:
        return {}, error


def _write(trainer: Any, state: dict[str, Any], path: str, overwrite: bool) -> SavedFile:
    io = trainer.strategy.checkpoint_io
    if type(io).__name__ in OURS and not is_remote(path):
        return write_checkpoint(state, path, overwrite)
    try:
        io.save_checkpoint(state, path)
    except Exception as error:
        kind = OSError if isinstance(error, OSError) else RuntimeError
        raise kind(f"The checkpoint {path} was not written by {type(io).__name__}: {error}") from error
    return _read_back(path)


def _read_back(path: str) -> SavedFile:
    """Hash and load what another wrote: a file, or a folder of shards, whose files are hashed by name."""
    if not is_remote(path) and Path(path).is_dir():
        return read_back_folder(Path(path))
    try:
        with fsspec.open(path, "rb") as file:
            sha256 = hashlib.file_digest(file, "sha256").hexdigest()
            size = file.tell()
            file.seek(0)
            refused = tuple(torch.serialization.get_unsafe_globals_in_checkpoint(file))
            file.seek(0)
            torch.load(file, map_location="cpu", weights_only=not refused)
    except FileNotFoundError as error:
        raise OSError(
            f"The checkpoint {path} is not there after it was saved; may it be written, and is the disk full?"
        ) from error
    return SavedFile(path, sha256, size, refused)


def read_back_folder(folder: Path) -> SavedFile:
    """Hash a folder of shards: by the names and hashes of its files.

    Raises:
        OSError: There is none.
    """
    files = sorted(file for file in folder.rglob("*") if file.is_file())
    if not files:
        raise OSError(f"The checkpoint {folder} is empty after it was saved; may it be written, and is the disk full?")
    whole = hashlib.sha256()
    for file in files:
        with file.open("rb") as opened:
            digest = hashlib.file_digest(opened, "sha256").hexdigest()
        whole.update(f"{file.relative_to(folder).as_posix()}\0{digest}\n".encode())
    return SavedFile(str(folder), whole.hexdigest(), sum(file.stat().st_size for file in files))
