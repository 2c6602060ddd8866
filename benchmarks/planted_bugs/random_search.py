"""Which drawn programs are healthy: trained without any rule, and held against a tuned reference."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from planted_bugs.random_healthy import GRID, PREFIX, REFERENCE, SPLITS, RandomHealthy, by_name
from planted_bugs.work import Job

CACHE = Path(__file__).with_name("random.json")
SLACK = {"accuracy": 0.02, "r2": 0.05}
CHUNK = 20  # programs, from one write of the cache to the next
SOURCES = ("random_healthy.py", "random_networks.py", "datasets.py", "modules.py", "fit.py")

Run = Callable[[Sequence[Job]], list[float]]


class Search:
    """Draws, trains and keeps the verdicts, beside this file, with a digest of what makes the programs.

    Args:
        run: Works through jobs.
        path: Of the cache.
    """

    def __init__(self, run: Run, path: Path = CACHE) -> None:
        self.run, self.path = run, path
        kept: dict[str, Any] = json.loads(path.read_text()) if path.is_file() else {}
        if kept.get("source") != source():
            kept = {"source": source(), "references": {}, "programs": {}}
        self.references: dict[str, list[list[float]]] = kept["references"]
        self.programs: dict[str, float] = kept["programs"]

    def healthy(self, count: int) -> list[RandomHealthy]:
        """The first so many of the drawn programs that are healthy, in the order of their seeds."""
        found: list[RandomHealthy] = []
        for first in range(0, 20 * count, CHUNK):
            drawn = [by_name(f"{PREFIX}{seed}") for seed in range(first, first + CHUNK)]
            self._measure(drawn)
            found += [program for program in drawn if self.is_healthy(program)]
            if len(found) >= count:
                return found[:count]
        raise RuntimeError(f"Only {len(found)} of {20 * count} drawn programs are healthy; the generator is too wild.")

    def is_healthy(self, program: RandomHealthy) -> bool:
        return self.programs[program.name] >= self.reference(program) - SLACK[program.metric]

    def reference(self, program: RandomHealthy) -> float:
        """The metric, on the program's split, of what is best of the grid over all splits."""
        measured = np.array(self.references[program.recipe.data])  # [grid, split]
        return float(measured[measured.mean(1).argmax(), program.recipe.split])

    def _measure(self, drawn: Sequence[RandomHealthy]) -> None:
        """Train what the cache does not hold."""
        for data in sorted({program.recipe.data for program in drawn} - {*self.references}):
            names = [f"{REFERENCE}{data}-{split}-{place}" for place in range(len(GRID)) for split in range(SPLITS)]
            values = self.run([Job("metric", name, 0) for name in names])
            self.references[data] = np.array(values).reshape(len(GRID), SPLITS).tolist()
            self._keep()
        new = [program.name for program in drawn if program.name not in self.programs]
        if new:
            self.programs |= dict(zip(new, self.run([Job("metric", name, 0) for name in new]), strict=True))
            self._keep()

    def _keep(self) -> None:
        kept = {"source": source(), "references": self.references, "programs": self.programs}
        self.path.write_text(json.dumps(kept, indent=1) + "\n")

    def table(self, count: int) -> str:
        """Markdown: of which kinds the drawn programs are, and how many are healthy, up to the last that counts."""
        healthy = self.healthy(count)
        last = healthy[-1].drawn
        drawn = [by_name(f"{PREFIX}{seed}") for seed in range(last + 1)]
        lines = [f"{count} healthy of {last + 1} drawn:", "", "| kind | healthy / drawn |", "| --- | --- |"]
        for kind in ("data", "family", "optimiser", "schedule", "norm", "activation"):
            whole, part = (Counter(getattr(one.recipe, kind) for one in side) for side in (drawn, healthy))
            lines.append(f"| {kind} | {', '.join(f'{name} {part[name]}/{whole[name]}' for name in sorted(whole))} |")
        return "\n".join(lines)


def source() -> str:
    """A digest of the text that makes the programs."""
    text = "".join(Path(__file__).with_name(name).read_text(encoding="utf-8") for name in SOURCES)
    return hashlib.sha256(text.encode()).hexdigest()[:16]
