"""Numbers, histograms and pictures of the rules, to whichever loggers the run has, under one prefix."""

from __future__ import annotations

import io
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np

PREFIX = "rules/"

log = logging.getLogger("lightning_rules")


@dataclass(frozen=True)
class Histogram:
    """Counts between edges.

    Attributes:
        counts: How many values lie in each bin, ``[bins]``.
        edges: Where the bins begin and end, ascending, ``[bins + 1]``.
    """

    counts: Sequence[float]
    edges: Sequence[float]


def log_scalars(trainer: Any, values: Mapping[str, float]) -> None:
    """Log numbers to every logger of the run at its present step; rank 0 alone; nothing where there is no logger.

    Args:
        trainer: The run's Trainer.
        values: By name, without the prefix: ``{"gradient_norm/net.fc": 0.3}``.
    """
    named = {f"{PREFIX}{name}": float(value) for name, value in values.items()}
    if named:
        _each_logger(trainer, lambda logger, step: logger.log_metrics(named, step=step))


def log_histograms(trainer: Any, histograms: Mapping[str, Histogram]) -> None:
    """Log histograms to the loggers that take them: TensorBoard's and W&B's. Otherwise as :func:`log_scalars`."""

    def send(logger: Any, step: int) -> None:
        if hasattr(logger.experiment, "add_histogram_raw"):
            for name, histogram in histograms.items():
                _to_tensorboard(logger.experiment, f"{PREFIX}{name}", histogram, step)
        elif type(logger).__name__ == "WandbLogger":
            import wandb  # the run has it: its logger does

            made = {
                f"{PREFIX}{name}": wandb.Histogram(np_histogram=(np.array(one.counts), np.array(one.edges)))
                for name, one in histograms.items()
            }
            logger.experiment.log({**made, "trainer/global_step": step})

    if histograms:
        _each_logger(trainer, send)


def log_figure(trainer: Any, name: str, figure: Any) -> None:
    """Log a matplotlib figure to the loggers that take pictures: TensorBoard's and W&B's; the caller closes it."""

    def send(logger: Any, step: int) -> None:
        if hasattr(logger.experiment, "add_figure"):
            logger.experiment.add_figure(f"{PREFIX}{name}", figure, global_step=step, close=False)
        elif hasattr(logger, "log_image"):
            import wandb

            logger.experiment.log({f"{PREFIX}{name}": wandb.Image(figure), "trainer/global_step": step})

    _each_logger(trainer, send)


def log_picture(trainer: Any, name: str, png: bytes) -> None:
    """Log a PNG picture to the loggers that take pictures: TensorBoard's and W&B's."""
    from PIL import Image

    def send(logger: Any, step: int) -> None:
        if not (hasattr(logger.experiment, "add_image") or hasattr(logger, "log_image")):
            return
        with Image.open(io.BytesIO(png)) as picture:
            pixels = np.asarray(picture.convert("RGB"))
        if hasattr(logger.experiment, "add_image"):
            logger.experiment.add_image(f"{PREFIX}{name}", pixels, global_step=step, dataformats="HWC")
        else:
            import wandb

            logger.experiment.log({f"{PREFIX}{name}": wandb.Image(pixels), "trainer/global_step": step})

    _each_logger(trainer, send)


def _each_logger(trainer: Any, send: Callable[[Any, int], None]) -> None:
    """A logger that fails loses these values, and never stops the run."""
    if not trainer.is_global_zero:
        return
    step = trainer.fit_loop.epoch_loop._batches_that_stepped  # what Lightning's own lines are logged at
    for logger in trainer.loggers:
        try:
            send(logger, step)
        except Exception as error:
            log.debug(f"{type(logger).__name__} did not take what the rules log: {error}", exc_info=True)


def _to_tensorboard(writer: Any, name: str, histogram: Histogram, step: int) -> None:
    counts, edges = list(map(float, histogram.counts)), list(map(float, histogram.edges))
    middles = [(low + high) / 2 for low, high in pairwise(edges)]
    writer.add_histogram_raw(
        name,
        min=edges[0],
        max=edges[-1],
        num=sum(counts),
        sum=sum(count * middle for count, middle in zip(counts, middles, strict=True)),
        sum_squares=sum(count * middle**2 for count, middle in zip(counts, middles, strict=True)),
        bucket_limits=edges[1:],
        bucket_counts=counts,
        global_step=step,
    )
