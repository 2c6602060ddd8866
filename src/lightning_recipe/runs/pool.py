"""Trains the members of a procedure: one after another in this process, or at once in processes of their own."""

import gc
import os
import subprocess
import sys
import time
import traceback
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from lightning.pytorch.utilities.seed import isolate_rng

from lightning_recipe import errors, summary
from lightning_recipe.runs.member_record import reason_of
from lightning_recipe.runs.members import Member

# Seconds between two looks at the running processes, and between two lines that say how far they are.
LOOK, TELL = 0.2, 30.0


def train_here(members: Sequence[Member], retries: int, script: Sequence[str], run: Callable[[], Any]) -> None:
    """Train one after another in this process; a member that fails is tried again, then left.

    Ctrl-C and SIGTERM end all.

    Args:
        members: Those to train.
        retries: How often one that has failed is tried again.
        script: The words that start the command line, "python" and the script.
        run: Runs the command line on `sys.argv`.
    """
    for place, member in enumerate(members):
        for attempt in range(retries + 1):
            if _skipped(member):
                break
            print(f"\n{member.name}, {place + 1} of {len(members)} to train{_again(attempt)}:", flush=True)
            started = time.perf_counter()
            with isolate_rng(), as_command(script, member.arguments):
                _attempt(member, run)
            _tell_end(member, time.perf_counter() - started)
            if member.entry.read()["status"] == "finished":
                break


def _attempt(member: Member, run: Callable[[], Any]) -> None:
    member.entry.forget()
    try:
        run()
    except Exception as error:
        member.log.parent.mkdir(parents=True, exist_ok=True)
        with member.log.open("a", encoding="utf-8") as log:
            traceback.print_exc(file=log)
        _failed(member, errors.message_in(error) or reason_of(error))
    finally:
        wandb = sys.modules.get("wandb")
        if wandb is not None and getattr(wandb, "run", None) is not None:
            wandb.finish()  # the next member would log into the same run
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
    member: Member
    process: "subprocess.Popen[bytes]"
    attempt: int
    slot: int
    started: float


def train_apart(
    members: Sequence[Member], retries: int, script: Sequence[str], jobs: int, gpus: Sequence[str] = ()
) -> None:
    """Train up to `jobs` at once, each in a process of its own; what it prints is in its log.

    Args:
        members: Those to train.
        retries: How often one that has failed is tried again.
        script: The words that start the command line.
        jobs: How many at once, at least 1.
        gpus: One GPU for each process at once, as in CUDA_VISIBLE_DEVICES; none leaves them as they are.
    """
    waiting = deque((member, 0) for member in members)
    running: list[_Running] = []
    told = time.monotonic()
    try:
        while waiting or running:
            while waiting and len(running) < jobs:
                member, attempt = waiting.popleft()
                if not _skipped(member):
                    slot = min(set(range(jobs)) - {one.slot for one in running})
                    running.append(_start(member, script, attempt, slot, jobs, gpus))
            time.sleep(LOOK)
            for one in [one for one in running if one.process.poll() is not None]:
                running.remove(one)
                if not _ended(one) and one.attempt < retries:
                    waiting.append((one.member, one.attempt + 1))
            if time.monotonic() - told > TELL:
                told = time.monotonic()
                print("  " + "; ".join(_progress(one.member) for one in running), flush=True)
    finally:
        for one in running:
            one.process.terminate()
        for one in running:
            one.process.wait()


def _start(member: Member, script: Sequence[str], attempt: int, slot: int, jobs: int, gpus: Sequence[str]) -> _Running:
    environment = dict(os.environ)
    if jobs > 1:
        environment.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // jobs)))
    if gpus:
        environment["CUDA_VISIBLE_DEVICES"] = gpus[slot % len(gpus)]
    member.entry.forget()
    member.log.parent.mkdir(parents=True, exist_ok=True)
    print(f"{member.name} starts{_again(attempt)}; it prints to {summary.shown_path(member.log)}", flush=True)
    with member.log.open("ab") as log:
        words = [*script, *member.arguments]
        process = subprocess.Popen(
            words, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT, env=environment
        )
    return _Running(member, process, attempt, slot, time.perf_counter())


def _ended(one: _Running) -> bool:
    """Whether a member whose process has ended is finished; what the process could not say itself is recorded."""
    status, record = one.process.returncode, one.member.entry.read()
    if record["status"] not in ("finished", "failed") and one.member.entry.holder() is None:
        last = [line for line in one.member.log.read_text(errors="replace").splitlines() if line.strip()][-1:]
        killed = f"killed by signal {-status}" if status < 0 else f"ended with status {status}"
        _failed(one.member, f"{killed}{': ' if last and status > 0 else ''}{last[0] if last and status > 0 else ''}")
    _tell_end(one.member, time.perf_counter() - one.started)
    return bool(one.member.entry.read()["status"] == "finished")


def _failed(member: Member, reason: str) -> None:
    """Record a failure that the fit could not record itself, before it began or because it was killed."""
    record = member.entry.read()
    if record["status"] not in ("finished", "failed") and member.entry.holder() is None:
        member.entry.write({**record, "status": "failed", "error": reason})


def _skipped(member: Member) -> bool:
    """Whether there is nothing to do: another process has finished the member, or is at work on it."""
    holder = member.entry.holder()
    if holder:
        print(f"{member.name} is being trained by {holder}.", flush=True)
    return holder is not None or member.entry.read()["status"] == "finished"


def _tell_end(member: Member, seconds: float) -> None:
    record = member.entry.read()
    if record["status"] == "finished":
        print(f"{member.name} is finished after {summary.duration(seconds)}{_best(record)}.", flush=True)
    else:
        reason, log = record.get("error", record["status"]), summary.shown_path(member.log)
        where = f"; see {log}" if member.log.exists() else ""
        print(f"{member.name} failed after {summary.duration(seconds)}: {reason}{where}", file=sys.stderr, flush=True)


def _progress(member: Member) -> str:
    record = member.entry.read()
    epoch = f" in epoch {record['epoch'] + 1}" if "epoch" in record else " has begun"
    return f"{member.name}{epoch}{_best(record)}"


def _best(record: dict[str, Any]) -> str:
    best = record.get("best")
    return f", best {best['name']} {best['value']:.4g}" if best else ""


def _again(attempt: int) -> str:
    return f" (attempt {attempt + 1})" if attempt else ""
