"""Hooks that a callback does not use are not called: Lightning takes more than a microsecond for each empty one.

Lightning looks each hook up on each callback, enters a profiler's context and calls it, six hooks a training batch.
It skips what is not callable, so an attribute that is None takes an empty hook out of its way.
"""

from __future__ import annotations

from typing import Any

from lightning_rules.namespace import callback_bases

EVERY_BATCH = (
    "on_train_batch_start",
    "on_train_batch_end",
    "on_before_zero_grad",
    "on_before_backward",
    "on_after_backward",
    "on_before_optimizer_step",
    "on_validation_batch_start",
    "on_validation_batch_end",
    "on_test_batch_start",
    "on_test_batch_end",
    "on_predict_batch_start",
    "on_predict_batch_end",
)


def rest(callback: Any, *names: str) -> None:
    """Do not call these hooks until :func:`wake`.

    Args:
        callback: Only this instance rests.
        names: Of hooks, defined or not.
    """
    for name in names:
        callback.__dict__[name] = None


def rest_empty(callback: Any) -> None:
    """Do not call the hooks of every batch that are Lightning's empty ones."""
    rest(callback, *_empty_hooks(callback))


def wake(callback: Any, *names: str) -> None:
    """Call these hooks again."""
    for name in names:
        if name in callback.__dict__ and callback.__dict__[name] is None:
            del callback.__dict__[name]


def wake_all(callback: Any) -> None:
    """Call all hooks of every batch again."""
    wake(callback, *EVERY_BATCH)


def _empty_hooks(callback: Any) -> list[str]:
    bases = callback_bases()
    return [name for name in EVERY_BATCH if _defined_by(type(callback), name) in bases]


def _defined_by(kind: type, name: str) -> type | None:
    return next((base for base in kind.__mro__ if name in vars(base)), None)
