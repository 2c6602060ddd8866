"""Numbers and histograms of the rules reach the loggers that a run has."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import lightning.pytorch as L
import matplotlib.figure
import pytest
from lightning.pytorch.demos.boring_classes import BoringModel
from lightning.pytorch.loggers import CSVLogger, Logger, TensorBoardLogger, WandbLogger

from lightning_rules.log_to import Histogram, log_figure, log_histograms, log_scalars

pytestmark = pytest.mark.filterwarnings("ignore")


class Logs(L.Callback):
    """Logs one of each after the second batch."""

    def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        if batch_idx == 1:
            figure = matplotlib.figure.Figure(figsize=(1, 1))
            figure.subplots().plot([1, 2])
            log_scalars(trainer, {"ratio/fc": 0.25})
            log_histograms(trainer, {"spread/fc": Histogram([1, 3], [0.0, 0.5, 1.0])})
            log_figure(trainer, "gallery", figure)


def fit(*loggers: Any) -> None:
    quiet: Any = dict.fromkeys(("enable_checkpointing", "enable_progress_bar", "enable_model_summary"), False)
    trainer = L.Trainer(accelerator="cpu", max_steps=3, limit_val_batches=0, logger=list(loggers), **quiet)
    trainer.callbacks.append(Logs())
    trainer.fit(BoringModel())


def test_csv(tmp_path: Path) -> None:
    logger = CSVLogger(tmp_path)
    fit(logger)
    with open(Path(logger.log_dir) / "metrics.csv") as file:
        (row,) = [row for row in csv.DictReader(file) if row.get("rules/ratio/fc")]
    assert (float(row["rules/ratio/fc"]), row["step"]) == (0.25, "1")


def test_tensorboard(tmp_path: Path) -> None:
    events = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator", reason="no tensorboard here")
    logger = TensorBoardLogger(tmp_path)
    fit(logger)
    seen = events.EventAccumulator(logger.log_dir, size_guidance={"histograms": 0})
    seen.Reload()
    assert [event.value for event in seen.Scalars("rules/ratio/fc")] == [0.25]
    (histogram,) = seen.Histograms("rules/spread/fc")
    assert (histogram.histogram_value.num, list(histogram.histogram_value.bucket_limit)[-1]) == (4, 1.0)
    assert seen.Tags()["images"] == ["rules/gallery"]


def test_wandb_offline(tmp_path: Path) -> None:
    pytest.importorskip("wandb", reason="W&B comes with an extra")
    logger = WandbLogger(save_dir=tmp_path, offline=True)
    fit(logger)
    summary = dict(logger.experiment.summary)
    logger.experiment.finish()
    assert summary["rules/ratio/fc"] == 0.25
    assert json.loads(json.dumps(summary["rules/spread/fc"]["values"], default=list)) == [1, 3]
    assert summary["rules/gallery"]["format"] == "png"


def test_none_and_one_that_fails(tmp_path: Path) -> None:
    class Broken(Logger):
        name, version = "broken", 0

        def log_metrics(self, metrics: Any, step: int | None = None) -> None:
            if any(name.startswith("rules/") for name in metrics):
                raise OSError("the disk is full")

        def log_hyperparams(self, *arguments: Any, **named: Any) -> None:
            pass

    fit()
    logger = CSVLogger(tmp_path)
    fit(Broken(), logger)
    assert "rules/ratio/fc" in (Path(logger.log_dir) / "metrics.csv").read_text()
