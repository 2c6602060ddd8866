"""One run of a program in this process."""

from __future__ import annotations

from typing import Any

import lightning as L

from planted_bugs.program import Program

QUIET: dict[str, Any] = {
    "accelerator": "cpu",
    "devices": 1,
    "logger": False,
    "enable_checkpointing": False,
    "enable_progress_bar": False,
    "enable_model_summary": False,
}


def trainer_for(program: Program, callbacks: list[Any] | None = None, **options: Any) -> L.Trainer:
    """The program's Trainer, which prints and writes nothing; callbacks come before the program's own."""
    given = {**QUIET, **program.options, **options}
    given["callbacks"] = [*(callbacks or []), *program.options.get("callbacks", [])]
    return L.Trainer(**given)


def fit(program: Program, callbacks: list[Any] | None = None, **options: Any) -> L.Trainer:
    """Train, and return the Trainer."""
    trainer = trainer_for(program, callbacks, **options)
    if isinstance(program.train, L.LightningDataModule):
        trainer.fit(program.module, datamodule=program.train)
    else:
        trainer.fit(program.module, program.train, program.validation)
    return trainer


def reported(trainer: L.Trainer) -> float | None:
    """The program's own validation accuracy, as it stood at the end."""
    value = trainer.callback_metrics.get("val_acc")
    return None if value is None else float(value)
