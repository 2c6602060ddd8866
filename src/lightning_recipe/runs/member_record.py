"""The callback by which a run of a procedure tells how it stands."""

import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer

from lightning_recipe.runs.manifest import PULSE, Entry

LONGEST = 400  # letters


class MemberRecord(Callback):
    """Writes whether a fit runs, has finished or has failed, and with which checkpoint, into a small JSON file.

    The `ensemble` subcommand puts it into the configuration of each member, so that an ordinary `fit`, started by
    whom and wherever it may be, is seen by all machines that share the folder. Two processes never train one member,
    and a finished member is never trained again. Rank 0 writes; all ranks are refused alike.

    Args:
        path: The file; a lock of the same name stands beside it while the fit runs.

    Raises:
        ValueError: When a fit begins, if the member is finished, or another process is at work on it.
    """

    def __init__(self, path: str) -> None:
        self.entry = Entry(Path(path))
        self._record: dict[str, Any] | None = None
        self._pulse = 0.0

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Take the member for this process."""
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
            if record["status"] == "finished":
                told = record["checkpoint"]["path"]
                complaint = f"{name} is finished ({told}): remove {self.entry.path} to train it again."
        except ValueError as error:
            complaint = str(error)
        if complaint:
            self.entry.release()
            return complaint
        self._record = {"status": "running", "started": datetime.now(UTC).isoformat(timespec="seconds")}
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
        """Tell how far the fit is."""
        if self._record is not None and not trainer.sanity_checking:
            self._write(trainer)

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Tell that it has finished, and which checkpoint is the best."""
        if self._record is None:
            return
        keeper = trainer.checkpoint_callback
        path = getattr(keeper, "best_model_path", "") or getattr(keeper, "last_model_path", "")
        if path:
            self._write(trainer, status="finished", checkpoint=self.entry.described_checkpoint(path))
        else:
            self._write(trainer, status="failed", error="The fit kept no checkpoint.")
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
        best = {"name": monitor, "value": float(score)} if monitor and score is not None else None
        progress = {"epoch": trainer.current_epoch, "step": trainer.global_step, "best": best}
        self._record |= {**progress, **changes}
        self.entry.write(self._record)


def reason_of(exception: BaseException) -> str:
    """What an exception says, on one line of reasonable length."""
    text = f"{type(exception).__name__}: {' '.join(str(exception).split())}".removesuffix(": ")
    return text if len(text) <= LONGEST else f"{text[:LONGEST]}..."
