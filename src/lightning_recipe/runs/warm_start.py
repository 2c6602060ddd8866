"""Processes that begin with everything imported: forked from a server that has done nothing else.

Importing torch, Lightning and timm takes longer than many a small fit. The server (multiprocessing's "forkserver")
imports them once and never trains, so what is forked from it is as clean as a new process: no threads, no CUDA, no
state of another fit. What it has imported is shared memory of all fits.
"""

import atexit
import multiprocessing
import os
import random
import runpy
import sys
import types
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from multiprocessing.process import BaseProcess
from pathlib import Path

PRELOADED = ("lightning_recipe.cli", "lightning_recipe.models", "lightning_recipe.data", "lightning_rules")


class WarmProcess:
    """A process with the methods of `subprocess.Popen` that the pool uses."""

    def __init__(self, process: BaseProcess) -> None:
        self._process = process

    @property
    def returncode(self) -> int | None:
        """Its exit status, negative for a signal; None while it runs."""
        return self._process.exitcode

    def poll(self) -> int | None:
        """The same."""
        return self.returncode

    def terminate(self) -> None:
        """Ask it to end."""
        self._process.terminate()

    def wait(self) -> None:
        """Wait until it has ended."""
        self._process.join()


def can_start_warm(script: Sequence[str]) -> bool:
    """Whether a script can be run in a forked process: a file or a module, without options of the interpreter.

    Args:
        script: The words that start it, the interpreter first.
    """
    is_plain = len(script) == 2 or (len(script) == 3 and script[1] == "-m")
    return is_plain and "forkserver" in multiprocessing.get_all_start_methods()


def start_warm(
    script: Sequence[str], arguments: Sequence[str], log: Path, environment: Mapping[str, str]
) -> WarmProcess:
    """Run a script as if by `script arguments`, in a process that has imported what it needs.

    Args:
        script: The words that start it, the interpreter first; see `can_start_warm`.
        arguments: Those of the script.
        log: The file to which it prints, appended to.
        environment: Its environment.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(list(PRELOADED))
    options = (list(script), list(arguments), str(log.absolute()), dict(environment))
    process = context.Process(target=_run, args=options, daemon=False)
    with _no_main(), _environment(environment):  # that of the server is the one of the first process
        process.start()
    return WarmProcess(process)


@contextmanager
def _no_main() -> Iterator[None]:
    """Multiprocessing imports the parent's main script in each child, for what was pickled there; nothing was."""
    before = sys.modules["__main__"]
    sys.modules["__main__"] = types.ModuleType("__main__")
    try:
        yield
    finally:
        sys.modules["__main__"] = before


@contextmanager
def _environment(changed: Mapping[str, str]) -> Iterator[None]:
    before = dict(os.environ)
    os.environ.update(changed)
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


def _run(script: list[str], arguments: list[str], log: str, environment: dict[str, str]) -> None:
    """What the forked process does."""
    _print_to(log)
    os.environ.clear()
    os.environ.update(environment)
    _use_threads(environment.get("OMP_NUM_THREADS", ""))
    random.seed()  # all have the server's state
    sys.orig_argv = [*script, *arguments]
    try:
        if script[1] == "-m":
            sys.argv = [script[2], *arguments]
            sys.path.insert(0, os.getcwd())
            runpy.run_module(script[2], run_name="__main__", alter_sys=True)
        else:
            sys.argv = [script[1], *arguments]
            sys.path.insert(0, str(Path(script[1]).absolute().parent))
            runpy.run_path(script[1], run_name="__main__")
    finally:
        atexit._run_exitfuncs()  # multiprocessing ends without them


def _print_to(log: str) -> None:
    sys.stdout.flush()
    sys.stderr.flush()
    nothing, file = os.open(os.devnull, os.O_RDONLY), os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    for source, target in ((nothing, 0), (file, 1), (file, 2)):
        os.dup2(source, target)
    os.close(nothing)
    os.close(file)


def _use_threads(count: str) -> None:
    """The libraries have read the variable already, when they were loaded."""
    if count.isdecimal() and int(count) > 0:
        import torch

        torch.set_num_threads(int(count))
