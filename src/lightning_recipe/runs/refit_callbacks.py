"""The callbacks of `refit`: one ends a fit at a step, the other lets it begin where another one stood at its best."""

from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.utilities.model_helpers import is_overridden
from torch.utils.data import SequentialSampler

from lightning_rules.combine.stored_module import read_checkpoint


class StopAtStep(Callback):
    """Ends a fit after so many optimiser steps, in mid-epoch too; schedules keep the length that the trainer was given.

    `max_steps` of the Trainer would make the schedules as much shorter, so that the rate would fall to its end before
    the step at which it had not. The same on all ranks.

    Args:
        step: Optimiser steps, as the trainer counts them, at least 1.

    Raises:
        ValueError: If there is no such step; when training begins, if a rate follows a validation metric, which such a
            fit does not have, or an epoch is a part of the training data that is the same each time.
    """

    trains_on_validation = True  # the report has no score

    def __init__(self, step: int) -> None:
        if step < 1:
            raise ValueError(f"Expected a fit to end after 1 step or more, but got {step}.")
        self.step = step

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Set the end."""
        if any(config.reduce_on_plateau for config in trainer.lr_scheduler_configs):
            raise ValueError(
                "A learning rate that waits for a validation metric cannot be followed without one: refit with "
                "--strategy continue, or give the model another schedule."
            )
        if isinstance(trainer.limit_train_batches, int) and _same_each_time(trainer):
            raise ValueError(
                "The training loader does not shuffle, so that epochs as long as before would never come to the "
                "validation examples: shuffle it, or refit with --match passes."
            )
        trainer.fit_loop.epoch_loop.max_steps = self.step


def _same_each_time(trainer: Trainer) -> bool:
    combined: Any = trainer.fit_loop._combined_loader
    loaders = combined.flattened if combined is not None else []
    return any(isinstance(getattr(loader, "sampler", None), SequentialSampler) for loader in loaders)


class StartFrom(Callback):
    """Begins a fit with the weights and the state of the optimisers in a checkpoint, at their rate, held constant.

    Epochs and steps are counted from 0: it is no resume. Each rank reads the file.

    Args:
        checkpoint: Its path.

    Raises:
        FileNotFoundError: When the fit begins, if there is no such file.
        ValueError: If it cannot be read, its weights or optimisers are not those of the model, or the model steps its
            schedule by itself.
    """

    trains_on_validation = True

    def __init__(self, checkpoint: str) -> None:
        self.checkpoint = checkpoint

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Load the weights, so that what looks at a network before training sees them; also for validation alone."""
        if stage in ("fit", "validate") and not is_overridden("configure_model", pl_module):
            self._load_weights(pl_module, read_checkpoint(self.checkpoint))

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Load weights, whatever has touched them since, and optimisers; switch schedules off."""
        checkpoint = read_checkpoint(self.checkpoint)
        if not pl_module.automatic_optimization and trainer.lr_scheduler_configs:
            raise ValueError(
                f"{type(pl_module).__name__} steps its schedule by itself, so that the rate cannot be held: refit with "
                "--strategy restart."
            )
        self._load_weights(pl_module, checkpoint)
        optimizers, states = trainer.optimizers, checkpoint.get("optimizer_states") or []
        if len(optimizers) != len(states):
            raise ValueError(
                f"{self.checkpoint} holds the states of {len(states)} optimisers, and the model has {len(optimizers)}: "
                "name a checkpoint with more than its weights (save_weights_only: false)."
            )
        trainer.strategy.load_optimizer_state_dict({"optimizer_states": states})
        trainer.strategy.lr_scheduler_configs = []

    def _load_weights(self, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        pl_module.on_load_checkpoint(checkpoint)
        try:
            pl_module.load_state_dict(checkpoint["state_dict"], strict=pl_module.strict_loading)
        except RuntimeError as error:
            raise ValueError(
                f"The weights in {self.checkpoint} are not those of {type(pl_module).__name__} "
                f"({str(error).partition(chr(10))[2].strip().partition(chr(10))[0]}): give the settings of its run."
            ) from error
