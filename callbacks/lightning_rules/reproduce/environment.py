"""What besides the seed decides which bits come out: flags of torch and versions of libraries."""

from __future__ import annotations

import os
import platform
import secrets
import zlib
from contextlib import ExitStack
from functools import cache
from importlib.metadata import distributions
from typing import Any

import torch
from torch import nn
from torch.nn.parameter import is_lazy

Flags = dict[str, bool | int | str | None]


def set_variable(undo: ExitStack, name: str, value: str) -> None:
    """Set an environment variable until ``undo`` is closed."""
    before = os.environ.get(name)

    def put_back() -> None:
        if before is None:
            os.environ.pop(name, None)
        else:
            os.environ[name] = before

    undo.callback(put_back)
    os.environ[name] = value


def choose_deterministic_algorithms(undo: ExitStack) -> None:
    """Let torch choose deterministic algorithms, or raise where it has none, until ``undo`` is closed."""
    cudnn = torch.backends.cudnn
    undo.callback(
        torch.use_deterministic_algorithms,
        torch.are_deterministic_algorithms_enabled(),
        warn_only=torch.is_deterministic_algorithms_warn_only_enabled(),
    )
    undo.callback(setattr, cudnn, "benchmark", cudnn.benchmark)
    undo.callback(setattr, cudnn, "deterministic", cudnn.deterministic)
    if "CUBLAS_WORKSPACE_CONFIG" not in os.environ:  # cuBLAS reads it when its first handle is made
        set_variable(undo, "CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.use_deterministic_algorithms(True)
    cudnn.benchmark, cudnn.deterministic = False, True


def flags() -> Flags:
    """The settings of this process that change bits, as they are now."""
    return {
        "deterministic_algorithms": torch.are_deterministic_algorithms_enabled(),
        "cudnn_deterministic": torch.backends.cudnn.deterministic,
        "cudnn_benchmark": torch.backends.cudnn.benchmark,
        "float32_matmul_precision": torch.get_float32_matmul_precision(),
        "cublas_workspace": os.environ.get("CUBLAS_WORKSPACE_CONFIG"),
        "threads": torch.get_num_threads(),
    }


@cache
def versions() -> dict[str, str]:
    """Python, CUDA, cuDNN and every installed distribution, by name; do not change what is returned."""
    found = {str(found.metadata["Name"]): str(found.version) for found in distributions()}
    native = {"Python": platform.python_version(), "CUDA": str(torch.version.cuda)}
    if torch.backends.cudnn.is_available():  # type: ignore[no-untyped-call]
        native["cuDNN"] = str(torch.backends.cudnn.version())  # type: ignore[no-untyped-call]
    return {**native, **dict(sorted(found.items(), key=lambda item: item[0].lower()))}


def changed(before: dict[str, str], now: dict[str, str]) -> str:
    """What differs between two sets of versions, as text; empty where nothing does."""
    names = [name for name in {**before, **now} if before.get(name) != now.get(name)]
    shown = [f"{name} {before.get(name, 'absent')} to {now.get(name, 'absent')}" for name in names[:5]]
    return ", ".join(shown) + (f" and {len(names) - 5} more" if len(names) > 5 else "")


def fingerprint(module: nn.Module) -> str | None:
    """A CRC-32 of all parameters, bit for bit, in hexadecimal; None where a parameter cannot be read as a whole.

    Parameters that DDP was told to ignore are left out: they may differ between ranks.
    """
    ignored = set(getattr(module, "_ddp_params_and_buffers_to_ignore", ()))
    crc = 0
    for name, parameter in module.named_parameters():
        if name in ignored:
            continue
        if is_lazy(parameter) or parameter.is_meta or hasattr(parameter, "to_local"):
            return None
        values: Any = parameter.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy()
        crc = zlib.crc32(values, crc)
    return f"{crc:08x}"


def drawn_seed() -> int:
    """A seed from the operating system, 32 bits."""
    return secrets.randbits(32)
