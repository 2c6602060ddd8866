"""Whether a look at a run is the last one."""

from __future__ import annotations

from typing import Any


def ending(trainer: Any) -> bool:
    """Whether the fit is over and its last hook is running: the first monitor looks there for all of them.

    Args:
        trainer: The run's Trainer.
    """
    return bool(trainer.lightning_module._current_fx_name == "on_train_end")
