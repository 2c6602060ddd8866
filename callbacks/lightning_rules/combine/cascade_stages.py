"""The stages of a cascade: made from what a user names, read, and timed."""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from statistics import median
from typing import Any

import torch
from torch import Tensor, nn

from lightning_rules.combine.reading import Reading, call, read, reading_of

REPEATS = 5  # timed calls of a stage, after one that is not


def stage_readings(stages: Iterable[nn.Module], batch: Any) -> list[Reading]:
    """How to read each stage.

    Raises:
        ValueError: It cannot be found out, the stages differ in their task, or they answer with values.
    """
    readings = [reading_of(stage, batch) for stage in stages]
    tasks = [reading.task for reading in readings]
    if len(set(tasks)) > 1:
        raise ValueError(f"The stages of a cascade answer the same question, but these are for {', '.join(tasks)}.")
    if tasks[0] == "regression":
        raise ValueError("A cascade goes by the confidence of classifiers, but its stages are regressions.")
    for number, (stage, reading) in enumerate(zip(stages, readings, strict=True)):
        with torch.no_grad():
            shape = read(call(stage, batch), reading).values.shape
        if len(shape) != 2:
            raise ValueError(f"Expected one answer [N, C] for each example, but stage {number} returns {tuple(shape)}.")
    return readings


def refuse_other_classes(values: Sequence[Tensor]) -> None:
    """Refuse stages that differ in the number of their classes.

    Raises:
        ValueError: They do.
    """
    classes = [value.shape[1] for value in values]
    if len(set(classes)) > 1:
        raise ValueError(
            f"The stages of a cascade share their classes, but these have {', '.join(map(str, classes))}: train them "
            "on the same data."
        )


@torch.no_grad()
def seconds_an_example(stage: nn.Module, reading: Reading, batch: Any) -> float:
    """How long a stage takes for one example of a batch: the median of five calls."""
    rows = len(read(call(stage, batch), reading).values)
    times = []
    for _ in range(REPEATS):
        _wait()
        start = time.perf_counter()
        call(stage, batch)
        _wait()
        times.append(time.perf_counter() - start)
    return median(times) / rows


def _wait() -> None:
    if torch.accelerator.is_available():
        torch.accelerator.synchronize()
