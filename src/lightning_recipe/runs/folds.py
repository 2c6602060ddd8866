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
    fold = fold_in(text, "--fold")
    require_folds(datamodule, "--fold")
    datamodule.setup_fold(*fold)


def fold_in(text: str, option: str) -> tuple[int, int, int]:
    """Which fold, from 0, of how many, and the seed, in what was given as "2/5" or "2/5@7".

    Raises:
        ValueError: If the text is not of that form; names the option.
    """
    found = re.fullmatch(r"(\d+)/(\d+)(?:@(\d+))?", text)
    k, n, seed = (int(number or 0) for number in found.groups()) if found else (0, 0, 0)
    if not 1 <= k <= n or n < 2:
        raise ValueError(
            f"{option} {text} was given, but it must be K/N or K/N@SEED with K from 1 to N and N at least 2, as in 2/5."
        )
    return k - 1, n, seed


def require_folds(datamodule: Any, option: str) -> None:
    """Refuse data that cannot be cut into folds.

    Raises:
        ValueError: If it has no method `setup_fold`; says what it must do.
    """
    if not callable(getattr(datamodule, "setup_fold", None)):
        name = "this run" if datamodule is None else type(datamodule).__name__
        raise ValueError(
            f"{option} needs data that can be cut, and {name} has no method `setup_fold(k, n, seed)`: "
            "implement it, so that `setup` then trains on all but part k of n (from 0) and validates on that part."
        )
