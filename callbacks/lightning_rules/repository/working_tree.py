"""What a working tree holds beyond its last commit, and what of it belongs into a snapshot."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from lightning_rules.repository.git import Git, GitError

LARGEST_FILE = 5_000_000
MOST_FILES = 20_000
MOST_BYTES = 200_000_000
NAMES_TOLD = 50


@dataclass(frozen=True)
class Change:
    """One path that differs from the last commit.

    Args:
        path: Below the root of the repository, as the file system spells it.
        untracked: Whether git does not know the path (a folder with a repository of its own ends in ``/``).
        unstaged: Whether the working tree differs from the index.
        deleted: Whether the path is gone from the working tree.
        submodule: Whether the path is a submodule.
        inside: Whether that submodule holds changes that none of its commits has.
    """

    path: str
    untracked: bool = False
    unstaged: bool = True
    deleted: bool = False
    submodule: bool = False
    inside: bool = False


@dataclass
class Selection:
    """What goes into a snapshot: paths to be added, paths to be removed, and what stays out, with the reason."""

    added: list[str] = field(default_factory=list)
    removed: list[str] = field(default_factory=list)
    left_out: list[str] = field(default_factory=list)


def changes(git: Git) -> list[Change]:
    """All that differs from the last commit: tracked paths, and untracked ones that are not ignored."""
    options = ("--porcelain=v2", "-z", "--untracked-files=all", "--ignore-submodules=none", "--no-renames")
    records = [record for record in git("status", *options).split(b"\0") if record]
    return [_change(record, git.folder) for record in records]


def _change(record: bytes, root: Path) -> Change:
    kind = record[:1]
    if kind == b"?":
        return Change(os.fsdecode(record[2:]), untracked=True)
    *words, name = record.split(b" ", 10 if kind == b"u" else 8)
    path, in_tree, submodule = os.fsdecode(name), words[1].decode()[1], words[2].decode()
    if kind == b"u":  # in conflict: the working tree's version counts
        return Change(path, deleted=not os.path.lexists(root / path), submodule=submodule != "N...")
    commit, inside = submodule[1] != ".", submodule[2:] != ".."
    if submodule != "N...":
        return Change(path, unstaged=commit or in_tree == "D", deleted=in_tree == "D", submodule=True, inside=inside)
    return Change(path, unstaged=in_tree != ".", deleted=in_tree == "D")


def own(found: Iterable[Change], root: Path, exclude: Sequence[Path]) -> list[Change]:
    """Changes less untracked paths in the folders to be excluded; the root itself and what holds it exclude nothing."""
    folders = [Path(folder).resolve() for folder in exclude]
    below = [folder.relative_to(root).as_posix() for folder in folders if root in folder.parents]
    starts = tuple(f"{name}/" for name in below)
    return [change for change in found if not (change.untracked and f"{change.path}/".startswith(starts))]


def select(found: Iterable[Change], root: Path) -> Selection:
    """What of the changes goes into a snapshot.

    Raises:
        GitError: It would be more than 20,000 untracked files or 200 MB.
    """
    selection, size, untracked = Selection(), 0, 0
    for change in found:
        if change.inside:
            selection.left_out.append(f"{change.path} (changes inside the submodule)")
        if not change.unstaged:
            continue
        if change.deleted:
            selection.removed.append(change.path)
            continue
        bytes_, reason = _weigh(change, root)
        if reason:
            selection.left_out.append(f"{change.path} ({reason})")
            continue
        selection.added.append(change.path)
        size += bytes_
        untracked += change.untracked
    if untracked > MOST_FILES:
        raise GitError(
            f"A snapshot of {root} would take in {untracked:,} untracked files, and {MOST_FILES:,} are the most: "
            "list folders of data in .gitignore, or commit them."
        )
    if size > MOST_BYTES:
        raise GitError(
            f"A snapshot of {root} would take in {size / 1e6:,.0f} MB of changed files, and {MOST_BYTES / 1e6:.0f} MB "
            "are the most: list data in .gitignore, or commit it."
        )
    return selection


def _weigh(change: Change, root: Path) -> tuple[int, str | None]:
    """The bytes of a file, and why it stays out of a snapshot, if it does."""
    if change.submodule:
        return 0, None
    if change.path.endswith("/"):
        return 0, "a repository of its own"
    place = root / change.path
    try:
        found = place.lstat()
    except OSError:
        return 0, None  # gone since; git sees the same
    if not stat.S_ISREG(found.st_mode):
        return 0, None
    if change.untracked and change.path.endswith(".ckpt"):
        return 0, "a checkpoint"
    if change.untracked and found.st_size > LARGEST_FILE:
        return 0, f"{found.st_size / 1e6:.1f} MB, untracked"
    return found.st_size, None if os.access(place, os.R_OK) else "not readable"


def told(names: list[str]) -> list[str]:
    """Names for a person's eye, all of them legal text: the first fifty, and how many more there are."""
    readable = [os.fsencode(name).decode("utf-8", "backslashreplace") for name in sorted(names)]
    more = len(readable) - NAMES_TOLD
    return [*readable[:NAMES_TOLD], f"and {more} more"] if more > 0 else readable
