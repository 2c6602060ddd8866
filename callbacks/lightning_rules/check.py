"""Pre-flight: everything that the recommended rules see before the first step, without taking one."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from rich.console import Console

from lightning_rules import record
from lightning_rules.finding import Finding, Severity
from lightning_rules.namespace import namespace_of
from lightning_rules.recommended import recommended
from lightning_rules.untouched import untouched


@dataclass(frozen=True)
class Report:
    """What a pre-flight check found.

    Attributes:
        findings: All findings, in the order of the rules.
    """

    findings: list[Finding]

    @property
    def ok(self) -> bool:
        """Whether no finding is an error."""
        return all(finding.severity < Severity.ERROR for finding in self.findings)

    def __str__(self) -> str:
        console = Console(width=120)
        with console.capture() as captured:
            console.print(record.findings_table(self.findings))
        return captured.get()


def check(
    module: Any,
    train_dataloaders: Any = None,
    val_dataloaders: Any = None,
    datamodule: Any = None,
    ignore: Mapping[str, str] | None = None,
) -> Report:
    """Look at a run before it starts: no step is taken, nothing is written, and the module is as it was.

    Goes through the real beginning of ``fit`` (hooks, ``configure_optimizers``, data) with the recommended rules, on
    one device, and stops before the first batch. Enforcing rules act, so that the rest sees the run as it would
    start, and are undone.

    Args:
        module: A LightningModule of ``lightning`` or of ``pytorch_lightning``.
        train_dataloaders: As for ``Trainer.fit``.
        val_dataloaders: As for ``Trainer.fit``.
        datamodule: As for ``Trainer.fit``.
        ignore: Rules to leave out, each with a reason; see :func:`~lightning_rules.recommended`.

    Returns:
        The findings; ``print(report)`` shows them as a table.

    Raises:
        TypeError: ``module`` is no LightningModule.
    """
    if not callable(getattr(module, "training_step", None)):
        raise TypeError(f"Expected a LightningModule with a training_step, but got {type(module).__name__}.")
    rules = recommended(ignore)
    with untouched(module), _in_place(module), record.silence(), tempfile.TemporaryDirectory() as folder:
        trainer = _trainer_for(module, [*rules, _stop_before_training(module)], folder)
        trainer.fit(module, train_dataloaders, val_dataloaders, datamodule)
    return Report([finding for rule in rules for finding in rule.findings])


@contextmanager
def _in_place(module: Any) -> Iterator[None]:
    """Bring the module back to its device and its Trainer."""
    attached, devices = module._trainer, {parameter.device for parameter in module.parameters()}
    try:
        yield
    finally:
        module._trainer = attached
        if len(devices) == 1:
            module.to(devices.pop())


def _trainer_for(module: Any, callbacks: list[Any], folder: str) -> Any:
    return namespace_of(module).Trainer(
        accelerator="auto",
        devices=1,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        max_epochs=1,
        default_root_dir=folder,
        callbacks=callbacks,
    )


def _stop_before_training(module: Any) -> Any:
    """A callback of the module's namespace that ends the fit once all rules have looked at its start."""

    class StopBeforeTraining(namespace_of(module).Callback):  # type: ignore[misc]
        def on_train_start(self, trainer: Any, pl_module: Any) -> None:
            trainer.fit_loop.min_epochs = 0
            trainer.fit_loop.epoch_loop.min_steps = None
            trainer.should_stop = True

    return StopBeforeTraining()
