"""A git repository as a run sees it: its state, snapshots of it, tags on them, and working trees beside it."""

from __future__ import annotations

import itertools
import os
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from lightning_rules.repository import working_tree
from lightning_rules.repository.git import Git, GitError, NoRepository

ATTEMPTS = 20
CHECKOUT_SECONDS = 900.0
_NOBODY = {"NAME": "lightning-rules", "EMAIL": "lightning-rules@localhost"}


@dataclass(frozen=True)
class Snapshot:
    """A commit that holds the code of a run.

    Args:
        commit: Its hash; that of the last commit where nothing has changed since.
        left_out: What the working tree holds beyond it, each with the reason, at most fifty.
        dirty: Whether the working tree differs from the last commit, the excluded folders apart.
        submodules: The commit of each submodule, by path.
    """

    commit: str
    left_out: list[str] = field(default_factory=list)
    dirty: bool = False
    submodules: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Tag:
    """An annotated tag: its name without ``refs/tags/``, the commit it stands on, its message."""

    name: str
    commit: str
    message: str


class Repository:
    """A git repository with a working tree; get it by :meth:`find`.

    Nothing here changes the working tree, index, HEAD, branches, stash, reflogs, file times or configuration, and
    nothing is pushed. What is written are objects, tags and, by :meth:`add_worktree`, another working tree (for which
    git fetches what a partial clone lacks).
    Every method raises :class:`GitError` with one sentence where git fails, and nothing else.

    Args:
        root: The top folder of the working tree.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self._git = Git(root)

    @classmethod
    def find(cls, folder: str | Path = ".") -> Repository:
        """The repository that a folder belongs to: its own, that of a folder above, a worktree's, a submodule's.

        Raises:
            NoRepository: There is none, or git is not installed, or it does not trust the repository's owner.
        """
        place = Path(folder).absolute()
        try:
            return cls(Path(Git(place).line("rev-parse", "--show-toplevel")))
        except NoRepository:
            raise
        except GitError as error:
            raise NoRepository(_why_none(place, str(error))) from None

    @property
    def commit(self) -> str | None:
        """The hash of the last commit; None before the first."""
        return self._git.line("rev-parse", "--verify", "--quiet", "HEAD^{commit}", empty_status=1) or None

    @property
    def branch(self) -> str | None:
        """The branch that is checked out; None where HEAD is detached."""
        return self._git.line("symbolic-ref", "--quiet", "--short", "HEAD", empty_status=1) or None

    @property
    def dirty(self) -> bool:
        """Whether a tracked file has changed, or there is an untracked one that is not ignored."""
        return bool(working_tree.changes(self._git))

    def has(self, commit: str) -> bool:
        """Whether the repository still holds a commit."""
        verify = ("rev-parse", "--verify", "--quiet", "--end-of-options", f"{commit}^{{commit}}")
        return bool(self._git.line(*verify, empty_status=1))

    def tree(self, commit: str) -> str:
        """The hash of a commit's tree, alike for commits that hold the same files."""
        return self._git.line("rev-parse", "--verify", "--end-of-options", f"{commit}^{{tree}}")

    def snapshot(self, message: str, exclude: Sequence[Path] = ()) -> Snapshot:
        """A commit of the working tree as it is: tracked changes, and untracked files that are not ignored.

        It is made through a copy of the index, so a lock on the index does no harm, and its parent is the last commit.
        A tree without changes gives the last commit itself. Left out, and said, are untracked files over 5 MB,
        untracked ``*.ckpt``, repositories inside this one, and changes inside submodules. Files that the user has
        told git not to look at (``assume-unchanged``, ``skip-worktree``) are as git knows them. No branch or tag
        holds the commit: unless it is tagged, ``git gc`` prunes it after two weeks.

        Args:
            message: The commit's message.
            exclude: Folders whose untracked files stay out, such as the run's own. The root excludes nothing.

        Raises:
            GitError: git failed, or it would be more than 20,000 untracked files or 200 MB of changed ones.
        """
        commit = self.commit
        changed = working_tree.own(working_tree.changes(self._git), self.root, exclude)
        selection = working_tree.select(changed, self.root)
        left_out = working_tree.told(selection.left_out)
        with self._copy_of_index() as index:
            if selection.removed:
                self._update(index, "--force-remove", selection.removed)
            if selection.added:
                self._update(index, "--add", selection.added)
            submodules = self._submodules(index)
            if changed or commit is None:
                commit = self._committed(index, commit, message)
        return Snapshot(commit, left_out, bool(changed), submodules)

    @contextmanager
    def _copy_of_index(self) -> Iterator[str]:
        """A copy of the index in a temporary folder; its time is kept, for git tells by it which files to compare."""
        original = self.root / self._git.line("rev-parse", "--git-path", "index")
        try:
            with tempfile.TemporaryDirectory(prefix="lightning-rules-") as folder:
                index = os.path.join(folder, "index")
                if original.exists():  # not before the first `git add`
                    shutil.copy2(original, index)
                yield index
        except GitError:
            raise
        except OSError as error:
            raise GitError(f"The index of {self.root} could not be copied to a temporary folder: {error}.") from error

    def _update(self, index: str, how: str, paths: list[str]) -> None:
        names = b"".join(os.fsencode(path) + b"\0" for path in paths)
        # --remove: a file that has vanished since is no error.
        self._git("update-index", how, "--remove", "-z", "--stdin", stdin=names, variables={"GIT_INDEX_FILE": index})

    def _submodules(self, index: str) -> dict[str, str]:
        if not (self.root / ".gitmodules").exists():
            return {}
        entries = self._git("ls-files", "--stage", "-z", variables={"GIT_INDEX_FILE": index}).split(b"\0")
        links = [entry.partition(b"\t") for entry in entries if entry.startswith(b"160000 ")]
        return {working_tree.told([os.fsdecode(path)])[0]: head.split()[1].decode() for head, _, path in links}

    def _committed(self, index: str, parent: str | None, message: str) -> str:
        tree = self._git("write-tree", variables={"GIT_INDEX_FILE": index}).decode().strip()
        if parent and tree == self._git.line("rev-parse", "--verify", f"{parent}^{{tree}}"):
            return parent  # all that has changed stays out
        parents = ["-p", parent] if parent else []
        text = message.encode("utf-8", "backslashreplace")
        return (
            self._git("commit-tree", tree, *parents, "-F", "-", stdin=text, variables=self._identity).decode().strip()
        )

    @cached_property
    def _identity(self) -> dict[str, str]:
        """Nothing where git knows who commits, else who does it instead."""
        try:
            self._git("var", "GIT_AUTHOR_IDENT")
            self._git("var", "GIT_COMMITTER_IDENT")
        except GitError:
            return {f"GIT_{who}_{what}": value for who in ("AUTHOR", "COMMITTER") for what, value in _NOBODY.items()}
        return {}

    def tag(self, name: str, commit: str, message: str) -> str:
        """Put an annotated tag on a commit; a tag that exists is never moved.

        Args:
            name: Its name; where that is taken, ``-2``, ``-3``, ... is appended.
            commit: The commit.
            message: Any text; it is kept as it is.

        Returns:
            The name that it was given.
        """
        text = message.encode("utf-8", "backslashreplace")
        for attempt in itertools.count(1):
            free = self._free(name)
            options = ("--annotate", "--no-sign", "--cleanup=verbatim", "--file=-", "--", free, commit)
            try:
                self._git("tag", *options, stdin=text, variables=self._identity)
                return free
            except GitError:
                if attempt == ATTEMPTS or self._free(name) == free:  # else another run was quicker
                    raise
        raise AssertionError("unreachable")

    def _free(self, name: str) -> str:
        """The name, or the first of those with a number appended that is neither a tag nor a folder of tags."""
        patterns = (f"refs/tags/{name}", f"refs/tags/{name}-*", f"refs/tags/{name}-*/**")
        present = self._git("for-each-ref", "--format=%(refname:strip=2)/", *patterns).decode("utf-8", "replace")
        taken = present.splitlines()
        candidates = itertools.chain([name], (f"{name}-{number}" for number in itertools.count(2)))
        return next(one for one in candidates if not any(tag.startswith(f"{one}/") for tag in taken))

    def delete_tag(self, name: str, record_id: str) -> bool:
        """Delete a tag, if it is there and its message names a record; nobody else's tag is ever deleted.

        Args:
            name: The tag.
            record_id: What its message must hold: the ``id`` of the run's record.

        Returns:
            Whether it was deleted.
        """
        ref = f"refs/tags/{name}"
        for found, object_id, _, message in self._annotated(ref):
            if found != name or not record_id or record_id not in message:
                continue
            try:
                self._git("update-ref", "-d", ref, object_id)  # only if it is still the same
                return True
            except GitError:
                if any(still == name for still, *_ in self._annotated(ref)):
                    raise
        return False

    def tags(self, pattern: str = "runs") -> list[Tag]:
        """Annotated tags with their messages, by one call of git.

        Args:
            pattern: A folder of tags (``runs/digits``: all below it), a tag, or a pattern as for ``for-each-ref``.
        """
        folder = pattern.removesuffix("/**").removesuffix("/*")
        return [Tag(name, commit, message) for name, _, commit, message in self._annotated(f"refs/tags/{folder}")]

    def _annotated(self, ref: str) -> Iterator[tuple[str, str, str, str]]:
        """Name, hash, commit and message of tags."""
        wanted = ("refname:strip=2", "objecttype", "objectname", "*objectname", "contents")
        told = self._git("for-each-ref", f"--format={''.join(f'%({field})%00' for field in wanted)}", ref)
        fields = [part.decode("utf-8", "replace") for part in told.split(b"\0")]
        for name, kind, object_id, commit, message in zip(*(fields[place::5] for place in range(5)), strict=False):
            if kind == "tag":
                yield name.removeprefix("\n"), object_id, commit, message

    def add_worktree(self, folder: Path, commit: str) -> None:
        """Check a commit out into a new folder, HEAD detached; it appears whole or not at all.

        Raises:
            GitError: The folder exists, or git failed.
        """
        if os.path.lexists(folder):
            raise GitError(f"The folder {folder} exists: name one that does not.")
        try:
            options = ("--detach", "--", str(folder.absolute()), commit)
            self._git("worktree", "add", *options, seconds=CHECKOUT_SECONDS)
        except BaseException:
            self.remove_worktree(folder)
            raise

    def remove_worktree(self, folder: Path) -> None:
        """Remove what :meth:`add_worktree` has made, as far as it is there."""
        with suppress(GitError):  # git has cleaned up by itself, unless it was killed
            self._git("worktree", "remove", "--force", "--force", "--", str(folder.absolute()))
        shutil.rmtree(folder, ignore_errors=True)


def _why_none(place: Path, complaint: str) -> str:
    if "not a git repository" in complaint:
        return f"{place} is in no git repository: make one with `git init`, or work in one."
    if "must be run in a work tree" in complaint:
        return f"{place} is in a git repository without a working tree: work in a clone of it."
    if "dubious ownership" in complaint:
        owner = complaint.partition("repository at ")[2].strip("'. ") or str(place)
        return (
            f"The git repository {owner} belongs to another user, and git does not trust it: "
            f"allow it with `git config --global --add safe.directory {owner}`."
        )
    return complaint
