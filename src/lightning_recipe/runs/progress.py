"""How far a procedure is: bars on a terminal, a line now and then elsewhere."""

import math
import time
from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn

from lightning_recipe import summary
from lightning_recipe.runs.fit import Fit

# Seconds between two lines, where there is no terminal, and between two looks at the records for bars.
TELL, LOOK = 30.0, 0.5


class Display:
    """Shows the fits that run, each with its metric so far, and how long all will take.

    Args:
        total: How many fits there are to make; None where that is open.
        jobs: How many run at once.
        console: Where to show it; by default the standard output.
    """

    def __init__(self, total: int | None, jobs: int, console: Console | None = None) -> None:
        self.total, self.jobs = total, jobs
        self.durations: list[float] = []
        self._console = console or Console()
        self._bars = _bars(self._console) if self._console.is_terminal else None
        self._rows: dict[str, TaskID] = {}
        self._all = self._bars.add_task("all", total=total, told="") if self._bars is not None else None
        self._told = time.monotonic() if self._bars is None else 0.0

    def __enter__(self) -> "Display":
        if self._bars is not None:
            self._bars.start()
        return self

    def __exit__(self, *exception: object) -> None:
        if self._bars is not None:
            self._bars.stop()

    def ended(self, seconds: float) -> None:
        """Take in how long a fit took, which tells of the others."""
        self.durations.append(seconds)

    def show(self, running: Sequence[tuple[Fit, float]]) -> None:
        """Show the fits that run.

        Args:
            running: Each with the seconds since its start.
        """
        if time.monotonic() - self._told < (TELL if self._bars is None else LOOK):
            return
        self._told = time.monotonic()
        records = {fit.name: fit.entry.read() for fit, _ in running}
        spent = [(seconds, share_done(records[fit.name])) for fit, seconds in running]
        left = self._left(spent)
        if self._bars is not None:
            self._show_bars(self._bars, records, left)
        elif running:
            print("  " + "; ".join([*map(progress_line, records, records.values()), *left]), flush=True)

    def _show_bars(self, bars: Progress, records: Mapping[str, dict[str, Any]], left: Sequence[str]) -> None:
        assert self._all is not None
        for name in set(self._rows) - set(records):
            bars.remove_task(self._rows.pop(name))
        for name, record in records.items():
            if name not in self._rows:
                self._rows[name] = bars.add_task(name, total=1.0, told="")
            told = progress_line("", record).strip()
            bars.update(self._rows[name], completed=share_done(record) or 0.0, told=told)
        done = len(self.durations)
        told = f"{done:,}" + (f" of {self.total:,} fits" if self.total is not None else " fits")
        bars.update(self._all, completed=done, told=", ".join([told, *left]))

    def _left(self, spent: Sequence[tuple[float, float | None]]) -> list[str]:
        seconds = seconds_left(self.durations, spent, self.total, self.jobs)
        return [] if seconds is None else [f"about {summary.duration(seconds)} left"]


def _bars(console: Console) -> Progress:
    columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.fields[told]}"))
    return Progress(*columns, console=console, transient=True, refresh_per_second=2)


def seconds_left(
    durations: Sequence[float], running: Sequence[tuple[float, float | None]], total: int | None, jobs: int
) -> float | None:
    """How long a procedure will still take, as far as its fits have told; None where nothing is known.

    Args:
        durations: Seconds of the fits that have ended.
        running: Of those that run: seconds since the start, and the share that is done, from 0 to 1, if known.
        total: How many fits there are in all; None where that is open.
        jobs: How many run at once.
    """
    if total is None:
        return None
    expected = [seconds / share for seconds, share in running if share]
    known = [*durations, *expected]
    if not known:
        return None
    each = sum(known) / len(known)
    waiting = max(0, total - len(durations) - len(running)) * each
    left = [
        seconds / share - seconds if share else max(0.0, each - seconds) for seconds, share in running
    ]  # of those that run
    return max([(waiting + sum(left)) / jobs, *left])


def share_done(record: dict[str, Any]) -> float | None:
    """The share of its epochs that a fit has done, from 0 to 1; None where it has no end in epochs."""
    epoch, epochs = record.get("epoch"), record.get("epochs")
    if epoch is None or not epochs or epochs < 1:
        return None
    return float(min(1.0, (epoch + 1) / epochs))


def progress_line(name: str, record: dict[str, Any]) -> str:
    """How far a fit is, in words."""
    if record["status"] == "measuring":
        return f"{name} is being measured{best_so_far(record)}"
    of = f" of {record['epochs']}" if (record.get("epochs") or 0) > 0 else ""
    number = min(record.get("epoch", 0) + 1, record["epochs"] if of else math.inf)  # after the last it is one more
    epoch = f" in epoch {number}{of}" if "epoch" in record else " has begun"
    return f"{name}{epoch}{best_so_far(record)}"


def best_so_far(record: dict[str, Any]) -> str:
    """The best value of the monitored metric, in words; empty where there is none."""
    best = record.get("best")
    return f", best {best['name']} {best['value']:.4g}" if best else ""
