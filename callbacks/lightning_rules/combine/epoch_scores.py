"""Loss, accuracy and calibration over the examples of an epoch and of all ranks."""

from __future__ import annotations

import torch
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.classification import BinaryCalibrationError

from lightning_rules.combine.averaging import mean_loss
from lightning_rules.combine.reading import Answer, Task
from lightning_rules.combine.scores import BINS, comparable_targets, known, predicted


class EpochScores(Metric):
    """Sums over examples, whatever batches and ranks they came in; those without a target are left out."""

    full_state_update = False
    loss: Tensor
    right: Tensor
    count: Tensor

    def __init__(self) -> None:
        super().__init__()
        for name in ("loss", "right", "count"):
            self.add_state(name, torch.tensor(0.0, dtype=torch.double), dist_reduce_fx="sum")
        self.calibration = BinaryCalibrationError(n_bins=BINS, validate_args=False)
        self.task: Task | None = None
        self.seen = 0  # examples that this rank was given, those that do not count too

    def reset(self) -> None:
        """Start anew."""
        super().reset()
        self.calibration.reset()
        self.seen = 0

    def update(self, answer: Answer, targets: Tensor, task: Task, counted: Tensor | None = None) -> None:
        """Take in a batch.

        Args:
            answer: As :func:`averaging.averaged` gives it.
            targets: The batch's targets.
            task: What they mean.
            counted: bool [N]: which examples count; None counts all.
        """
        self.task = task
        targets = comparable_targets(targets, answer.values, task)
        chosen = known(targets, answer.values, task)
        chosen = chosen if counted is None else chosen & counted.to(chosen.device)
        values, targets = answer.values[chosen], targets[chosen]
        if not len(values):
            return
        self.loss += mean_loss(Answer(values), targets, task).double() * targets.numel()
        self.count += targets.numel()
        if task != "regression":
            right = predicted(values, task) == targets
            self.right += right.sum()
            confidence = values.softmax(1).amax(1) if task == "multiclass" else values.abs().sigmoid()
            self.calibration.update(confidence.reshape(-1), right.reshape(-1).long())

    def compute(self) -> dict[str, Tensor]:
        """``loss``, and ``accuracy`` and ``calibration_error``, or ``rmse``; a collective."""
        loss = (self.loss / self.count).float()
        if self.task == "regression":
            return {"loss": loss, "rmse": loss.sqrt()}
        return {
            "loss": loss,
            "accuracy": (self.right / self.count).float(),
            "calibration_error": self.calibration.compute(),
        }
