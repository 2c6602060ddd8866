"""An ensemble as one file, which is a checkpoint like any other."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import lightning
import torch
from torch import Tensor

from lightning_rules.combine.averaging import Average
from lightning_rules.combine.ensemble_module import EnsembleModule, hyper_parameters
from lightning_rules.combine.reading import Reading


def save_ensemble(ensemble: EnsembleModule, path: str | os.PathLike[str]) -> Path:
    """Write an ensemble to one file, whole or not at all.

    ``test`` and ``predict`` of the command line take it as ``--ckpt_path``, ``Trainer.test(module, ckpt_path=...)``
    and ``EnsembleModule.load_from_checkpoint`` too. It holds weights, classes and hyperparameters of all members,
    and needs none of their files.

    Args:
        ensemble: The ensemble.
        path: The new file, "ensemble.ckpt"; one that exists is replaced.

    Returns:
        The path.

    Raises:
        ValueError: A member has no hyperparameters, so that nobody could make it again; nothing is written.
        OSError: The file cannot be written; nothing is left of it.
    """
    checkpoint: dict[str, Any] = {"state_dict": ensemble.state_dict()}
    ensemble.on_save_checkpoint(checkpoint)
    return write_checkpoint(checkpoint, path)


def join_checkpoints(
    checkpoints: Sequence[Mapping[str, Any]],
    descriptions: Sequence[dict[str, Any]],
    reading: Reading,
    average: Average,
    weights: Tensor,
    facts: Mapping[str, Any],
    path: str | os.PathLike[str],
) -> Path:
    """Write the ensemble of checkpoints to one file without making a module; their tensors may lie on the disk.

    Args:
        checkpoints: The members' checkpoints, each with its ``state_dict``.
        descriptions: What makes each member again.
        reading: What their outputs mean.
        average: What is averaged.
        weights: One for each member [M].
        facts: What the checkpoints tell of the data.
        path: The new file.

    Raises:
        OSError: The file cannot be written; nothing is left of it.
    """
    state = {
        f"members.{place}.{name}": value
        for place, checkpoint in enumerate(checkpoints)
        for name, value in checkpoint["state_dict"].items()
    }
    joined = {
        "state_dict": {**state, "weights": weights},
        "hyper_parameters": hyper_parameters(list(descriptions), reading, average, weights, facts),
        **facts,
    }
    return write_checkpoint(joined, path)


def write_checkpoint(checkpoint: Mapping[str, Any], path: str | os.PathLike[str]) -> Path:
    """Write a checkpoint for evaluation beside its place, flush it, and rename it.

    Args:
        checkpoint: Its ``state_dict``, and what else belongs to it.
        path: The new file; missing folders are made.

    Raises:
        OSError: The file cannot be written; nothing is left of it.
    """
    state = {name: value.detach().cpu() for name, value in checkpoint["state_dict"].items()}
    whole = {"epoch": 0, "global_step": 0, "pytorch-lightning_version": lightning.__version__, **checkpoint}
    path = Path(path)
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(part, "wb") as file:
            torch.save({**whole, "state_dict": state}, file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(part, path)
    except OSError as error:
        reason = error.strerror or str(error)
        raise OSError(f"{path} was not written ({reason}): name another folder, or make room there.") from error
    finally:
        with contextlib.suppress(OSError):
            part.unlink(missing_ok=True)
    return path
