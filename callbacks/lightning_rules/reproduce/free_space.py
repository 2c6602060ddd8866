"""Whether a run's checkpoints will fit on the disk: asked before training starts, and before each save."""

from __future__ import annotations

import math
import os
import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from torch import Tensor
from torch.utils._pytree import tree_leaves

from lightning_rules.reproduce.checkpoint_file import GIGABYTE
from lightning_rules.reproduce.proven_save import is_remote


def check_free_space(folder: str, size: int, files: int, margin: float) -> None:
    """Refuse to go on where the disk has no room; remote folders are not asked.

    Args:
        folder: Where the files will go; it, or a folder above it, exists.
        size: Bytes of one file.
        files: How many there will be, beyond those that are there already.
        margin: Room to leave, as a fraction of what is needed: 0.1 asks for 10% more.

    Raises:
        OSError: There is too little room; the sentence says how much there is and how much is needed.
    """
    if is_remote(folder):
        return
    needed = size * files * (1 + margin)
    free = shutil.disk_usage(_existing(Path(folder))).free
    if free < needed:
        what = f"{files} files of {size / GIGABYTE:.3f} GB" if files > 1 else "the next file"
        raise OSError(
            f"Checkpoints in {folder} need {needed / GIGABYTE:.3f} GB ({what}, and {margin:.0%} to spare), "
            f"but {free / GIGABYTE:.3f} GB are free; make room, keep fewer (`save_top_k`), or choose another `dirpath`."
        )


def check_room(keep: Any, trainer: Any, pl_module: Any) -> None:
    """Refuse to start a run whose checkpoints will not fit on the disk.

    Args:
        keep: The checkpoint callback: its ``dirpath``, ``margin``, and which files it will keep.
        trainer: The run's Trainer, its optimisers made.
        pl_module: The module.

    Raises:
        OSError: There is too little room.
    """
    size = estimated_size(trainer, pl_module, keep.save_weights_only)
    kept = {path for path in (*keep.best_k_models, keep.best_model_path, keep.last_model_path) if path}
    saves = number_of_saves(trainer, keep._every_n_epochs)
    files = files_to_come(keep.save_top_k, keep.save_last is True, len(kept), saves)
    check_free_space(str(keep.dirpath), size, files, keep.margin)


def _existing(folder: Path) -> Path:
    return next((place for place in (folder, *folder.absolute().parents) if place.exists()), Path("/"))


def estimated_size(trainer: Any, pl_module: Any, weights_only: bool) -> int:
    """Bytes of one checkpoint, before the first is written.

    That of the checkpoint resumed from; else parameters, buffers, and the state that the optimisers hold or will hold.
    Callbacks and data modules that keep much state of their own are not foreseen.
    """
    resumed = trainer.ckpt_path
    if resumed and not is_remote(resumed) and not weights_only and os.path.isfile(resumed):
        return os.path.getsize(resumed)
    state = _bytes([*pl_module.parameters(), *pl_module.buffers()])
    return state if weights_only else state + sum(_optimiser_bytes(optimizer) for optimizer in trainer.optimizers)


def _optimiser_bytes(optimizer: Any) -> int:
    held = _bytes(leaf for leaf in tree_leaves(dict(optimizer.state)) if isinstance(leaf, Tensor))
    if held:
        return held
    defaults = getattr(optimizer, "defaults", {})
    copies = 2 if "betas" in defaults else int(bool(defaults.get("momentum")))
    copies += int(bool(defaults.get("amsgrad")))
    trained = [p for group in optimizer.param_groups for p in group["params"] if p.requires_grad]
    return copies * _bytes(trained)


def _bytes(tensors: Iterable[Tensor]) -> int:
    """Storage shared by several tensors counts once, as in a checkpoint."""
    storages = {}
    for tensor in tensors:
        storage = tensor.untyped_storage()
        storages[storage.data_ptr() or id(tensor)] = storage.nbytes()
    return sum(storages.values())


def files_to_come(save_top_k: int, save_last: bool, kept: int, saves: int | None) -> int:
    """How many more files a run will have at once: the best, the last, and the one being written beside them.

    Args:
        save_top_k: How many of the best are kept; -1 keeps all.
        save_last: Whether a file of its own holds the last state.
        kept: How many of these are there already.
        saves: How often the run will save; None where nobody knows.
    """
    best = (saves or 1) if save_top_k == -1 else save_top_k
    return max(best + int(save_last) - kept, 0) + 1


def number_of_saves(trainer: Any, every_n_epochs: int) -> int | None:
    """How often a run saves at the ends of its epochs; None where it has no end, or saves by steps or by time."""
    epochs = trainer.max_epochs
    if epochs is None or epochs < 0 or every_n_epochs < 1:
        return None
    return math.ceil(max(int(epochs) - int(trainer.current_epoch), 0) / every_n_epochs)
