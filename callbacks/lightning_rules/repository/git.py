"""One call of git: it waits for nobody, asks nobody, and writes nothing but what it is told to."""

from __future__ import annotations

import os
import re
import signal
import subprocess
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import ClassVar

# What a hook, an alias or a rebase leaves in the environment belongs to its repository, not to ours.
_KEPT = re.compile(
    r"GIT_(CONFIG_\w+|(AUTHOR|COMMITTER)_(NAME|EMAIL)|EXEC_PATH|SSH\w*|SSL_\w+|ASKPASS"
    r"|CEILING_DIRECTORIES|DISCOVERY_ACROSS_FILESYSTEM)"
)
_SETTINGS = {
    "core.hooksPath": os.devnull,
    "core.fsmonitor": "false",
    "core.splitIndex": "false",  # a split index would put a file beside the user's own
    "core.logAllRefUpdates": "false",
    "core.safecrlf": "false",
    "core.fsyncMethod": "batch",  # one flush for all new objects
    "core.filesRefLockTimeout": "2000",  # milliseconds to wait for another run that is tagging
    "core.packedRefsTimeout": "5000",
    "gc.auto": "0",
    "i18n.commitEncoding": "utf-8",
    "i18n.logOutputEncoding": "utf-8",
}


class GitError(OSError):
    """What git could not do, in one sentence."""


class NoRepository(GitError):
    """There is no repository that could be used, or no git, in one sentence."""


@dataclass(frozen=True)
class Git:
    """Calls git in a folder.

    Hooks, pagers, prompts, file monitors and optional locks are off, messages are English, and what a
    hook's environment says about index and folders is ignored.

    Args:
        folder: Where git runs.
    """

    folder: Path
    TIMEOUT: ClassVar[float] = 60.0
    """Seconds that one call may take."""

    def __call__(
        self,
        *arguments: str,
        stdin: bytes | None = None,
        empty_status: int = 0,
        seconds: float | None = None,
        variables: Mapping[str, str] = MappingProxyType({}),
    ) -> bytes:
        """What git prints.

        Args:
            arguments: The command and its options.
            stdin: What git reads; by default nothing.
            empty_status: An exit status other than 0 by which the command says that there is nothing to print.
            seconds: Longest time; by default ``TIMEOUT``.
            variables: More environment variables.

        Raises:
            GitError: git failed, or took too long; its process and those it has started are gone then.
            NoRepository: git is not installed.
        """
        process = self._start(arguments, variables)
        seconds = self.TIMEOUT if seconds is None else seconds
        try:
            printed, complaint = process.communicate(stdin or b"", timeout=seconds)
        except subprocess.TimeoutExpired:
            _kill(process)
            raise GitError(
                f"git {arguments[0]} did not end within {seconds:g} seconds in {self.folder}: is the disk slow or full?"
            ) from None
        except BaseException:
            _kill(process)
            raise
        if process.returncode not in (0, empty_status):
            raise GitError(f"git {arguments[0]} failed in {self.folder}: {_reason(complaint, process.returncode)}")
        return printed

    def line(self, *arguments: str, empty_status: int = 0) -> str:
        """What git prints, as text without the line end; see :meth:`__call__`."""
        return os.fsdecode(self(*arguments, empty_status=empty_status)).removesuffix("\n")

    def _start(self, arguments: tuple[str, ...], variables: Mapping[str, str]) -> subprocess.Popen[bytes]:
        settings = [word for name, value in _SETTINGS.items() for word in ("-c", f"{name}={value}")]
        command = ["git", "--no-pager", "-C", str(self.folder), *settings, *arguments]
        try:
            return subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                env={**_environment(), **variables},
                start_new_session=True,  # Ctrl-C ends the training, not a tag that is half written
            )
        except FileNotFoundError:
            raise NoRepository("git is not installed, or not on the PATH: install it.") from None
        except (OSError, ValueError) as error:
            raise GitError(f"git {arguments[0]} could not be started ({error}).") from error


def _environment() -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("GIT_") or _KEPT.fullmatch(name)}
    fixed = {"GIT_OPTIONAL_LOCKS": "0", "GIT_TERMINAL_PROMPT": "0", "GIT_PAGER": "cat", "LC_ALL": "C", "LANGUAGE": "C"}
    return {**kept, **fixed}


def _kill(process: subprocess.Popen[bytes]) -> None:
    """End git and what it has started: filters would keep its pipes open."""
    if hasattr(os, "killpg"):
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
    else:
        process.kill()
    with process:  # closes the pipes and waits
        pass


def _reason(complaint: bytes, status: int) -> str:
    """The lines of git's complaint that say what went wrong, as part of a sentence."""
    lines = [line.strip() for line in complaint.decode("utf-8", "replace").splitlines() if line.strip()]
    told = [re.sub(r"^(fatal|error): ", "", line) for line in lines if line.startswith(("fatal: ", "error: "))]
    reason = "; ".join(told[:2]) or (lines[-1] if lines else f"status {status}")
    return reason[:400].rstrip(".") + "."
