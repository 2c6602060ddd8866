"""The option `--ckpt_path`: what a person is told of a file that is no checkpoint, or holds more than plain values."""

import pickle

import torch

# What reading raises that is no checkpoint, or not to be had without unpickling.
UNREADABLE = (pickle.UnpicklingError, RuntimeError, EOFError)


def complaint(path: str, error: Exception, unpickling: bool) -> str | None:
    """What is wrong with a file that reading has refused; None where it holds classes, and they are allowed.

    Args:
        path: The file.
        error: What reading it has raised.
        unpickling: Whether the user has asked for unpickling, which may run any code.
    """
    unsafe = _unsafe_classes(path) if isinstance(error, pickle.UnpicklingError) else []
    if unsafe and unpickling:
        return None
    if unsafe:
        return (
            f"--ckpt_path {path} holds {', '.join(unsafe[:3])}, which only unpickling makes, and that may run "
            "any code: if you trust who made the file, add --weights_only false."
        )
    # torch's text for a file that is no archive is about its own defaults, and misleads
    known = isinstance(error, RuntimeError)
    reason = f" ({str(error).strip().partition(chr(10))[0].partition('. ')[0]})" if known else ""
    return f"--ckpt_path {path} cannot be read as a checkpoint{reason}: give a .ckpt file that a fit has written."


def _unsafe_classes(path: str) -> list[str]:
    """Names of what a checkpoint holds that a safe load does not make; none where the file is no checkpoint."""
    try:
        return torch.serialization.get_unsafe_globals_in_checkpoint(path)
    except (pickle.UnpicklingError, RuntimeError, EOFError, ValueError):
        return []
