"""The stages of a cascade: made from what a user names, read, and timed."""

from __future__ import annotations

import contextvars
import os
import time
from collections.abc import Iterable, Mapping, Sequence
from statistics import median
from typing import Any

import torch
from torch import Tensor, nn

from lightning_rules.combine.jury import readings_of
from lightning_rules.combine.reading import Reading, call, read
from lightning_rules.combine.stored_module import build, description, load_module, named_class, read_checkpoint

REPEATS = 5  # timed calls of a stage, after one that is not


def made(stage: str | os.PathLike[str] | Mapping[str, Any] | nn.Module) -> tuple[nn.Module, dict[str, Any]]:
    """A stage and its :func:`description`, from a module, the path of a checkpoint, or a description.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: It cannot be made.
    """
    # LightningCLI gives what it has parsed to every module that saves its hyperparameters, and would to members too
    with torch.random.fork_rng(devices=[]):
        return contextvars.Context().run(_made, stage)


def _made(stage: Any) -> tuple[nn.Module, dict[str, Any]]:
    if isinstance(stage, nn.Module):
        checkpoint: dict[str, Any] = {"hyper_parameters": dict(getattr(stage, "hparams", {}))}
        on_save_checkpoint: Any = getattr(stage, "on_save_checkpoint", None)
        if callable(on_save_checkpoint):
            on_save_checkpoint(checkpoint)
        return stage, description(type(stage), checkpoint)
    if isinstance(stage, Mapping):
        found = named_class(stage.get("hyper_parameters", {}), "a stage of the cascade")
        return build(found, stage, "a stage of the cascade"), dict(stage)
    module = load_module(stage)
    return module, description(type(module), read_checkpoint(stage))


def stage_readings(stages: Iterable[nn.Module], batch: Any) -> list[Reading]:
    """How to read each stage.

    Raises:
        ValueError: It cannot be found out, the stages differ in their task, or they answer with values.
    """
    readings = readings_of(list(stages), batch)
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
