"""Predictions as a table: one CSV for the whole data set, also under DDP."""

import csv
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import lightning as L
import torch
from lightning.pytorch.callbacks import BasePredictionWriter
from lightning.pytorch.utilities import rank_zero_info
from torch import distributed

from lightning_recipe.whole_file import whole_file

Row = tuple[int, int, list[float], int]  # dataloader, index, probabilities, label or -1


class PredictionsCSV(BasePredictionWriter):
    """Write what a classifier predicts to one CSV, in the order of the data set.

    Columns: `index`, or `file` where the data set has `paths`; `predicted`, `confidence`; one `p(CLASS)` for
    each class; and `true`, empty where the label is unknown, if any label is known. With several dataloaders
    a column `dataloader` comes first.

    The module's `predict_step` returns a dict with `probabilities` [N, C] and `label` [N] (-1: unknown).
    Class names are the data module's `class_names`, else the labels.

    Under DDP the rows of all ranks are gathered at the end, and rank 0 writes them, each example once.

    Args:
        path: Where to write; by default `<log_dir>/predictions.csv`.
    """

    def __init__(self, path: str | None = None) -> None:
        super().__init__(write_interval="batch")
        self.path = path
        self._rows: list[Row] = []

    def on_predict_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Start with no rows."""
        self._rows = []

    def write_on_batch_end(
        self,
        trainer: L.Trainer,
        pl_module: L.LightningModule,
        prediction: Any,
        batch_indices: Sequence[int] | None,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int,
    ) -> None:
        """Keep the rows of one batch on the host."""
        if not isinstance(prediction, dict) or "probabilities" not in prediction:
            raise ValueError(
                f"predict_step returned {type(prediction).__name__}, but PredictionsCSV expects a dict with "
                "`probabilities` [N, C] and `label` [N]: return that, or remove the callback."
            )
        probabilities = prediction["probabilities"].float().cpu()
        label = prediction.get("label")
        labels = torch.full((len(probabilities),), -1) if label is None else label.cpu()
        first = len(self._rows)
        indices = batch_indices or range(first, first + len(probabilities))
        self._rows += zip(
            [dataloader_idx] * len(probabilities),
            indices,
            probabilities.tolist(),
            labels.tolist(),
            strict=True,
        )

    def on_predict_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Gather the rows of all ranks; rank 0 writes them."""
        # The trainer knows the log folder on every rank, but asking for it is a collective call.
        folder = trainer.log_dir or trainer.default_root_dir
        rows = self._rows
        self._rows = []
        if trainer.world_size > 1:
            gathered: list[list[Row]] = [[] for _ in range(trainer.world_size)]
            distributed.all_gather_object(gathered, rows)
            rows = [row for part in gathered for row in part]
        if trainer.is_global_zero:
            path = Path(self.path) if self.path else Path(folder) / "predictions.csv"
            write_table(path, table(sorted(rows, key=lambda row: row[:2]), trainer))
            rank_zero_info(f"Predictions of {len(rows)} examples: {path}")


def table(rows: list[Row], trainer: L.Trainer) -> list[list[Any]]:
    """Return the header and one line for each row."""
    datamodule = getattr(trainer, "datamodule", None)
    loaders = trainer.predict_dataloaders
    loaders = loaders if isinstance(loaders, list | tuple) else [loaders]
    files = [getattr(getattr(loader, "dataset", None), "paths", None) for loader in loaders]
    names = list(getattr(datamodule, "class_names", None) or map(str, range(len(rows[0][2]) if rows else 0)))
    several, known = len(loaders) > 1, any(row[3] >= 0 for row in rows)
    header = ["file" if files[0] else "index", "predicted", "confidence", *(f"p({name})" for name in names)]
    lines: list[list[Any]] = [["dataloader"] * several + header + ["true"] * known]
    for loader, index, probabilities, label in rows:
        best = max(range(len(probabilities)), key=probabilities.__getitem__)
        paths = files[loader]
        line = [paths[index] if paths else index, names[best], f"{probabilities[best]:.6f}"]
        line += [f"{probability:.6f}" for probability in probabilities]
        true = [names[label] if label >= 0 else ""] * known
        lines.append([loader] * several + line + true)
    return lines


def write_table(path: Path, lines: list[list[Any]]) -> None:
    """Write a CSV, whole or not at all."""
    with whole_file(path) as file:
        csv.writer(file).writerows(lines)
