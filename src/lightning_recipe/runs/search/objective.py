"""By which number the trials of a search are compared: that by which each keeps its best checkpoint."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

CHECKPOINT = "lightning.pytorch.callbacks.ModelCheckpoint"


@dataclass(frozen=True)
class Objective:
    """What is searched for.

    Args:
        metric: As it is logged, "val/loss".
        mode: Whether the least or the greatest is the best.
    """

    metric: str
    mode: Literal["min", "max"]

    @property
    def direction(self) -> str:
        """As Optuna and W&B call it."""
        return "minimize" if self.mode == "min" else "maximize"

    def is_better(self, value: float, than: float | None) -> bool:
        """Whether a value beats another, or is the first."""
        return than is None or (value < than if self.mode == "min" else value > than)

    def value_of(self, record: Mapping[str, Any]) -> float | None:
        """The best value that the record of a fit tells of; None where there is no finite one."""
        best = record.get("best") or {}
        value = best.get("value") if best.get("name") == self.metric else None
        return float(value) if isinstance(value, int | float) and math.isfinite(value) else None


def objective_of(settings: Mapping[str, Any], metric: str | None, direction: str | None) -> Objective:
    """The objective that was asked for; by default the number by which the settings keep the best checkpoint.

    Args:
        settings: All settings of `fit`.
        metric: Another number, as it is logged.
        direction: "min" or "max", for a number whose direction the settings do not tell.

    Raises:
        ValueError: If there is no number, or its direction is not known.
    """
    keeper = _keeper(settings)
    options = (keeper or {}).get("init_args") or {}
    monitor, mode = options.get("monitor"), options.get("mode", "min")
    if metric is None and not monitor:
        raise ValueError(
            "A search compares trials by a number, and these settings name none: add a ModelCheckpoint with a monitor "
            "to trainer.callbacks, or give --metric val/loss --direction min."
        )
    if direction is None and metric not in (None, monitor):
        raise ValueError(f"--metric {metric} is the best at its least or at its greatest: add --direction min or max.")
    return Objective(metric or monitor, direction or mode)  # type: ignore[arg-type]


def keeping_by(settings: Mapping[str, Any], objective: Objective) -> dict[str, Any]:
    """Settings whose best checkpoint is the best by the objective.

    Args:
        settings: All settings of `fit`.
        objective: What is searched for.
    """
    trainer = settings["trainer"]
    callbacks = _callbacks(settings)
    keeper = _keeper(settings)
    wanted = {"monitor": objective.metric, "mode": objective.mode}
    if keeper is None:
        callbacks.append({"class_path": CHECKPOINT, "init_args": wanted})
    else:
        given = keeper.get("init_args") or {}
        callbacks = [{**one, "init_args": {**given, **wanted}} if one is keeper else one for one in callbacks]
    return {**settings, "trainer": {**trainer, "callbacks": callbacks}}


def _keeper(settings: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """The callback that keeps the best checkpoint: the first that can, as Lightning has it."""
    return next((one for one in _callbacks(settings) if _is_keeper(one)), None)


def _is_keeper(callback: Any) -> bool:
    if not isinstance(callback, Mapping):
        return False
    name = str(callback.get("class_path", "")).rpartition(".")[2]
    return "Checkpoint" in name and name != "OnExceptionCheckpoint"


def _callbacks(settings: Mapping[str, Any]) -> list[Any]:
    given = settings["trainer"].get("callbacks")
    return [given] if isinstance(given, Mapping) else list(given or [])
