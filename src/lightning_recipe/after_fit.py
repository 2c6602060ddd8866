"""What `test_after_fit` needs of a trainer that has trained: the best checkpoint, what was done, who tests."""

from collections.abc import Mapping
from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.strategies import DDPStrategy
from torch.utils.data import DataLoader

from lightning_recipe import summary


def best_checkpoint(trainer: Trainer) -> tuple[str | None, str]:
    """The path of the best checkpoint, if one was kept, and what the summary says about it."""
    keeper = trainer.checkpoint_callback
    path, score = getattr(keeper, "best_model_path", ""), getattr(keeper, "best_model_score", None)
    if not path:
        return None, "none was kept: the weights at the end of training were tested"
    shown = summary.shown_path(path)
    monitor = getattr(keeper, "monitor", None)
    return path, f"{shown} (best {monitor}: {float(score):.4g})" if monitor and score is not None else shown


def trained(trainer: Trainer, seconds: float) -> str:
    """How long training took, in time, epochs, steps and processes."""
    counts = [(trainer.current_epoch, "epoch"), (trainer.global_step, "step"), (trainer.world_size, "process")]
    return ", ".join([summary.duration(seconds), *(summary.count(number, noun) for number, noun in counts)])


def tester(trainer: Trainer, config: Mapping[str, Any]) -> Trainer | None:
    """This trainer, or on rank 0 of several a new one on one device; None where nothing is to be done.

    Args:
        trainer: The trainer that has trained.
        config: The arguments that it was made with.
    """
    if trainer.world_size == 1:
        return trainer
    strategy = trainer.strategy
    if type(strategy) is not DDPStrategy:
        if trainer.is_global_zero:
            print(f"Not tested: {type(strategy).__name__} may split the model; run test on one device.")
        return None
    if torch.distributed.is_initialized():
        strategy.barrier("before the test")
        torch.distributed.destroy_process_group()
    if not trainer.is_global_zero:
        return None
    callbacks = trainer.callbacks  # type: ignore[attr-defined]
    same = {"logger": trainer.loggers, "callbacks": callbacks, "max_time": None}
    one = {"strategy": "auto", "devices": 1, "num_nodes": 1, "sync_batchnorm": False}
    return type(trainer)(**{**config, **same, **one, "enable_model_summary": False})


def measured_on_training(
    trainer: Trainer, tester: Trainer, model: LightningModule, checkpoint: str | None
) -> dict[str, float]:
    """The metrics of the validation step on the training examples, each once, in order, with the network in eval mode.

    The rules and loggers of the run hear nothing of it. Augmentation that is part of the data set stays.

    Args:
        trainer: The trainer that has trained.
        tester: The one on one device.
        model: The model.
        checkpoint: Where its weights are; None for those that it has.
    """
    combined = trainer.fit_loop._combined_loader
    loaders = [in_order(loader) for loader in (combined.flattened if combined is not None else ())]
    heard, loggers = tester.callbacks, tester.loggers  # type: ignore[attr-defined]
    tester.callbacks, tester.loggers = [], []  # type: ignore[attr-defined]
    try:
        results = tester.validate(model, dataloaders=loaders, ckpt_path=checkpoint, verbose=False)
    finally:
        tester.callbacks, tester.loggers = heard, loggers  # type: ignore[attr-defined]
    return {name: float(value) for result in results for name, value in result.items()}


def in_order(loader: Any) -> Any:
    """A loader of the same examples, each once, in order; what is no DataLoader of a sized data set stays as it is."""
    if not isinstance(loader, DataLoader) or not hasattr(loader.dataset, "__len__"):
        return loader
    return DataLoader(
        loader.dataset,
        batch_size=loader.batch_size or 32,
        num_workers=loader.num_workers,
        collate_fn=loader.collate_fn,
        worker_init_fn=loader.worker_init_fn,
        pin_memory=loader.pin_memory,
    )
