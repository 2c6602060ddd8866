"""The closing summary of a run: what the test set says, beside what a constant answer would have scored."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.utilities.data import extract_batch_size

ACCURACY = "test/accuracy"


class RunRecord(Callback):
    """Measures what the summary needs and the trainer does not keep: training time and examples tested.

    Attributes:
        train_seconds: Wall-clock time from the first training epoch to the end of training, validation
            included, sanity check and setup excluded.
        tested: Number of examples in the batches of the last test run, on this process.
    """

    def __init__(self) -> None:
        self.train_seconds = 0.0
        self.tested = 0
        self._started = 0.0

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Start the clock."""
        self._started = time.perf_counter()

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Stop the clock."""
        self.train_seconds = time.perf_counter() - self._started

    def on_test_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Begin to count."""
        self.tested = 0

    def on_test_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Count the examples of the batch, as Lightning does to weigh metrics."""
        self.tested += extract_batch_size(batch)


@dataclass(frozen=True)
class Proportion:
    """So many right out of so many: prints itself with no more digits than the number of examples carries.

    Args:
        right: Number of right answers, from 0 to `total`.
        total: Number of examples, at least 1.
    """

    right: int
    total: int

    @classmethod
    def from_share(cls, share: float, total: int) -> "Proportion | None":
        """Recover the count behind a share, or None where no whole number of `total` examples gives it.

        A macro average or a mean over batches of unequal size is no share of the examples, and an
        interval around it would be made up.

        Args:
            share: Share of right answers, from 0 to 1, in single precision or better.
            total: Number of examples the share was taken over.
        """
        right = round(share * total) if 0 <= share <= 1 else -1
        if total < 1 or right < 0 or abs(right / total - share) > 1e-6:
            return None
        return cls(right, total)

    def interval(self, confidence: float = 0.95) -> tuple[float, float]:
        """The two-sided Wilson score interval (Wilson, 1927), as shares from 0 to 1."""
        from scipy.stats import binomtest

        low, high = binomtest(self.right, self.total).proportion_ci(confidence, method="wilson")
        return float(low), float(high)

    def percent(self, share: float | None = None) -> str:
        """A share (default: this one) in percent; the last digit is never finer than one example's weight."""
        decimals = max(0, len(str(self.total)) - 3)
        return f"{100 * (self.right / self.total if share is None else share):.{decimals}f}%"

    def __str__(self) -> str:
        low, high = (self.percent(bound) for bound in self.interval())
        right = f"{self.right} of {self.total} examples right"
        return f"{self.percent()}, 95% interval {low} to {high} (Wilson): {right}"


def test_rows(results: Sequence[Mapping[str, float]], tested: int, datamodule: object | None) -> list[tuple[str, str]]:
    """What a test says, beside what a constant answer would have scored, for `table`.

    Args:
        results: The metrics of each loader, as `Trainer.test` returns them.
        tested: Number of examples tested.
        datamodule: The run's data; None where the model has its own loaders.
    """
    metrics = {name: value for result in results for name, value in result.items()}
    rows = [("Test accuracy", accuracy_line(metrics, tested))]
    return rows if datamodule is None else [*rows, ("Baseline", majority_line(datamodule))]


def accuracy_line(metrics: Mapping[str, float], tested: int) -> str:
    """What the test metrics say about accuracy, or why they say nothing.

    Args:
        metrics: The metrics of one test run, as `Trainer.test` returns them.
        tested: Number of examples tested.
    """
    if ACCURACY not in metrics:
        logged = ", ".join(f"{name} {value:.4g}" for name, value in metrics.items()) or "nothing"
        return f"unknown: the model logs no {ACCURACY!r} in its test_step (it logs {logged})"
    share = float(metrics[ACCURACY])
    proportion = Proportion.from_share(share, tested)
    if proportion is None:
        return f"{share:.4g} (no interval: this is not a share of the {tested} examples tested)"
    return str(proportion)


def majority_line(data: object) -> str:
    """What always answering with the commonest training class scores on the test split, or why it is unknown.

    Args:
        data: A datamodule. One that knows its labels has `labels(split)` and perhaps `class_names`.
    """
    labels = getattr(data, "labels", None)
    if not callable(labels):
        return f"unknown: {type(data).__name__} has no method labels(split)"
    try:
        train, test = (np.asarray(labels(split)).ravel() for split in ("train", "test"))
    except Exception as error:  # anybody's code, and no reason to lose the rest of the summary
        return f"unknown: {type(data).__name__}.labels(split) raised {type(error).__name__}: {error}"
    if not len(train) or not len(test):
        return "unknown: the training or the test split has no labels"
    values, counts = np.unique(train, return_counts=True)
    answer = values[counts.argmax()]
    names: Sequence[str] = getattr(data, "class_names", None) or ()
    name = names[int(answer)] if len(names) > int(answer) else str(answer)
    score = Proportion(int((test == answer).sum()), len(test))
    return (
        f"{score.percent()}: what always answering {name!r}, "
        f"the commonest class in training, gets right ({score.right} of {score.total})"
    )


def shown_path(path: str | Path) -> str:
    """A path for a person's eye: relative where it lies below the current folder, absolute elsewhere."""
    absolute, here = Path(path).absolute(), Path.cwd()
    return str(absolute.relative_to(here)) if absolute.is_relative_to(here) else str(absolute)


def duration(seconds: float) -> str:
    """A time span for a person's eye: `41.3 s`, `12 min 5 s`, `3 h 20 min`."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s"


def count(number: int, noun: str) -> str:
    """A number of things: `1 epoch`, `2 processes`."""
    plural = "es" if noun.endswith("s") else "s"
    return f"{number:,} {noun}{'' if number == 1 else plural}"


def table(rows: Sequence[tuple[str, str]]) -> str:
    """Lay out (name, text) rows in two columns."""
    width = max(len(name) for name, _ in rows)
    return "\n".join(f"{name:<{width}}  {text}" for name, text in rows)


def path_rows(log_dir: str | None) -> list[tuple[str, str]]:
    """Where the run left its logs and the rules their findings, for `table`."""
    if log_dir is None:
        return []
    findings = Path(log_dir) / "rules" / "findings.jsonl"
    page = findings.with_name("report.html")
    return [
        ("Logs", shown_path(log_dir)),
        ("Findings", shown_path(findings) if findings.is_file() else "none recorded"),
        *([("Report", shown_path(page))] if page.is_file() else []),
    ]
