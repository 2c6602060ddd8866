"""Trains the fits of a procedure: one after another in this process, or at once in processes of their own."""

import gc
import os
import signal
import subprocess
import sys
import threading
import time
import traceback
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from lightning.pytorch.utilities.seed import isolate_rng

from lightning_recipe import errors, summary
from lightning_recipe.runs.fit import Fit
from lightning_recipe.runs.fit_record import reason_of
from lightning_recipe.runs.progress import Display, best_so_far
from lightning_recipe.runs.warm_start import WarmProcess, can_start_warm, start_warm

LOOK = 0.05  # seconds between two looks at the running processes
ENDED = ("finished", "stopped", "failed")


def train_here(fits: Sequence[Fit], retries: int, script: Sequence[str], run: Callable[[], Any]) -> None:
    """Train one after another in this process; a fit that fails is tried again, then left.

    Ctrl-C and SIGTERM end all.

    Args:
        fits: Those to make.
        retries: How often one that has failed is tried again.
        script: The words that start the command line, "python" and the script.
        run: Runs the command line on `sys.argv`.
    """
    for place, fit in enumerate(fits):
        for attempt in range(retries + 1):
            if _skipped(fit):
                break
            print(f"\n{fit.name}, {place + 1} of {len(fits)} to train{_again(attempt)}:", flush=True)
            started = time.perf_counter()
            with isolate_rng(), as_command(script, fit.arguments):
                _attempt(fit, run)
            _tell_end(fit, time.perf_counter() - started)
            if fit.entry.read()["status"] == "finished":
                break


def _attempt(fit: Fit, run: Callable[[], Any]) -> None:
    _forget_attempts(fit)
    try:
        run()
    except Exception as error:
        fit.log.parent.mkdir(parents=True, exist_ok=True)
        with fit.log.open("a", encoding="utf-8") as log:
            traceback.print_exc(file=log)
        _failed(fit, errors.message_in(error) or reason_of(error))
    finally:
        wandb = sys.modules.get("wandb")
        if wandb is not None and getattr(wandb, "run", None) is not None:
            wandb.finish()  # the next fit would log into the same run
        gc.collect()
        torch.cuda.empty_cache()


@contextmanager
def as_command(script: Sequence[str], arguments: Sequence[str]) -> Iterator[None]:
    """Let the program seem to have been started with these words, and put its environment back afterwards."""
    before = sys.argv, sys.orig_argv, dict(os.environ)
    sys.argv, sys.orig_argv = [script[-1], *arguments], [*script, *arguments]
    try:
        yield
    finally:
        sys.argv, sys.orig_argv = before[:2]
        os.environ.clear()
        os.environ.update(before[2])


@dataclass
class _Running:
    fit: Fit
    process: "subprocess.Popen[bytes] | WarmProcess"
    attempt: int
    slot: int
    started: float

    @property
    def seconds(self) -> float:
        return time.perf_counter() - self.started


@dataclass(frozen=True)
class Places:
    """Where fits run, each in a process of its own.

    Args:
        script: The words that start the command line.
        jobs: How many at once, at least 1.
        gpus: One GPU for each process at once, as in CUDA_VISIBLE_DEVICES; none leaves them as they are.
        warm: Whether processes may be forked from one that has imported everything; not such as launch others.
    """

    script: Sequence[str]
    jobs: int = 1
    gpus: Sequence[str] = ()
    warm: bool = False


def _nothing(_: Any) -> None:
    """What is done where nobody listens."""


def train_apart(
    fits: Iterable[Fit | None],
    retries: int,
    places: Places,
    *,
    total: int | None = None,
    ended: Callable[[Fit], None] = _nothing,
    look: Callable[[Sequence[Fit]], None] = _nothing,
) -> None:
    """Train as many at once as there are places, each in a process of its own; what it prints is in its log.

    Ctrl-C and SIGTERM end all.

    Args:
        fits: Those to make, asked for one by one when there is a place; None says that there is none for now.
        retries: How often one that has failed is tried again.
        places: Where they run.
        total: How many there will be, for the display.
        ended: Called with each fit that has come to its end: finished, stopped, or failed for good.
        look: Called many times a second with the fits that run.
    """
    queue, running = _Queue(fits), list[_Running]()
    with _sigterm_interrupts(), Display(total, places.jobs) as display:
        try:
            while running or not queue.is_empty:
                while len(running) < places.jobs and (following := queue.next()):
                    if not _skipped(following[0]):
                        running.append(_start(*following, places, _free_slot(running)))
                time.sleep(LOOK)
                for one in [one for one in running if one.process.poll() is not None]:
                    running.remove(one)
                    if _has_ended(one) or one.attempt >= retries:
                        display.ended(one.seconds)
                        ended(one.fit)
                    else:
                        queue.again.append((one.fit, one.attempt + 1))
                look([one.fit for one in running])
                display.show([(one.fit, one.seconds) for one in running])
        finally:
            for one in running:
                one.process.terminate()
            for one in running:
                one.process.wait()
                _record_end(one)


