"""The plain weights of a checkpoint, as a safetensors file that timm and plain PyTorch load."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lightning_rules.reproduce.checkpoint_file import explain, file_hash

log = logging.getLogger("lightning_rules")


def export_weights(
    checkpoint: str | os.PathLike[str],
    path: str | os.PathLike[str],
    prefix: str | None = None,
) -> Path:
    """Write the weights of a checkpoint to a safetensors file.

    ``timm.create_model(name, checkpoint_path=path)``, and ``module.load_state_dict(safetensors.torch.load_file(path))``
    read it. Weights that share memory are each written in full, so that any reader finds every name. The file's
    metadata tell where it comes from: commit, snapshot, run and step, and the checkpoint's hash.

    Args:
        checkpoint: A checkpoint of Lightning, or a file with a plain state dict.
        path: The new file, "model.safetensors"; one that exists is replaced.
        prefix: Which part of the module to write, such as "backbone."; names begin after it. None writes all: where
            all names share one first part ("model.fc.weight", "model.fc.bias"), it is removed, which is logged; ""
            leaves the names as they are.

    Returns:
        The path.

    Raises:
        FileNotFoundError: There is no such checkpoint.
        ValueError: It holds no weights, no name begins with the prefix, or a safe load (``weights_only=True``)
            refuses it; one sentence.
        OSError: The file could not be written; nothing is left of it.
        ImportError: The package safetensors is not installed.
    """
    try:
        from safetensors import SafetensorError
        from safetensors.torch import save_file
    except ImportError as error:
        raise ImportError("export_weights needs the package safetensors; install `lightning-rules[train]`.") from error
    loaded = _load(Path(checkpoint))
    weights = _without_prefix(_weights(loaded, checkpoint), prefix, checkpoint)
    path = Path(path)
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        save_file(weights, part, metadata=_origin(loaded, Path(checkpoint)))
        os.replace(part, path)
    except OSError as error:
        raise OSError(explain(error, path)) from error
    except SafetensorError as error:
        reason = str(error).partition(" at path")[0]
        raise OSError(
            f"The file {path} was not written ({reason}); may it be written there, and is there room?"
        ) from error
    finally:
        part.unlink(missing_ok=True)
    return path


def _load(checkpoint: Path) -> Mapping[str, Any]:
    if not checkpoint.is_file():
        raise FileNotFoundError(f"There is no checkpoint {checkpoint}; name a file, such as runs/digits/best.ckpt.")
    try:
        loaded = torch.load(checkpoint, map_location="cpu", mmap=True, weights_only=True)
    except Exception as error:
        refused = _refused(checkpoint)
        reason = f"it holds values of {', '.join(refused)}" if refused else str(error).partition("\n")[0]
        raise ValueError(
            f"{checkpoint} does not load safely ({reason}); if you trust it, load it with `weights_only=False` "
            'and save its "state_dict" alone.'
        ) from error
    if not isinstance(loaded, Mapping):
        raise ValueError(
            f"Expected {checkpoint} to hold a checkpoint or a state dict, but got {type(loaded).__name__}."
        )
    return loaded


def _refused(checkpoint: Path) -> list[str]:
    try:
        return list(torch.serialization.get_unsafe_globals_in_checkpoint(checkpoint))
    except Exception:
        return []


def _weights(loaded: Mapping[str, Any], checkpoint: Any) -> dict[str, Tensor]:
    state_dict = loaded.get("state_dict", loaded)
    weights = {str(name): value for name, value in state_dict.items() if isinstance(value, Tensor)}
    if not weights:
        raise ValueError(f"{checkpoint} holds no weights; expected a checkpoint of Lightning or a state dict.")
    return weights


def _without_prefix(weights: dict[str, Tensor], prefix: str | None, checkpoint: Any) -> dict[str, Tensor]:
    if prefix is None:
        prefix = _shared_part(weights)
        if prefix:
            log.info(f"export_weights: all names begin with {prefix!r}, which is removed; prefix='' keeps it.")
    chosen = {name.removeprefix(prefix): value for name, value in weights.items() if name.startswith(prefix)}
    if not chosen:
        first_parts = ", ".join(sorted({repr(name.partition(".")[0] + ".") for name in weights}))
        raise ValueError(f"No weight of {checkpoint} begins with {prefix!r}; names begin with {first_parts}.")
    if len(chosen) < len(weights):
        log.info(f"export_weights: {len(chosen)} of {len(weights)} weights begin with {prefix!r} and are written.")
    # Clones share no memory, which safetensors insists on, and are contiguous.
    return {name: value.detach().clone(memory_format=torch.contiguous_format) for name, value in chosen.items()}


def _shared_part(weights: Mapping[str, Tensor]) -> str:
    """The first part of all names, with its dot; empty where they differ, or where nothing would be left."""
    parts = {name.partition(".")[0] for name in weights}
    if len(parts) != 1 or any("." not in name for name in weights):
        return ""
    part = parts.pop()
    # "0.weight" and "0.bias" of one layer: the number is the layer's own name.
    return "" if part.isdigit() else f"{part}."


def _origin(loaded: Mapping[str, Any], checkpoint: Path) -> dict[str, str]:
    """Where the weights come from, as safetensors' metadata: strings by name."""
    record = loaded.get("run_record") or {}
    code = record.get("code") or {}
    known = {
        "format": "pt",
        "source_sha256": file_hash(checkpoint),
        "run": record.get("run"),
        "record_id": record.get("id"),
        "commit": code.get("commit"),
        "snapshot": code.get("snapshot"),
        "step": loaded.get("global_step"),
    }
    return {name: str(value) for name, value in known.items() if value is not None}
