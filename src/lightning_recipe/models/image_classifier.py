"""A classifier of images on a timm backbone. Yours to edit: the steps below are all there is."""

from typing import Any

import lightning as L
import torch.nn.functional as F
from timm.scheduler.scheduler import Scheduler
from torch import Tensor
from torchmetrics import MetricCollection

from lightning_recipe.labels import check_datamodule, check_labels, check_num_classes
from lightning_recipe.models.backbone import body_parameters, create_backbone, hold_still
from lightning_recipe.models.checkpoints import check_checkpoint
from lightning_recipe.models.metrics import epoch_metrics
from lightning_recipe.models.optimisers import (
    check_names,
    create_optimizer,
    parameter_groups,
    with_scheduler,
)

Batch = tuple[Tensor, Tensor]


class ImageClassifier(L.LightningModule):
    """Classify images with any backbone of timm.

    A batch is a tuple of images (float [N, in_chans, H, W], normalised) and labels (int [N], from 0).
    Metrics are over whole epochs, and over all ranks under DDP.

    Args:
        backbone: A name of `timm.list_models()`.
        num_classes: Number of classes, at least 2.
        in_chans: Number of channels of the images.
        image_size: Height and width of the images; only backbones of a fixed size (such as ViTs) heed it.
        pretrained: Start from timm's pretrained weights, from the hub's cache or from the network.
        weights: Start from a local file instead: safetensors, pth, or a checkpoint of this class.
        drop_rate: Dropout before the head, from 0 to below 1.
        label_smoothing: Label smoothing of the training loss, from 0 to below 1.
        freeze_backbone: Train the head only; the backbone's batch norm then keeps its statistics.
        backbone_lr_scale: Factor on the backbone's learning rate, from above 0 to 1.
        optimizer: A name of `timm.optim.list_optimizers()`.
        lr: Learning rate, above 0; 3e-4 is the first baseline for Adam (Karpathy 2019).
        weight_decay: The one weight decay; biases and norms have none.
        optimizer_options: Further arguments of the optimiser, such as betas.
        scheduler: cosine, tanh, poly, step, multistep, wsd or rsqrt; null is a constant rate.
        warmup_epochs: Length of a linear warm-up from 0, in epochs; may be a fraction.
        scheduler_options: Further arguments of timm's `create_scheduler_v2`, such as decay_epochs.

    Raises:
        ValueError: If an argument is out of range or names nothing that exists, or `weights` holds another
            architecture.
        FileNotFoundError: If there is no file `weights`.
        ConnectionError: If pretrained weights are neither cached nor to be had within 15 s.
    """

    def __init__(
        self,
        backbone: str,
        num_classes: int,
        in_chans: int = 3,
        image_size: int | None = None,
        pretrained: bool = False,
        weights: str | None = None,
        drop_rate: float = 0.0,
        label_smoothing: float = 0.0,
        freeze_backbone: bool = False,
        backbone_lr_scale: float = 1.0,
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
        self.backbone = create_backbone(
            backbone,
            num_classes,
            in_chans=in_chans,
            image_size=image_size,
            drop_rate=drop_rate,
            pretrained=pretrained,
            weights=weights,
        )
        if freeze_backbone:
            for parameter in body_parameters(self.backbone):
                parameter.requires_grad = False
            hold_still(self.backbone)
        self.train_metrics = epoch_metrics(num_classes, prefix="train/")
        self.val_metrics = epoch_metrics(num_classes, prefix="val/")
        self.test_metrics = epoch_metrics(num_classes, prefix="test/")

    def setup(self, stage: str) -> None:
        """Check that the data's classes are the model's, before the first step."""
        splits = {"fit": ("train", "val"), "validate": ("val",), "test": ("test",)}.get(stage, ())
        check_datamodule(getattr(self.trainer, "datamodule", None), self.num_classes, splits=splits)

    def train(self, mode: bool = True) -> "ImageClassifier":
        """Switch to training mode, except for the body of a frozen backbone."""
        super().train(mode)
        if mode and self.hparams["freeze_backbone"]:
            hold_still(self.backbone)
        return self

    def forward(self, image: Tensor) -> Tensor:
        """Return logits [N, C] for images [N, in_chans, H, W]."""
        logits: Tensor = self.backbone(image)
        return logits

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Return the loss of a training batch."""
        image, label = batch
        if batch_idx == 0:
            check_labels(label, self.num_classes)
        logits = self(image)
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
        image, label = batch
        if batch_idx == 0:
            check_labels(label, self.num_classes)
        logits = self(image)
        metrics.update(loss=F.cross_entropy(logits, label), count=len(label), preds=logits, target=label)
        self.log_dict(metrics, on_epoch=True, prog_bar=True)

    def predict_step(self, batch: Batch, batch_idx: int, dataloader_idx: int = 0) -> dict[str, Tensor]:
        """Return probabilities [N, C] and the labels [N] (-1: unknown), which `PredictionsCSV` writes."""
        image, label = batch
        return {"probabilities": self(image).float().softmax(dim=1), "label": label}

    def configure_optimizers(self) -> dict[str, Any]:  # type: ignore[override]
        """Create the optimiser, and the schedule if there is one, by their names in timm."""
        options = self.hparams
        scale = options["backbone_lr_scale"]
        groups = parameter_groups(
            self,
            lr=options["lr"],
            weight_decay=options["weight_decay"],
            slower=body_parameters(self.backbone) if scale != 1.0 else (),
            slower_scale=scale,
        )
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

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Let the checkpoint stand alone: loading it needs neither the hub nor the file it started from."""
        if "hyper_parameters" in checkpoint:
            checkpoint["hyper_parameters"] |= {"pretrained": False, "weights": None}

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Check that the checkpoint is of this architecture, and name the layers that differ if not."""
        check_checkpoint(self, checkpoint)
