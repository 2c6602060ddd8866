"""Which way a monitored metric should go: by its name, and by what callbacks and schedulers were told."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from lightning_rules.finding import Finding, Severity

MONITOR_MODE = "monitor-mode"
Mode = Literal["min", "max"]
LARGER_IS_BETTER = {
    "acc", "accuracy", "f1", "f2", "fbeta", "fscore", "f1score", "auroc", "auc", "rocauc", "auprc", "prauc", "map",
    "miou", "iou", "jaccard", "dice", "precision", "recall", "sensitivity", "specificity", "r2", "r2score", "bleu",
    "rouge", "meteor", "psnr", "ssim", "kappa", "mcc", "ndcg", "mrr", "spearman", "pearson",
}  # fmt: skip
SMALLER_IS_BETTER = {
    "loss", "error", "err", "mse", "mae", "rmse", "msle", "rmsle", "mape", "smape", "nll", "bce", "crossentropy",
    "perplexity", "ppl", "wer", "cer", "eer", "lpips", "brier", "ece",
}  # fmt: skip
# Words that turn a metric round, or may.
TURNED = {
    "neg", "negative", "minus", "inv", "inverse", "inverted", "non", "not", "complement", "margin",
    "gap", "diff", "drop",
}  # fmt: skip


@dataclass(frozen=True)
class Watcher:
    """Something that waits for a metric to get better.

    Attributes:
        who: Its class.
        monitor: The metric's name.
        mode: Whether smaller or larger is better.
    """

    who: str
    monitor: str
    mode: Mode


def watchers(trainer: Any) -> list[Watcher]:
    """Callbacks with a ``monitor`` and a ``mode``, and schedulers that wait for a plateau."""
    return [*_callbacks(trainer), *_schedulers(trainer)]


def _callbacks(trainer: Any) -> Iterator[Watcher]:
    for callback in trainer.callbacks:
        monitor, mode = getattr(callback, "monitor", None), getattr(callback, "mode", None)
        if isinstance(monitor, str) and mode in ("min", "max"):
            yield Watcher(type(callback).__name__, monitor, mode)


def _schedulers(trainer: Any) -> Iterator[Watcher]:
    for config in trainer.lr_scheduler_configs:
        mode = getattr(config.scheduler, "mode", None)
        if isinstance(config.monitor, str) and config.reduce_on_plateau and mode in ("min", "max"):
            yield Watcher(type(config.scheduler).__name__, config.monitor, mode)


def direction(metric: str) -> tuple[Mode, str] | None:
    """Whether smaller or larger is better, and the word in the name that says so; None where it does not tell."""
    apart = re.sub(r"(?<=[a-z])(?=[A-Z])", " ", metric)
    words = [word for text in (apart, metric) for word in re.split(r"[^a-z0-9]+", text.lower()) if word]
    if TURNED & set(words) or re.search(r"(?<![a-z0-9])1 ?-", metric.lower()):
        return None
    stems = [word if word in LARGER_IS_BETTER else word.rstrip("0123456789") for word in words]
    up = [word for word in stems if word in LARGER_IS_BETTER]
    down = [word for word in stems if word in SMALLER_IS_BETTER]
    if down:  # a dice loss is a loss
        return "min", down[-1]
    return ("max", up[-1]) if up else None


def judge_modes(seen: Sequence[Watcher]) -> list[Finding]:
    """Findings on what waits for the wrong end of a metric; pure."""
    found = []
    for one in seen:
        known = direction(one.monitor)
        if known is None or known[0] == one.mode:
            continue
        better, worse = ("larger", "smallest") if known[0] == "max" else ("smaller", "largest")
        message = (
            f"{one.who}(monitor={one.monitor!r}, mode={one.mode!r}) takes the {worse} value for the best, though "
            f"{better} is better by the metric's name (`{known[1]}`)."
        )
        advice = f"Give {one.who} mode={known[0]!r}; if the metric really is turned round, say so in its name."
        evidence = {"monitor": one.monitor, "mode": one.mode}
        found.append(Finding(MONITOR_MODE, Severity.WARNING, message, advice, evidence))
    told = [one.monitor for one in seen if direction(one.monitor) is not None]
    if told and not found:
        names = ", ".join(f"`{name}`" for name in dict.fromkeys(told))
        found = [Finding(MONITOR_MODE, Severity.OK, f"What waits for {names} waits for the better end.")]
    return found
