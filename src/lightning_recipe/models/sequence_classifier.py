"""A classifier of sequences with an LSTM or a GRU. Yours to edit: the steps below are all there is."""

from typing import Any, Literal

import lightning as L
import torch.nn.functional as F
from timm.scheduler.scheduler import Scheduler
from torch import Tensor, nn
from torchmetrics import MetricCollection

from lightning_recipe.labels import check_datamodule, check_labels, check_num_classes
from lightning_recipe.models.checkpoints import check_checkpoint
from lightning_recipe.models.metrics import epoch_metrics
from lightning_recipe.models.optimisers import (
    check_names,
    create_optimizer,
    parameter_groups,
    with_scheduler,
)
from lightning_recipe.models.recurrent import RecurrentEncoder

Batch = dict[str, Tensor]


class SequenceClassifier(L.LightningModule):
    """Classify sequences of feature vectors, of any length, with a recurrent network.

    A batch is a dict with `x` (float [N, T, F], padded), `length` (int [N], from 1 to T) and `y` (int [N],
    labels from 0). Metrics are over whole epochs, and over all ranks under DDP.

    Args:
        input_size: Number of features F of each step.
        num_classes: Number of classes, at least 2.
        hidden_size: Number of hidden units of each layer and direction.
        num_layers: Number of recurrent layers.
        cell: "lstm" or "gru"; gated cells come first (Goodfellow et al. 2016, ch. 10).
        bidirectional: Read in both directions: right where the whole sequence is known beforehand.
        layer_norm: Layer norm after each recurrent layer (batch norm does not suit recurrent networks).
        dropout: Dropout after each recurrent layer, from 0 to below 1.
        label_smoothing: Label smoothing of the training loss, from 0 to below 1.
        optimizer: A name of `timm.optim.list_optimizers()`.
        lr: Learning rate, above 0; 3e-4 is the first baseline for Adam (Karpathy 2019).
        weight_decay: The one weight decay; biases and norms have none.
        optimizer_options: Further arguments of the optimiser, such as betas.
        scheduler: cosine, tanh, poly, step, multistep, wsd or rsqrt; null is a constant rate.
        warmup_epochs: Length of a linear warm-up from 0, in epochs; may be a fraction.
        scheduler_options: Further arguments of timm's `create_scheduler_v2`, such as decay_epochs.

    Raises:
        ValueError: If an argument is out of range or names nothing that exists.
    """

    def __init__(
        self,
        input_size: int,
        num_classes: int,
        hidden_size: int = 128,
        num_layers: int = 1,
        cell: Literal["lstm", "gru"] = "lstm",
        bidirectional: bool = False,
        layer_norm: bool = True,
        dropout: float = 0.0,
        label_smoothing: float = 0.0,
        optimizer: str = "adamw",
        lr: float = 3e-4,
        weight_decay: float = 0.01,
        optimizer_options: dict[str, Any] | None = None,
        scheduler: str | None = None,
        warmup_epochs: float = 0.0,
        scheduler_options: dict[str, Any] | None = None,
    ) -> None:
        super().__init__()
        check_num_classes(num_classes)
        check_names(optimizer, scheduler)
        self.save_hyperparameters()
        self.num_classes = num_classes
        self.encoder = RecurrentEncoder(input_size, hidden_size, num_layers, cell, bidirectional, layer_norm, dropout)
        self.head = nn.Linear(self.encoder.output_size, num_classes)
        self.train_metrics = epoch_metrics(num_classes, prefix="train/")
        self.val_metrics = epoch_metrics(num_classes, prefix="val/")
        self.test_metrics = epoch_metrics(num_classes, prefix="test/")

    def setup(self, stage: str) -> None:
        """Check that the data's classes are the model's, before the first step."""
        splits = {"fit": ("train", "val"), "validate": ("val",), "test": ("test",)}.get(stage, ())
        check_datamodule(getattr(self.trainer, "datamodule", None), self.num_classes, splits=splits)

    def forward(self, x: Tensor, length: Tensor) -> Tensor:
        """Return logits [N, C] for padded sequences [N, T, F] of the given lengths [N]."""
        logits: Tensor = self.head(self.encoder(x, length))
        return logits

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Return the loss of a training batch."""
        label = batch["y"]
        if batch_idx == 0:
            check_labels(label, self.num_classes)
        logits = self(batch["x"], batch["length"])
        loss = F.cross_entropy(logits, label, label_smoothing=self.hparams["label_smoothing"])
        self.train_metrics.update(loss=loss, count=len(label), preds=logits, target=label)
        self.log_dict(self.train_metrics, on_step=False, on_epoch=True, prog_bar=True)
        return loss

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """Measure loss and accuracy on a validation batch."""
        self._evaluate(batch, batch_idx, self.val_metrics)

    def test_step(self, batch: Batch, batch_idx: int) -> None:
        """Measure loss and accuracy on a test batch."""
        self._evaluate(batch, batch_idx, self.test_metrics)

    def _evaluate(self, batch: Batch, batch_idx: int, metrics: MetricCollection) -> None:
        label = batch["y"]
        if batch_idx == 0:
            check_labels(label, self.num_classes)
        logits = self(batch["x"], batch["length"])
        metrics.update(loss=F.cross_entropy(logits, label), count=len(label), preds=logits, target=label)
        self.log_dict(metrics, on_epoch=True, prog_bar=True)

    def predict_step(self, batch: Batch, batch_idx: int, dataloader_idx: int = 0) -> dict[str, Tensor]:
        """Return probabilities [N, C] and the labels [N] (-1: unknown), which `PredictionsCSV` writes."""
        return {
            "probabilities": self(batch["x"], batch["length"]).float().softmax(dim=1),
            "label": batch["y"],
        }

    def configure_optimizers(self) -> dict[str, Any]:  # type: ignore[override]
        """Create the optimiser, and the schedule if there is one, by their names in timm."""
        options = self.hparams
        groups = parameter_groups(self, lr=options["lr"], weight_decay=options["weight_decay"])
        optimizer = create_optimizer(
            groups, options["optimizer"], lr=options["lr"], options=options["optimizer_options"]
        )
        return with_scheduler(
            optimizer,
            options["scheduler"],
            self.trainer,
            warmup_epochs=options["warmup_epochs"],
            options=options["scheduler_options"],
        )

    def lr_scheduler_step(self, scheduler: Scheduler, metric: Any | None) -> None:  # type: ignore[override]
        """Advance timm's scheduler, which is told how many steps are done."""
        scheduler.step_update(self.trainer.global_step)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Check that the checkpoint is of this architecture, and name the layers that differ if not."""
        check_checkpoint(self, checkpoint)
