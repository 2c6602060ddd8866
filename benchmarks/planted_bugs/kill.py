"""The kill criterion of DeepCrime (Humbatova, Jahangirova and Tonella, 2021): which bugs really hurt.

A bug hurts if the clean metric of its runs is worse than that of its healthy twin's, over at least ten seeds a side,
with p < 0.05 and an effect of at least 0.5. The test is Mann and Whitney's, not Welch's: a part of the runs diverges,
so that the metric has two humps and no variance on one side, and ranks are sound there. The effect is Cohen's d with
the pooled deviation, as in DeepCrime.
"""

from __future__ import annotations

import hashlib
import inspect
import json
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from scipy.stats import mannwhitneyu

from planted_bugs.cases import CASES
from planted_bugs.work import Job

CACHE = Path(__file__).with_name("kill.json")


@dataclass(frozen=True)
class Harm:
    """The clean metric of both sides, a value a seed (the higher the better), and what a run takes.

    ``source`` is a digest of the case's own text, by which a figure of an older text is known.
    """

    case: str
    source: str
    healthy: list[float]
    buggy: list[float]
    seconds: float

    @property
    def p_value(self) -> float:
        """Two-sided; 1 where all values are equal."""
        if len({*self.healthy, *self.buggy}) == 1:
            return 1.0
        return float(mannwhitneyu(self.healthy, self.buggy, alternative="two-sided").pvalue)

    @property
    def effect(self) -> float:
        """Cohen's d, positive where the bug is worse."""
        difference = float(np.mean(self.healthy) - np.mean(self.buggy))
        pooled = math.sqrt((np.var(self.healthy, ddof=1) + np.var(self.buggy, ddof=1)) / 2)
        return difference / pooled if pooled else math.copysign(math.inf, difference) if difference else 0.0

    @property
    def hurts(self) -> bool:
        return len(self.buggy) >= 10 and self.p_value < 0.05 and self.effect >= 0.5


def harms(names: Sequence[str], seeds: Sequence[int], run: Callable[[Sequence[Job]], list[float]]) -> list[Harm]:
    """The harm of these cases, out of the cache where it holds as many seeds; ``run`` works through jobs."""
    cached: dict[str, Any] = json.loads(CACHE.read_text()) if CACHE.is_file() else {}
    for name in names:
        old = cached.get(name, {"source": "", "buggy": []})
        if old["source"] != source_of(name) or len(old["buggy"]) < len(seeds):
            cached[name] = asdict(_measured(name, seeds, run))
            CACHE.write_text(json.dumps(cached, indent=1) + "\n")
    return [Harm(**cached[name]) for name in names]


def source_of(name: str) -> str:
    text = inspect.getsource(CASES[name].make).partition("def ")[2]  # without what counts as a diagnosis
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _measured(name: str, seeds: Sequence[int], run: Callable[[Sequence[Job]], list[float]]) -> Harm:
    began = time.perf_counter()
    values = run([Job("metric", name, seed, buggy) for buggy in (False, True) for seed in seeds])
    seconds = (time.perf_counter() - began) / len(values)
    return Harm(name, source_of(name), values[: len(seeds)], values[len(seeds) :], seconds)


def table(found: Sequence[Harm]) -> str:
    """Markdown: the cases that hurt, then the latent ones."""
    lines = ["| case | metric | healthy | buggy | p | d | hurts |", "| --- | --- | ---: | ---: | ---: | ---: | --- |"]
    for harm in sorted(found, key=lambda harm: not harm.hurts):
        healthy, buggy = np.mean(harm.healthy), np.mean(harm.buggy)
        numbers = f"{healthy:.3f} | {buggy:.3f} | {harm.p_value:.1g} | {harm.effect:.1f}"
        verdict = "yes" if harm.hurts else "latent"
        lines.append(f"| {harm.case} | {CASES[harm.case].metric} | {numbers} | {verdict} |")
    return "\n".join(lines)
