"""Tables of what detectors saw."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import median

from planted_bugs.cases import CASES
from planted_bugs.detect import Verdict, diagnosed
from planted_bugs.random_healthy import PREFIX
from planted_bugs.work import Job

Verdicts = Mapping[Job, Verdict]
TIMED = ("monitors", "whole fit")  # detectors whose alarms come while a run goes on


def cases_table(verdicts: Verdicts, names: Sequence[str], detectors: Sequence[str]) -> str:
    """Markdown: a line a case, a column a detector, and when the rules first raise an alarm in a whole fit."""
    timed = [what for what in detectors if what in TIMED]
    heads = [*detectors, *(f"step, {what}" for what in timed)]
    lines = [f"| case | {' | '.join(heads)} |", "| --- |" + " --- |" * len(detectors) + " ---: |" * len(timed)]
    for name in names:
        of = {what: [verdicts[job] for job in _jobs(verdicts, what, name)] for what in detectors}
        cells = [*(_cell(name, of[what]) for what in detectors), *(_step(of[what]) for what in timed)]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _step(seen: Sequence[Verdict]) -> str:
    """Of several seeds the last; nothing unless all have an alarm."""
    steps = [verdict.step for verdict in seen if verdict.step is not None]
    return str(max(steps)) if seen and len(steps) == len(seen) else ""


def _jobs(verdicts: Verdicts, what: str, name: str, buggy: bool = True) -> list[Job]:
    return [job for job in verdicts if (job.what, job.name, job.buggy) == (what, name, buggy)]


def _cell(name: str, seen: Sequence[Verdict]) -> str:
    """Of several seeds the least: "named" only if all are."""
    if not seen or all(verdict.failure for verdict in seen):
        return "no verdict"
    if all(diagnosed(CASES[name], verdict) for verdict in seen):
        return "named"
    return "seen" if all(verdict.alarms for verdict in seen) else ""


def totals_table(verdicts: Verdicts, hurting: Sequence[str], healthy: Sequence[str], detectors: Sequence[str]) -> str:
    """Markdown: a line a detector. Runs without a verdict count as not detected, and as no alarm."""
    lines = [
        "| detector | detected | named | first alarm at step | alarms on healthy runs | on healthy twins | no verdict "
        "| seconds a healthy run |",
        "| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    for what in detectors:
        of = {job: verdict for job, verdict in verdicts.items() if job.what == what}
        bugs = {job: verdict for job, verdict in of.items() if job.buggy and job.name in hurting}
        fine = [verdict for job, verdict in of.items() if job.name in healthy]
        twins = [verdict for job, verdict in of.items() if job.name in CASES and not job.buggy]
        seen = [verdict for verdict in bugs.values() if verdict.alarms]
        named = sum(diagnosed(CASES[job.name], verdict) for job, verdict in bugs.items())
        steps = [verdict.step or 0 for verdict in seen]
        cells = [
            _share(len(seen), len(bugs)),
            _share(named, len(bugs)),
            f"{median(steps):g}" if steps else "",
            _share(sum(bool(verdict.alarms) for verdict in fine), len(fine)),
            _share(sum(bool(verdict.alarms) for verdict in twins), len(twins)),
            str(sum(bool(verdict.failure) for verdict in of.values())),
            f"{median(verdict.seconds for verdict in fine if not verdict.failure):.2f}" if fine else "",
        ]
        lines.append(f"| {what} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _share(part: int, whole: int) -> str:
    return f"{part}/{whole}" if whole else ""


def random_table(verdicts: Verdicts, detectors: Sequence[str]) -> str:
    """Markdown: runs of random healthy programs with an alarm, a line a detector."""
    lines = ["| detector | alarms on random healthy programs | no verdict |", "| --- | ---: | ---: |"]
    for what in detectors:
        seen = [verdict for job, verdict in verdicts.items() if job.what == what and job.name.startswith(PREFIX)]
        alarms, failures = sum(bool(one.alarms) for one in seen), sum(bool(one.failure) for one in seen)
        lines += [f"| {what} | {_share(alarms, len(seen))} | {failures} |"] if seen else []
    return "\n".join(lines)


def false_alarms(verdicts: Verdicts, detectors: Sequence[str]) -> str:
    """Each alarm of these detectors on a healthy run or twin, a line each."""
    lines = [
        f"- {job.what}, {job.name}, seed {job.seed}: {alarm.name}: {alarm.text}"
        for job, verdict in verdicts.items()
        if job.what in detectors and not job.buggy
        for alarm in verdict.alarms
    ]
    return "\n".join(lines) or "None."
