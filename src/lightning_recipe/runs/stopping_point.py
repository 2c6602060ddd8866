"""Where a run stood at its best: the checkpoint, and how far training had come."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lightning_rules.combine.stored_module import read_checkpoint

CONFIG = "config.yaml"


@dataclass(frozen=True)
class StoppingPoint:
    """The best checkpoint of a run.

    Args:
        checkpoint: Its path.
        step: Optimiser steps taken.
        epoch: The epoch it was saved in, from 0.
        batches: Training batches of an epoch, on one rank; None where no epoch had ended.
        monitor: The metric that it was the best by; None where there was none.
        score: Its value.
        rate: The highest learning rate of its parameter groups, at which the next step would be taken; None where
            the checkpoint holds no optimisers.
        waits: Whether the learning rate was lowered when a metric stopped to improve.
    """

    checkpoint: Path
    step: int
    epoch: int
    batches: int | None
    monitor: str | None
    score: float | None
    rate: float | None
    waits: bool


def config_of(run: Path) -> Path:
    """The configuration that a run has left in its log folder.

    Raises:
        FileNotFoundError: There is no such folder, or no configuration in it.
    """
    if not run.is_dir():
        raise FileNotFoundError(
            f"There is no folder {run}: give the log folder of a run, as in --run logs/digits/version_0."
        )
    if not (run / CONFIG).is_file():
        near = sorted(path.parent for path in run.rglob(CONFIG))[:3]
        hint = f", but {', '.join(map(str, near))} has one: name the folder of one run" if near else ""
        raise FileNotFoundError(f"{run} holds no {CONFIG}, which `fit` writes into the log folder of each run{hint}.")
    return run / CONFIG


def stopping_point(run: Path, named: str | None = None) -> StoppingPoint:
    """The best checkpoint of a finished run.

    Args:
        run: Its log folder.
        named: A checkpoint to take instead; None asks the newest one in the folder which was the best.

    Raises:
        FileNotFoundError: There is no checkpoint.
        ValueError: It cannot be read, or is none of a fit that has taken a step.
    """
    path = Path(named) if named else best_of(run)
    checkpoint = read_checkpoint(path)
    step = int(checkpoint.get("global_step") or 0)
    if step < 1 or "loops" not in checkpoint:
        raise ValueError(f"{path} does not tell how many steps were taken: name a checkpoint that a fit has saved.")
    keeper = keeper_in(checkpoint)
    score = keeper.get("current_score")
    waits = any("num_bad_epochs" in one for one in checkpoint.get("lr_schedulers") or [] if isinstance(one, Mapping))
    return StoppingPoint(
        path,
        step,
        int(checkpoint["epoch"]),
        batches_of_an_epoch(checkpoint),
        keeper.get("monitor"),
        None if score is None else float(score),
        rate_in(checkpoint),
        waits,
    )


def best_of(run: Path) -> Path:
    """The checkpoint that the newest one below a folder names as the best, wherever the folder is now.

    Raises:
        FileNotFoundError: There is none, or it is gone.
        ValueError: The newest cannot be read.
    """
    own = [path for path in run.rglob("*.ckpt") if not _is_of_another(path, run)]
    there = sorted(own, key=lambda path: path.stat().st_mtime_ns)
    if not there:
        raise FileNotFoundError(f"No checkpoint lies below {run}: name that of the run with --ckpt_path FILE.")
    told = str(keeper_in(read_checkpoint(there[-1])).get("best_model_path") or "")
    if not told:
        return there[-1]
    beside = [path for path in there if path.name == Path(told).name]
    if Path(told).is_file() or beside:
        return beside[-1] if beside else Path(told)
    raise FileNotFoundError(f"The best checkpoint of {run}, {told}, is gone: name another with --ckpt_path FILE.")


def _is_of_another(path: Path, run: Path) -> bool:
    """Whether a checkpoint lies in the log folder of a run below this one."""
    between = path.relative_to(run).parents[:-1]
    return any((run / folder / CONFIG).is_file() for folder in between)


def keeper_in(checkpoint: Mapping[str, Any]) -> Mapping[str, Any]:
    """What the callback that keeps checkpoints has saved of itself; the one with a metric, where there are several."""
    states = [one for one in (checkpoint.get("callbacks") or {}).values() if isinstance(one, Mapping)]
    keepers = [one for one in states if "best_model_path" in one]
    return next((one for one in keepers if one.get("monitor")), keepers[0] if keepers else {})


def rate_in(checkpoint: Mapping[str, Any]) -> float | None:
    """The highest learning rate of the optimisers in a checkpoint; None where there is none."""
    groups = [group for one in checkpoint.get("optimizer_states") or [] for group in one.get("param_groups") or []]
    return max((float(group["lr"]) for group in groups if "lr" in group), default=None)


def batches_of_an_epoch(checkpoint: Mapping[str, Any]) -> int | None:
    """How many training batches an epoch had, on one rank; None where the first had not ended."""
    progress = checkpoint["loops"]["fit_loop"]["epoch_loop.batch_progress"]
    current, total = int(progress["current"]["ready"]), int(progress["total"]["ready"])
    if progress["is_last_batch"]:
        return current
    epoch = int(checkpoint["epoch"])
    return (total - current) // epoch if epoch else None
