"""Loss and accuracy of a whole epoch."""

import torch
from torch import Tensor
from torchmetrics import Metric, MetricCollection
from torchmetrics.classification import MulticlassAccuracy


class MeanLoss(Metric):
    """The mean loss over examples, whatever batches and ranks they came in.

    Two ready means are off: Lightning's `self.log("loss", loss, sync_dist=True)` rounds the ranks' mean number
    of examples down (2.6.6), and torchmetrics' `MeanMetric` forgets the weights unless it looks for NaN in
    each batch (1.9), which makes the host wait for the device. A NaN here stays one.
    """

    higher_is_better = False
    full_state_update = False
    total: Tensor
    count: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.add_state("total", torch.tensor(0.0), dist_reduce_fx="sum")
        self.add_state("count", torch.tensor(0), dist_reduce_fx="sum")

    def update(self, loss: Tensor, count: int) -> None:
        """Take in the mean loss of a batch of `count` examples."""
        self.total = self.total + loss * count
        self.count = self.count + count

    def compute(self) -> Tensor:
        """Return the mean over all examples."""
        return self.total / self.count


def epoch_metrics(num_classes: int, *, prefix: str) -> MetricCollection:
    """Return mean loss and accuracy over every example of an epoch and every rank, each weighed alike.

    Update it with `loss` (the batch's mean), `count` (its number of examples), `preds` (logits [N, C]) and
    `target` (labels [N]).

    Args:
        num_classes: Number of classes.
        prefix: What to put before "loss" and "accuracy", such as "val/".
    """
    accuracy = MulticlassAccuracy(num_classes, average="micro", validate_args=False)
    return MetricCollection({"loss": MeanLoss(), "accuracy": accuracy}, prefix=prefix, compute_groups=False)
