"""By which metric the fits of a procedure are judged: that of their checkpoints, or one that is named."""

import copy
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from lightning_recipe.runs.fit import Settings, as_list
from lightning_rules.report.score import is_share, mode_of

KEEPER = "lightning.pytorch.callbacks.ModelCheckpoint"


@dataclass(frozen=True)
class Judge:
    """A metric, and what is an error by it.

    Args:
        metric: As validation logs it: "val/accuracy".
        mode: Whether its highest or its lowest value is the best.
    """

    metric: str
    mode: Literal["min", "max"]

    @property
    def is_share(self) -> bool:
        """Whether errors by it are shares of examples."""
        return self.mode == "max" and is_share(self.metric)

    @property
    def label(self) -> str:
        """What an error by it is called."""
        return f"1 - {self.metric}" if self.mode == "max" else self.metric

    def is_better(self, value: float, than: float | None) -> bool:
        """Whether a value beats another, or is the first."""
        return than is None or (value < than if self.mode == "min" else value > than)

    def value_of(self, record: Mapping[str, Any]) -> float | None:
        """The best value that the record of a fit tells of; None where there is no finite one."""
        best = record.get("best") or {}
        value = best.get("value") if best.get("name") == self.metric else None
        return float(value) if isinstance(value, int | float) and math.isfinite(value) else None

    def error(self, value: float) -> float:
        """What a value leaves to the best there is: 1 less a metric to be maximised; the value itself otherwise."""
        return 1 - value if self.mode == "max" else value


def judged_by(settings: Settings, metric: str | None, mode: Literal["min", "max"] | None) -> tuple[Settings, Judge]:
    """The settings of fits whose checkpoints are the best by a metric, and that metric.

    Args:
        settings: All settings of `fit` as the user gave them.
        metric: Its name; None takes that by which the checkpoints of the settings are kept.
        mode: "min" or "max"; None goes by the settings, or else by the name.

    Raises:
        ValueError: If no checkpoint goes by a metric and none is named, or its name does not tell which values are
            good.
    """
    changed = copy.deepcopy(settings)
    callbacks = as_list(changed["trainer"].get("callbacks"))
    keeper = next((one for one in callbacks if is_keeper(one)), None)  # the trainer, too, goes by the first
    options = dict((keeper or {}).get("init_args") or {})
    name = metric or options.get("monitor")
    if not name:
        raise ValueError(
            "No checkpoint of these settings is kept by a metric: name the one that fits are judged by, as in "
            "--metric val/accuracy."
        )
    found = mode or (options.get("mode") if name == options.get("monitor") else None) or mode_of(name)
    if found is None:
        raise ValueError(f"Whether high or low is good is not known of {name}: add --mode max or --mode min.")
    if keeper is None:
        keeper = {"class_path": KEEPER}
        callbacks.append(keeper)
    keeper["init_args"] = {**options, "monitor": name, "mode": found}
    changed["trainer"]["callbacks"] = callbacks
    return changed, Judge(name, found)


def is_keeper(callback: Any) -> bool:
    """Whether the settings of a callback are those of one that keeps checkpoints by their number or a metric."""
    if not isinstance(callback, Mapping):
        return False
    name = str(callback.get("class_path", "")).rpartition(".")[2]
    return "Checkpoint" in name and name != "OnExceptionCheckpoint"
