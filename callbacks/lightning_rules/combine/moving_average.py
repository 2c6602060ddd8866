"""Lightning's moving average of the weights, without what it does wrong before averaging begins."""

from __future__ import annotations

from typing import Any

from lightning.pytorch.callbacks import EMAWeightAveraging


class MovingAverage(EMAWeightAveraging):
    """Lightning's ``EMAWeightAveraging``, whose average counts only once there is one.

    With ``update_starting_at_step`` or ``update_starting_at_epoch``, Lightning 2.6 validates the *initial* weights
    until the average begins: its copy of the module is made before the first step, and is swapped in for each
    validation. Monitored metrics stand still, checkpoints saved meanwhile hold the initial weights as ``state_dict``,
    and a run that ends before the average begins ends with them. Here the weights that are being trained are
    validated, saved and kept until the first update; from then on all is Lightning's. A moving average of the
    statistics of batch norm belongs to the weights (``use_buffers``, on by default).

    Args:
        **options: Those of ``EMAWeightAveraging``: ``decay`` (0.999), ``update_every_n_steps`` (1),
            ``update_starting_at_step``, ``update_starting_at_epoch``, ``use_buffers`` (True), ``device``.

    Example:
        >>> from lightning.pytorch import Trainer
        >>> trainer = Trainer(callbacks=[MovingAverage(decay=0.99, update_starting_at_epoch=5)], logger=False)

    Source: Polyak and Juditsky (1992); Goodfellow et al. (2016), section 8.7.3
    """

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self._swapped = False

    @property
    def has_begun(self) -> bool:
        """Whether the average has taken in any weights; told without asking the device."""
        return self._latest_update_step > 0 or self._latest_update_epoch >= 0

    def on_validation_epoch_start(self, trainer: Any, pl_module: Any) -> None:
        """Validate the average, if there is one."""
        if self.has_begun:
            self._swapped = True
            super().on_validation_epoch_start(trainer, pl_module)

    def on_validation_epoch_end(self, trainer: Any, pl_module: Any) -> None:
        """Go on with the weights that are being trained."""
        if self._swapped:
            self._swapped = False
            super().on_validation_epoch_end(trainer, pl_module)

    def on_train_end(self, trainer: Any, pl_module: Any) -> None:
        """End with the average, if there is one."""
        if self.has_begun:
            super().on_train_end(trainer, pl_module)

    def on_save_checkpoint(self, trainer: Any, pl_module: Any, checkpoint: dict[str, Any]) -> None:
        """Save the average as the weights, if there is one; else the weights."""
        trained = checkpoint["state_dict"]
        super().on_save_checkpoint(trainer, pl_module, checkpoint)
        if not self.has_begun:
            checkpoint["state_dict"] = trained

    def state_dict(self) -> dict[str, Any]:
        """When the average was updated last; Lightning leaves the epoch out."""
        return {**super().state_dict(), "latest_update_epoch": self._latest_update_epoch}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """The inverse of :meth:`state_dict`; reads Lightning's own state too."""
        super().load_state_dict(state_dict)
        self._latest_update_epoch = state_dict.get("latest_update_epoch", -1)