class _Queue:
    """The fits that are yet to be made, each with the number of its attempt."""

    def __init__(self, fits: Iterable[Fit | None]) -> None:
        self._coming = iter(fits)
        self.again = deque[tuple[Fit, int]]()
        self._is_open = True

    @property
    def is_empty(self) -> bool:
        """Whether none will come."""
        return not (self._is_open or self.again)

    def next(self) -> tuple[Fit, int] | None:
        """The next of them; None where there is none, or none for now."""
        if self.again:
            return self.again.popleft()
        try:
            fit = next(self._coming) if self._is_open else None
        except StopIteration:
            fit, self._is_open = None, False
        return None if fit is None else (fit, 0)


@contextmanager
def _sigterm_interrupts() -> Iterator[None]:
    """SIGTERM ends the fits like Ctrl-C, where this is the thread that gets signals."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def interrupt(number: int, frame: Any) -> None:
        raise SystemExit(128 + number)

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _free_slot(running: Sequence[_Running]) -> int:
    return min(set(range(len(running) + 1)) - {one.slot for one in running})


def _start(fit: Fit, attempt: int, places: Places, slot: int) -> _Running:
    environment = dict(os.environ)
    if places.jobs > 1:
        environment.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // places.jobs)))
    if places.gpus:
        environment["CUDA_VISIBLE_DEVICES"] = places.gpus[slot % len(places.gpus)]
    _forget_attempts(fit)
    fit.log.parent.mkdir(parents=True, exist_ok=True)
    print(f"{fit.name} starts{_again(attempt)}; it prints to {summary.shown_path(fit.log)}", flush=True)
    started = time.perf_counter()
    if places.warm and can_start_warm(places.script):
        return _Running(fit, start_warm(places.script, fit.arguments, fit.log, environment), attempt, slot, started)
    with fit.log.open("ab") as log:
        words = [*places.script, *fit.arguments]
        process = subprocess.Popen(
            words, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT, env=environment
        )
    return _Running(fit, process, attempt, slot, started)


def _forget_attempts(fit: Fit) -> None:
    """Remove what an attempt that has failed would leave in the way of the next."""
    fit.entry.forget()
    fit.stop_file.unlink(missing_ok=True)
    (fit.folder / fit.name / "config.yaml").unlink(missing_ok=True)  # Lightning refuses to overwrite it


def _has_ended(one: _Running) -> bool:
    """Whether a fit whose process has ended came to its end; else its failure is recorded and told."""
    _record_end(one)
    _tell_end(one.fit, one.seconds)
    return bool(one.fit.entry.read()["status"] in ("finished", "stopped"))


def _record_end(one: _Running) -> None:
    """What the process could not say itself of its end is recorded."""
    status, record = one.process.returncode or 0, one.fit.entry.read()
    if record["status"] not in ENDED and one.fit.entry.holder() is None:
        last = [line for line in one.fit.log.read_text(errors="replace").splitlines() if line.strip()][-1:]
        killed = f"killed by signal {-status}" if status < 0 else f"ended with status {status}"
        _failed(one.fit, f"{killed}{': ' if last and status > 0 else ''}{last[0] if last and status > 0 else ''}")


def _failed(fit: Fit, reason: str) -> None:
    """Record a failure that the fit could not record itself, before it began or because it was killed."""
    record = fit.entry.read()
    if record["status"] not in ENDED and fit.entry.holder() is None:
        fit.entry.write({**record, "status": "failed", "error": reason})


def _skipped(fit: Fit) -> bool:
    """Whether there is nothing to do: another process has made the fit, or is at work on it."""
    holder = fit.entry.holder()
    if holder:
        print(f"{fit.name} is being trained by {holder}.", flush=True)
    return holder is not None or fit.entry.read()["status"] in ("finished", "stopped")


def _tell_end(fit: Fit, seconds: float) -> None:
    record = fit.entry.read()
    if record["status"] in ("finished", "stopped"):
        print(f"{fit.name} is {record['status']} after {summary.duration(seconds)}{best_so_far(record)}.", flush=True)
    else:
        reason, log = record.get("error", record["status"]), summary.shown_path(fit.log)
        where = f"; see {log}" if fit.log.exists() else ""
        print(f"{fit.name} failed after {summary.duration(seconds)}: {reason}{where}", file=sys.stderr, flush=True)


def _again(attempt: int) -> str:
    return f" (attempt {attempt + 1})" if attempt else ""
