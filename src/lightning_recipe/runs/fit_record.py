"""The callback by which a fit of a procedure tells how it stands."""

import math
import time
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.trainer.states import TrainerFn

from lightning_recipe.runs.manifest import PULSE, Entry

LONGEST = 400  # letters


class FitRecord(Callback):
    """Writes whether a fit runs, has finished or has failed, and with which checkpoint, into a small JSON file.

    The procedures of several fits put it into the configuration of each of them, so that an ordinary `fit`, started by
    whom and wherever it may be, is seen by all machines that share the folder. Two processes never make one fit,
    and a finished one is never made again. Rank 0 writes; all ranks are refused, and stopped, alike.

    Args:
        path: The file; a lock of the same name stands beside it while the fit runs.
        awaits: What is measured once training has ended, before the fit counts as finished: "test": the test of the
            best checkpoint; "training": its metrics on the examples that it was trained on.
        stoppable: Whether the fit ends after the validation that finds a file of the same name with the ending
            ".stop"; it is "stopped" then. Costs one broadcast for each validation.

    Raises:
        ValueError: When a fit begins, if it is finished, or another process is at work on it.
    """

    def __init__(
        self, path: str, awaits: list[Literal["test", "training"]] | None = None, stoppable: bool = False
    ) -> None:
        self.entry = Entry(Path(path))
        self.awaits: Sequence[str] = awaits or ()
        self.stoppable = stoppable
        self._record: dict[str, Any] | None = None
        self._pulse = self._started = 0.0
        self._is_stopped = False

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Take the fit for this process."""
        if stage != "fit":
            return
        complaint = self._claim() if trainer.is_global_zero else None
        complaint = trainer.strategy.broadcast(complaint)
        if complaint:
            raise ValueError(complaint)

    def _claim(self) -> str | None:
        name = self.entry.name
        holder = self.entry.claim()
        if holder:
            return f"{name} is being trained by {holder}: wait for it, or end it first."
        complaint = None
        try:
            record = self.entry.read()
            if record["status"] in ("finished", "stopped"):
                told = record["checkpoint"]["path"]
                complaint = f"{name} is {record['status']} ({told}): remove {self.entry.path} to train it again."
        except ValueError as error:
            complaint = str(error)
        if complaint:
            self.entry.release()
            return complaint
        self._started, self._is_stopped = time.monotonic(), False
        started = datetime.now(UTC).isoformat(timespec="seconds")
        self._record = {"status": "running", "started": started, "history": []}
        self.entry.write(self._record)
        return None

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Show that this process lives."""
        if self._record is not None and time.monotonic() - self._pulse > PULSE:
            self._pulse = time.monotonic()
            self.entry.pulse()

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Tell how far the fit is; end it, if that is asked for."""
        if trainer.sanity_checking or trainer.state.fn != TrainerFn.FITTING:
            return
        if self._record is not None:
            monitor = getattr(trainer.checkpoint_callback, "monitor", None)
            if monitor in trainer.callback_metrics:
                value = float(trainer.callback_metrics[monitor])
                self._record["history"].append([trainer.global_step, value if math.isfinite(value) else None])
            self._write(trainer)
        if self.stoppable:
            asked = trainer.is_global_zero and self.entry.path.with_suffix(".stop").exists()
            if trainer.strategy.broadcast(asked):
                self._is_stopped = trainer.should_stop = True

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Tell how far a fit without validation is."""
        if self._record is not None and not trainer.enable_validation:
            self._write(trainer)

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Tell that training has ended, and which checkpoint is the best."""
        if self._record is None:
            return
        keeper = trainer.checkpoint_callback
        path = getattr(keeper, "best_model_path", "") or getattr(keeper, "last_model_path", "")
        if not path:
            self._write(trainer, status="failed", error="The fit kept no checkpoint.")
            self._end()
            return
        status = "stopped" if self._is_stopped else "measuring" if self.awaits else "finished"
        self._write(trainer, status=status, checkpoint=self.entry.described_checkpoint(path))
        if status != "measuring":
            self._end()

    def tell(self, what: str, metrics: Mapping[str, float]) -> None:
        """Take in what was measured after training; the fit is finished once all is there that it waits for.

        Args:
            what: "test" or "training".
            metrics: Names and values.
        """
        if self._record is None:
            return
        self._record[what] = {name: float(value) for name, value in metrics.items()}
        is_finished = all(awaited in self._record for awaited in self.awaits)
        self._record |= {"status": "finished"} if is_finished else {}
        self.entry.write(self._record)
        if is_finished:
            self._end()

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Tell that it has failed, and why."""
        if self._record is not None:
            self._write(trainer, status="failed", error=reason_of(exception))
            self._end()

    def _end(self) -> None:
        self._record = None
        self.entry.release()

    def _write(self, trainer: Trainer, **changes: Any) -> None:
        assert self._record is not None
        keeper = trainer.checkpoint_callback
        monitor, score = getattr(keeper, "monitor", None), getattr(keeper, "best_model_score", None)
        best = None
        if monitor and score is not None and math.isfinite(score):
            best = {"name": monitor, "value": float(score), "mode": getattr(keeper, "mode", "min")}
        metrics = {name: float(value) for name, value in trainer.callback_metrics.items()}
        self._record |= {
            "epoch": trainer.current_epoch,
            "epochs": trainer.max_epochs,
            "step": trainer.global_step,
            "seconds": round(time.monotonic() - self._started, 1),
            "best": best,
            "metrics": {name: value for name, value in metrics.items() if math.isfinite(value)},
        }
        self._record |= changes
        self.entry.write(self._record)


def reason_of(exception: BaseException) -> str:
    """What an exception says, on one line of reasonable length."""
    text = f"{type(exception).__name__}: {' '.join(str(exception).split())}".removesuffix(": ")
    return text if len(text) <= LONGEST else f"{text[:LONGEST]}..."
