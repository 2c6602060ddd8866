"""The files that a checkpoint callback keeps: found again after a resume, replaced, linked, removed."""

from __future__ import annotations

import contextlib
import math
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from lightning_rules.finding import Finding, Severity
from lightning_rules.reproduce import run_files
from lightning_rules.reproduce.checkpoint_file import remove_stale_parts
from lightning_rules.reproduce.proven_save import is_remote


def start_over(keep: Any) -> None:
    """Forget the files of an earlier run; they stay where they are.

    Args:
        keep: A ModelCheckpoint.
    """
    keep.best_k_models, keep.kth_best_model_path, keep.best_model_path, keep.last_model_path = {}, "", "", ""
    keep.best_model_score = keep.current_score = None
    keep.kth_value = _worst(keep.mode)
    keep._last_global_step_saved, keep._last_checkpoint_saved = 0, ""
    keep._defer_save_until_validation = False


def _worst(mode: str) -> torch.Tensor:
    return torch.tensor(torch.inf if mode == "min" else -torch.inf)


def find(keep: Any) -> dict[str, str | None]:
    """Where the files that a resumed run knows are now: None for those that are gone."""
    known = {*keep.best_k_models, keep.best_model_path, keep.last_model_path, keep._last_checkpoint_saved} - {""}
    return {path: run_files.at_home(path, str(keep.dirpath)) for path in known}


def follow(keep: Any, places: Mapping[str, str | None]) -> list[str]:
    """Let a callback know where its files are now; of the best that are gone, the next best counts.

    Returns:
        The paths of the best checkpoints that are gone.
    """
    gone = sorted(path for path in {*keep.best_k_models, keep.best_model_path} - {""} if places[path] is None)
    best = {places[path]: score for path, score in keep.best_k_models.items() if places[path] is not None}
    moved = {path: place or "" for path, place in places.items()} | {"": ""}
    keep.last_model_path = moved[keep.last_model_path]
    keep._last_checkpoint_saved = moved[keep._last_checkpoint_saved]
    keep.best_model_path = moved[keep.best_model_path]
    complete = keep.kth_best_model_path in keep.best_k_models and len(best) == len(keep.best_k_models)
    keep.kth_best_model_path = moved.get(keep.kth_best_model_path, "") if complete else ""
    keep.best_k_models = best
    if best and not keep.best_model_path:
        choose = min if keep.mode == "min" else max
        keep.best_model_path = choose(best, key=lambda path: float(best[path]))
    keep.best_model_score = best.get(keep.best_model_path)
    if not complete:
        keep.kth_value = _worst(keep.mode)
    return gone


def told_gone(rule: str, gone: list[str]) -> list[Finding]:
    """Say which of the best checkpoints are gone."""
    if not gone:
        return []
    names = ", ".join(os.path.basename(path) for path in gone)
    message = f"{len(gone)} of the best checkpoints that the resumed run knew are gone: {names}."
    return [Finding(rule, Severity.WARNING, message, "Restore them, or the next best that this run saves will count.")]


def prepare_folder(folder: str) -> None:
    """Make the folder of a run's checkpoints, and clear away what killed saves left there.

    Raises:
        OSError: It cannot be made; one sentence.
    """
    if is_remote(folder):
        return
    try:
        os.makedirs(folder, exist_ok=True)
    except OSError as error:
        reason = error.strerror or error
        raise OSError(
            f"The folder {folder} for checkpoints cannot be made ({reason}); choose another `dirpath`."
        ) from error
    remove_stale_parts(Path(folder))


def make_subfolder(folder: str, filepath: str) -> None:
    """Make the folder of a file whose name holds slashes; never ``folder`` itself, which may have been unmounted."""
    if os.path.isdir(folder):
        with contextlib.suppress(OSError):  # the save will say why
            os.makedirs(os.path.dirname(filepath), exist_ok=True)


def exists(path: str) -> bool:
    """Whether something stands at a local path, be it a link to nowhere."""
    return os.path.lexists(path)


def is_taken(filesystem: Any, path: str, run: str | None, step: int, kept: set[str]) -> bool:
    """Whether a name belongs to another file that must stay.

    Args:
        filesystem: That of fsspec.
        path: The name.
        run: The id of this run, which may write again what it wrote before it was killed.
        step: Where this run is; what it wrote earlier stays.
        kept: Paths among the best.
    """
    if not filesystem.exists(path):
        return False
    if run is None or path in kept or is_remote(path):
        return True
    written_by, written_at = run_files.run_and_step(path)
    return written_by != run or written_at < step


def replace_record(record: Mapping[str, Any], path: str) -> dict[str, Any] | None:
    """Write the record beside a checkpoint that was just saved.

    A tag of the file that stood there is named until it is deleted.

    Returns:
        The record that stood there, where it is of the same run.

    Raises:
        OSError: It could not be written; one sentence.
    """
    old = run_files.read_record(path)
    if old is not None and old.get("id") != record.get("id"):
        old = None
    run_files.write_record({**record, "tag": old.get("tag") if old else None}, path)
    return old


def link(path: str, link_path: str) -> None:
    """Make a link to a file, in the place of what stood there, at one stroke; a copy where links are not allowed.

    Raises:
        OSError: It could not be made; one sentence.
    """
    if os.path.abspath(path) == os.path.abspath(link_path):
        return
    part = os.path.join(os.path.dirname(link_path), f".{os.path.basename(link_path)}.{os.getpid()}.part")
    try:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(part)
        try:
            os.symlink(os.path.relpath(path, os.path.dirname(link_path)), part)
        except OSError:
            shutil.copy(path, part)
        os.replace(part, link_path)
    except OSError as error:
        raise OSError(
            f"The link {link_path} was not made ({error.strerror or error}); use `save_last=True`."
        ) from error


def remove(trainer: Any, path: str) -> str:
    """Delete a checkpoint, and then the record beside it.

    Returns:
        Why one of them could not be deleted; empty where both are gone.
    """
    try:
        trainer.strategy.remove_checkpoint(path)
        run_files.delete_record(path)
    except OSError as error:
        return f"{path}: {error.strerror or error}"
    return ""


def plain_metrics(trainer: Any) -> dict[str, float | str]:
    """The run's metrics as JSON takes them: NaN and infinity by name. All ranks compute them alike."""
    values = {name: float(value) for name, value in trainer.callback_metrics.items()}
    return {name: value if math.isfinite(value) else str(value) for name, value in values.items()}
