"""Groups of files that belong together, such as one patient's images, by their paths."""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray


def check_pattern(pattern: str) -> None:
    """Check that a pattern is a regular expression.

    Raises:
        ValueError: If it is none.
    """
    try:
        re.compile(pattern)
    except re.error as error:
        raise ValueError(f"group_pattern={pattern!r} is no regular expression ({error}): correct it.") from error


def groups_of(paths: Sequence[Path], root: Path, pattern: str) -> NDArray[np.str_]:
    """Return the name of each file's group: what the pattern's first group matches, or all that the pattern matches.

    Args:
        paths: Files below `root`.
        root: The folder that is left out of the paths; they are searched with forward slashes.
        pattern: A regular expression.

    Raises:
        ValueError: If it matches nothing in a file's path.
    """
    names = []
    for path in paths:
        below = path.relative_to(root).as_posix()
        found = re.search(pattern, below)
        name = found and (found[1] if found.re.groups else found[0])
        if not name:
            raise ValueError(
                f"group_pattern={pattern!r} matches nothing in {below}, so that its group is unknown: change the "
                "pattern, or rename or remove the file."
            )
        names.append(name)
    return np.asarray(names, dtype=np.str_)


def check_groups_apart(parts: Mapping[str, NDArray[np.int64]], groups: NDArray[np.str_] | None) -> None:
    """Check that no group has examples in two parts, as folders that were split by hand may have.

    Raises:
        ValueError: If one has; the message names it.
    """
    if groups is None:
        return
    seen: dict[str, str] = {}
    for part, indices in parts.items():
        for group in np.unique(groups[indices]).tolist():
            if seen.setdefault(group, part) != part:
                raise ValueError(
                    f"The group {group} has examples both in {seen[group]} and in {part}, so that what is measured "
                    "there is not on unseen groups: move all of them to one side, or leave out group_pattern."
                )
