"""A classifier of the rows of a table with a small network. Yours to edit: the steps below are all there is."""

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

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

Batch = tuple[Tensor, Tensor]


class TableClassifier(L.LightningModule):
    """Classify rows of numbers with a multilayer perceptron.

    A batch is a tuple of features (float [N, F]) and labels (int [N], from 0). Metrics are over whole epochs, and over
    all ranks under DDP.

    Args:
        num_features: Number of features F; `TableDataModule` says it if it is wrong.
        num_classes: Number of classes, at least 2.
        hidden: Number of units of each hidden layer, ReLU behind each; none is logistic regression.
        dropout: Dropout after each hidden layer, from 0 to below 1.
        label_smoothing: Label smoothing of the training loss, from 0 to below 1.
        optimizer: A name of `timm.optim.list_optimizers()`.
        lr: Learning rate, above 0; 3e-4 is the first baseline for Adam (Karpathy 2019).
        weight_decay: The one weight decay; biases have none.
        optimizer_options: Further arguments of the optimiser, such as betas.
        scheduler: cosine, tanh, poly, step, multistep, wsd or rsqrt; null is a constant rate.
        warmup_epochs: Length of a linear warm-up from 0, in epochs; may be a fraction.
        scheduler_options: Further arguments of timm's `create_scheduler_v2`, such as decay_epochs.

    Raises:
        ValueError: If an argument is out of range or names nothing that exists; in `setup`, if the data has another
            number of features or classes.
    """

    def __init__(
        self,
        num_features: int,
        num_classes: int,
        hidden: Sequence[int] = (64, 64),
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
        if num_features < 1 or any(units < 1 for units in hidden):
            raise ValueError(
                f"num_features={num_features} and hidden={list(hidden)} were given, but each must be at least 1."
            )
        if not 0 <= dropout < 1:
            raise ValueError(f"dropout={dropout} was given, but it must be from 0 to below 1.")
        self.save_hyperparameters()
        self.num_classes = num_classes
        sizes = [num_features, *hidden]
        layers = [[nn.Linear(before, after), nn.ReLU(), nn.Dropout(dropout)] for before, after in pairwise(sizes)]
        self.body = nn.Sequential(*(part for layer in layers for part in layer))
        self.head = nn.Linear(sizes[-1], num_classes)
        self.train_metrics = epoch_metrics(num_classes, prefix="train/")
        self.val_metrics = epoch_metrics(num_classes, prefix="val/")
        self.test_metrics = epoch_metrics(num_classes, prefix="test/")

    def setup(self, stage: str) -> None:
        """Check that the data's features and classes are the model's, before the first step."""
        data = getattr(self.trainer, "datamodule", None)
        found, expected = getattr(data, "num_features", None), self.hparams["num_features"]
        if isinstance(found, int) and found != expected:
            raise ValueError(
                f"The model has num_features={expected}, but {type(data).__name__} has {found} features: set the "
                f"model's num_features to {found}."
            )
        splits = {"fit": ("train", "val"), "validate": ("val",), "test": ("test",)}.get(stage, ())
        check_datamodule(data, self.num_classes, splits=splits)

    def forward(self, x: Tensor) -> Tensor:
        """Return logits [N, C] for features [N, F]."""
        logits: Tensor = self.head(self.body(x))
        return logits

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Return the loss of a training batch."""
        x, label = batch
        if batch_idx == 0:
            check_labels(label, self.num_classes)
        logits = self(x)
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
        x, label = batch
        if batch_idx == 0:
            check_labels(label, self.num_classes)
        logits = self(x)
        metrics.update(loss=F.cross_entropy(logits, label), count=len(label), preds=logits, target=label)
        self.log_dict(metrics, on_epoch=True, prog_bar=True)

    def predict_step(self, batch: Batch, batch_idx: int, dataloader_idx: int = 0) -> dict[str, Tensor]:
        """Return probabilities [N, C] and the labels [N] (-1: unknown), which `PredictionsCSV` writes."""
        x, label = batch
        return {"probabilities": self(x).float().softmax(dim=1), "label": label}

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
