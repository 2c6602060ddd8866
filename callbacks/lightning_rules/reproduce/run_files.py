"""What stands in a folder of checkpoints: the record beside each of them, whose it is, and which is the newest."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import zipfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import fsspec
import torch

from lightning_rules.reproduce.checkpoint_file import file_hash, write_text
from lightning_rules.reproduce.proven_save import is_remote

log = logging.getLogger("lightning_rules")


def json_path(checkpoint: str) -> str:
    """Where the record of a checkpoint stands: beside it; beside the file that a link leads to."""
    if not is_remote(checkpoint) and os.path.islink(checkpoint):
        checkpoint = os.path.realpath(checkpoint)
    return f"{checkpoint}.json"


def write_record(record: Mapping[str, Any], checkpoint: str) -> None:
    """Write the record beside a checkpoint, whole or not at all.

    Raises:
        OSError: It could not be written; one sentence.
    """
    path, text = json_path(checkpoint), json.dumps(record, indent=2, ensure_ascii=False, allow_nan=False) + "\n"
    if is_remote(path):
        with fsspec.open(path, "w", encoding="utf-8") as file:
            file.write(text)
    else:
        write_text(text, Path(path))


def delete_record(checkpoint: str) -> None:
    """Delete the record beside a checkpoint that is gone, if there is one.

    Raises:
        OSError: It could not be deleted.
    """
    filesystem, path = fsspec.core.url_to_fs(f"{checkpoint}.json")
    with contextlib.suppress(FileNotFoundError):
        filesystem.rm_file(path)


def read_record(checkpoint: str) -> dict[str, Any] | None:
    """The record beside a checkpoint; None where there is none that can be read."""
    try:
        with fsspec.open(json_path(checkpoint), "r", encoding="utf-8") as file:
            record = json.load(file)
    except (OSError, ValueError):
        return None
    return record if isinstance(record, dict) else None


def run_and_step(checkpoint: str) -> tuple[str | None, int]:
    """The id of the run that wrote a checkpoint, and its step; (None, -1) where nothing tells.

    The record beside it tells. Without one (a kill came between the two files) the checkpoint itself is asked, if it
    is a local file that loads with ``weights_only=True``.
    """
    record = read_record(checkpoint)
    if record is not None and isinstance(record.get("step"), int):
        return record.get("id"), record["step"]
    inside = look_inside(checkpoint)
    if inside is None:
        return None, -1
    return (inside.get("run_record") or {}).get("id"), int(inside.get("global_step", -1))


def look_inside(checkpoint: str) -> dict[str, Any] | None:
    """A local checkpoint's entries, its tensors left on the disk; None where it does not load safely."""
    try:
        inside = torch.load(checkpoint, map_location="cpu", mmap=True, weights_only=True)
    except Exception:
        return None
    return inside if isinstance(inside, dict) else None


def is_whole(checkpoint: str) -> bool:
    """Whether a local checkpoint holds what was written.

    Its hash is the recorded one; or, where a kill left it with an older record or none, the checksums that its parts
    carry agree, and it is of the run that its record names. A folder of shards is not read.
    """
    if os.path.isdir(checkpoint):
        return True
    record = read_record(checkpoint)
    with contextlib.suppress(OSError):
        if record is not None and file_hash(checkpoint) == (record.get("checkpoint") or {}).get("sha256"):
            return True
    try:
        with zipfile.ZipFile(checkpoint) as archive:
            if archive.testzip() is not None:
                return False
        if torch.serialization.get_unsafe_globals_in_checkpoint(checkpoint):
            return True  # it needs weights_only=False: nothing is unpickled here to look whose it is
    except Exception:  # whatever a damaged file makes its readers raise
        return False
    inside = look_inside(checkpoint)
    if inside is None:
        return False
    return record is None or record.get("id") == (inside.get("run_record") or {}).get("id")


def newest(checkpoints: Iterable[str]) -> str | None:
    """The newest whole checkpoint, by the start of its run and its step.

    The times of files say nothing after a clock jump or a copy. Damaged files are passed over, with a warning.

    Args:
        checkpoints: Local paths.
    """
    placed = sorted(((_place(path), path) for path in checkpoints), reverse=True)
    if len({place[0] for place, _ in placed}) > 1:
        log.warning(
            f"{os.path.dirname(placed[0][1])} holds checkpoints of several runs; the one that started last counts. "
            "Give each run a `dirpath` of its own."
        )
    for _, path in placed:
        if is_whole(path):
            return path
        log.warning(f"{path} is damaged and was passed over; an older checkpoint is taken if there is one.")
    return None


def others_beside(checkpoints: Iterable[str]) -> set[str]:
    """The other checkpoints in the folders of these."""
    own = set(checkpoints)
    folders = {Path(path).parent for path in own}
    return {str(path) for folder in folders for path in folder.glob("*.ckpt")} - own


def _place(checkpoint: str) -> tuple[str, int]:
    """Start of the run and step; of the file itself where it loads, since the record may be an older file's."""
    inside, beside = look_inside(checkpoint), read_record(checkpoint) or {}
    record = (inside or {}).get("run_record") or beside
    step = inside["global_step"] if inside and "global_step" in inside else beside.get("step", -1)
    return str(record.get("started", "")), int(step)


def at_home(path: str, folder: str) -> str | None:
    """Where a checkpoint is now: at its path, in ``folder`` under the same name (the folder was moved), or nowhere."""
    if is_remote(path):
        return path
    moved = os.path.join(folder, os.path.basename(path))
    return next((place for place in (path, moved) if place and os.path.exists(place)), None)


def last_of_other_versions(folder: str, name: str, extension: str) -> set[str]:
    """The last checkpoints of a logger's other versions, local ones: ``<logs>/<version>/checkpoints/last*.ckpt``.

    Args:
        folder: The folder of this version's checkpoints.
        name: How their names begin.
        extension: How they end.
    """
    if is_remote(folder):
        return set()
    logs = Path(folder).parent.parent
    return {str(path) for path in logs.glob(f"*/{Path(folder).name}/{name}*{extension}")}
