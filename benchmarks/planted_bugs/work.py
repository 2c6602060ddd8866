"""Runs as jobs, which processes can share: what to measure, of which program."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from multiprocessing import get_context
from typing import Any

import torch
from results import quietly

from planted_bugs.cases import CASES
from planted_bugs.detect import OURS, Verdict, monitors, preflight, verdict, whole_fit
from planted_bugs.fit import fit, reported
from planted_bugs.healthy import HEALTHY, Healthy
from planted_bugs.peers import peers
from planted_bugs.program import Case, Program, clean_metric
from planted_bugs.random_healthy import RandomHealthy, by_name

DISTRIBUTED = {"pre-flight": preflight, "whole fit": whole_fit, "monitors": monitors}


@dataclass(frozen=True)
class Job:
    """One run.

    Attributes:
        what: ``"metric"``, or the name of a detector.
        name: Of a case, of a healthy configuration, of a random program or of a reference for these.
        seed: The run's seed.
        buggy: Whether the bug is planted; without meaning for a healthy configuration.
    """

    what: str
    name: str
    seed: int
    buggy: bool = False

    @property
    def ranks(self) -> int:
        return self._of.ranks

    @property
    def metric(self) -> str:
        of = self._of
        return "accuracy" if isinstance(of, Healthy) else of.metric

    def build(self) -> Program:
        of = self._of
        return of.build(self.seed, self.buggy) if isinstance(of, Case) else of.build(self.seed)

    @property
    def _of(self) -> Case | Healthy | RandomHealthy:
        return CASES.get(self.name) or HEALTHY.get(self.name) or by_name(self.name)


def work(job: Job, **options: Any) -> Any:
    """The clean metric of the job's run, or a detector's verdict; options are the Trainer's.

    Raises:
        KeyError: No detector has this name.
    """
    torch.set_num_threads(1)
    with quietly():
        if job.what == "metric":
            program = job.build()
            return clean_metric(job.metric, program, reported(fit(program, **options)))
        if options:
            return verdict(partial(DISTRIBUTED[job.what], **options), job.build)
        return verdict({**OURS, **peers()}[job.what], job.build)


class Workers:
    """Runs jobs, here or in other processes; those of two ranks in two processes of their own.

    Args:
        pool: Where jobs of one process run; None for here.
    """

    def __init__(self, pool: ProcessPoolExecutor | None) -> None:
        self.pool = pool

    def __call__(self, jobs: Sequence[Job]) -> list[Any]:
        """A result for each job, in the order of the jobs; a detector that cannot run on two ranks has no verdict."""
        from planted_bugs import two_ranks

        single = {job: self._started(job) for job in jobs if job.ranks == 1}
        double = [job for job in jobs if job.ranks > 1 and job.what in (*DISTRIBUTED, "metric")]
        found = dict(zip(double, two_ranks.run(double), strict=True)) if double else {}
        nothing = Verdict([], 0.0, "runs in one process only")
        return [_result(single[job]) if job in single else found.get(job, nothing) for job in jobs]

    def _started(self, job: Job) -> Any:
        return self.pool.submit(work, job) if self.pool else work(job)


def _result(started: Any) -> Any:
    return started.result() if isinstance(started, Future) else started


@contextmanager
def workers(processes: int) -> Iterator[Workers]:
    """So many processes that run jobs; one is this one."""
    if processes == 1:
        yield Workers(None)
        return
    with ProcessPoolExecutor(processes, mp_context=get_context("spawn")) as pool:
        yield Workers(pool)
