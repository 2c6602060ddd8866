"""How many planted bugs the rules detect, how many they name, and how often they cry wolf; and other detectors beside.

Each bug is one line of a healthy program. It counts if it hurts: the clean metric of its runs is worse than that of
its healthy twin's, over at least ten seeds (``planted_bugs/kill.py``). Detected: an alarm in the run; named: an alarm
that says the mechanism. See ``planted_bugs/packages.py`` for how to have torchtest2 and torch-audit take part.

Healthy programs are a fixed list, and ``--random`` so many that are drawn; of those count the ones whose metric,
without any rule, reaches a tuned reference's (``planted_bugs/random_search.py``).

``--quick`` takes a part of the cases and one seed, no random programs, and takes all cases to hurt that were never
measured.
"""

import argparse
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))

from planted_bugs import kill
from planted_bugs.cases import CASES
from planted_bugs.detect import OURS
from planted_bugs.healthy import HEALTHY
from planted_bugs.peers import peers
from planted_bugs.random_search import Search
from planted_bugs.report import cases_table, false_alarms, random_table, totals_table
from planted_bugs.work import Job, Workers, workers
from results import origin, record

QUICK = ("nan-rows", "softmax-before-cross-entropy", "rate-over-1000", "rate-grows-each-step", "exponential-overflows")
QUICK_HEALTHY = ("mlp-adam", "cnn-batch-norm-cosine", "diabetes-regression", "breast-cancer-bce")
QUICK_DETECTORS = ("pre-flight", "whole fit")
ON_RANDOM = ("whole fit",)  # detectors that random healthy programs are shown to; it holds the monitors


def arguments(detectors: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", nargs="+", choices=CASES, metavar="NAME", default=list(CASES))
    parser.add_argument("--healthy", nargs="*", choices=HEALTHY, metavar="NAME", default=list(HEALTHY))
    parser.add_argument("--detectors", nargs="+", choices=detectors, metavar="NAME", default=detectors)
    parser.add_argument("--seeds", type=int, default=12, help="of the kill criterion, a side (default: 12)")
    parser.add_argument("--runs", type=int, default=1, help="seeds of a buggy program for each detector (default: 1)")
    parser.add_argument("--healthy-runs", type=int, default=5, help="seeds of a healthy configuration (default: 5)")
    parser.add_argument("--random", type=int, default=0, help="random healthy programs (default: 0)")
    parser.add_argument("--processes", type=int, default=2, help="that share the work (default: 2)")
    parser.add_argument("--quick", action="store_true", help="a part of it, in under a minute")
    parser.add_argument("--record", action="store_true", help="write the tables to benchmarks/RESULTS.md")
    options = parser.parse_args()
    if options.quick:
        options.cases, options.healthy, options.healthy_runs = list(QUICK), list(QUICK_HEALTHY), 1
        options.detectors = [name for name in options.detectors if name in QUICK_DETECTORS]
        options.random = 0
    return options


def planned(options: argparse.Namespace, drawn: list[str]) -> list[Job]:
    """The runs that detectors see: both sides of the cases, healthy configurations, and drawn programs."""
    programs = [
        *((name, options.runs, (True, False)) for name in options.cases),
        *((name, options.healthy_runs, (False,)) for name in options.healthy),
    ]
    jobs = [
        Job(what, name, seed, buggy)
        for what in options.detectors
        for name, seeds, sides in programs
        for buggy in sides
        for seed in range(seeds)
    ]
    return jobs + [Job(what, name, 0) for what in options.detectors if what in ON_RANDOM for name in drawn]


def report(options: argparse.Namespace, run: Workers) -> str:
    began = time.perf_counter()
    harms = [] if options.quick else kill.harms(options.cases, range(options.seeds), run)
    latent = [harm.case for harm in harms if not harm.hurts]
    hurting = [name for name in options.cases if name not in latent]
    search = Search(run)
    drawn = [program.name for program in search.healthy(options.random)] if options.random else []
    jobs = planned(options, drawn)
    verdicts = dict(zip(jobs, run(jobs), strict=True))
    ours = [name for name in options.detectors if name in OURS]
    parts = [
        f"{origin('torch', 'lightning')}; {len(hurting)} bugs that hurt, {len(latent)} latent, "
        f"{len(options.healthy)} healthy configurations x {options.healthy_runs} seeds, {len(drawn)} random healthy "
        f"programs; {time.perf_counter() - began:.0f} s, without what kill.json and random.json held.",
        totals_table(verdicts, hurting, options.healthy, options.detectors),
        *([random_table(verdicts, ours), search.table(options.random)] if drawn else []),
        "Bugs that hurt:",
        cases_table(verdicts, hurting, options.detectors),
        *(["Latent bugs, which count nowhere:", cases_table(verdicts, latent, options.detectors)] if latent else []),
        f"Alarms of the rules on healthy programs:\n\n{false_alarms(verdicts, ours)}",
        *([f"What the bugs do to the clean metric, {options.seeds} seeds a side:", kill.table(harms)] if harms else []),
    ]
    return "\n\n".join(parts)


def main() -> None:
    options = arguments([*OURS, *peers()])
    with workers(options.processes) as run:
        text = report(options, run)
    print(text)
    if options.record:
        record("Planted bugs", text)


if __name__ == "__main__":
    main()
