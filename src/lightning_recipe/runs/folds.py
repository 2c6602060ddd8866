"""The option `--fold K/N`: this fit trains on all but one part of its training data, and validates on that part."""

import re
from typing import Any


def use_fold(text: str, datamodule: Any) -> None:
    """Tell the data which fold this run holds out, before its `setup`.

    Args:
        text: "2/5" holds the second of five parts out; "2/5@7" cuts them with the seed 7 instead of 0. All runs whose
            parts must not overlap have the same number of parts and the same seed, whatever their `seed_everything`.
        datamodule: Data with a method `setup_fold(k, n, seed)`, where `k` is from 0 to `n` - 1.

    Raises:
        ValueError: If the text is not of that form, or the data has no such method.
    """
    found = re.fullmatch(r"(\d+)/(\d+)(?:@(\d+))?", text)
    k, n, seed = (int(number or 0) for number in found.groups()) if found else (0, 0, 0)
    if not 1 <= k <= n or n < 2:
        raise ValueError(
            f"--fold {text} was given, but it must be K/N or K/N@SEED with K from 1 to N and N at least 2, as in 2/5."
        )
    if not callable(getattr(datamodule, "setup_fold", None)):
        raise ValueError(
            f"--fold needs data that can be cut, and {_name(datamodule)} has no method `setup_fold(k, n, seed)`: "
            "implement it, so that `setup` then trains on all but part k of n (from 0) and validates on that part."
        )
    datamodule.setup_fold(k - 1, n, seed)


def _name(datamodule: Any) -> str:
    return "this run" if datamodule is None else type(datamodule).__name__
