"""ReduceLROnPlateau: its curve cannot be read beforehand, but what it waits for can."""

from __future__ import annotations

import re
from dataclasses import dataclass

from lightning_rules.finding import Finding, Severity

GROWING = re.compile(r"(^|_)(acc|accuracy|auc|auroc|f1|precision|recall|iou|miou|dice|map|bleu|psnr|ssim|r2|top1)($|_)")
SHRINKING = re.compile(r"(^|_)(loss|error|mse|mae|rmse|nll|perplexity|wer|cer)($|_)")


@dataclass(frozen=True)
class Plateau:
    """A ReduceLROnPlateau, whose curve depends on a metric."""

    monitor: str
    mode: str


def judge_plateau(rule: str, seen: Plateau) -> Finding:
    """Whether it waits for the metric to go where it should go; pure."""
    words = re.sub(r"[^a-z0-9]+", "_", seen.monitor.lower())
    grows, shrinks = bool(GROWING.search(words)), bool(SHRINKING.search(words))
    what = f"ReduceLROnPlateau of {seen.monitor!r} with mode={seen.mode!r}"
    evidence = {"monitor": seen.monitor, "mode": seen.mode}
    if grows != shrinks and seen.mode != ("max" if grows else "min"):
        right = "max" if grows else "min"
        message = f"{what} lowers the rate while the metric gets better."
        return Finding(rule, Severity.WARNING, message, f"Set mode={right!r}.", evidence)
    return Finding(rule, Severity.INFO, f"{what} cannot be read beforehand.", evidence=evidence)
