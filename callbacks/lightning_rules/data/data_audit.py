"""The rule data-audit."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

from lightning_rules.audit import Audit, Part, aspects_of
from lightning_rules.data import (
    class_counts,
    distributed_sampling,
    distribution_shift,
    duplicates,
    input_scale,
    input_structure,
    junk,
    label_probe,
    repeated_batches,
    same_draws,
    shuffle,
    target_values,
    validation_passes,
)
from lightning_rules.data.data_seen import DataSeen
from lightning_rules.deadline import Deadline
from lightning_rules.view import View


class DataAudit(Audit):
    """The data are what the training needs: complete, clean, apart, and of the scale and type that it expects.

    Why: Most of what goes wrong goes wrong in the data, and a network trains on it without a word: validation rows
        that stand in the training set, a class that was filtered away, pixels that were scaled twice or in one split
        alone, a label that hides in the input. No statistic of the network sees these; a look at the data does.

    What it does: Reads an evenly spread sample of each split once (up to 4,096 examples, about 2 s and 128 MiB each;
        labels, and inputs of sets that lie in memory, whole), as the loader collates it, and looks at: examples and
        classes of each split; copies and near copies within and across splits; NaN, infinity and constant inputs; the
        tensor that really enters the first weighted layer, its scale, whether its places mean anything, and whether
        that of validation is like that of training; single input values that tell the label; and targets against the
        loss function that is called with them. Each aspect has a name, under which it can be ignored alone.

    Fires when: missing-class: a validation class has no training example where chance makes one expect 20 (error) or
        5 (warning), or is 8 times rarer in training and not weighed (warning). no-leak: validation examples are
        training examples by index (error), or are copies of them beyond what copies within training explain (1%
        warning, 20% error; near copies 2%, warning). no-junk: NaN or infinity makes the loss not finite, or all inputs
        are the same (error). normalise-inputs: without a normalisation layer before or behind it the first layer gets
        a root mean square above 30 or below 0.005, or features whose scales differ 1,000 times (warning).
        same-distribution: validation inputs are shifted by 0.35 standard deviations a feature or scaled by 1.6, twice
        that where training is augmented (warning). scrambled-inputs: the places of pictures are interchangeable
        (warning). label-in-input: one value tells the class of 99% of held-out examples, and most others do not
        (warning). target-type: labels are outside what the loss takes (error). target-scale: regression targets have a
        standard deviation above 10 or below 0.005, or a root mean square above 30 (warning). conflicting-labels: 5% of
        the training examples have a copy with another label (warning). no-duplicates: training is made of less than a
        fifth as many distinct examples as it has (warning). split-ratio: three quarters or more of a small set are
        held out (warning). shuffle: the labels of a step vary less than 0.3 times as much as those of random ones
        (warning). repeated-batches: the loader, the data set or the step gives the same examples again and again
        (warning). validation-passes: two readings of a validation example differ as much as two examples do (warning).
        same-draws: two workers draw the same augmentations (warning). distributed-sampling: ranks draw the same
        examples in the same order (error), overlapping ones, or the same order every epoch (warning). For a person's
        eye only: class-size, imbalance and k-fold-when-small.

    Under DDP: Each rank reads the data sets, which are the same on all ranks, past the distributed samplers; of
        streams each rank sees its own part. Numbers are gathered, and all ranks find the same. Sharded strategies
        (FSDP, DeepSpeed): what needs a step does not apply.

    Cost: On digits 0.2 s before the first step, on one core: the reading, 32 examples through the training step, and up
        to 512 of each split through the first layer. Sets that read from disk take about 2 s a split. None afterwards;
        no trace is left.

    Example:
        >>> from lightning.pytorch import Trainer
        >>> trainer = Trainer(callbacks=[DataAudit(seconds=5)], logger=False)

    Source: Karpathy (2019), "A Recipe for Training Neural Networks", step 1, "become one with the data"; Goodfellow,
        Bengio and Courville (2016), Deep Learning, sections 1.2.2, 5.3.1 and 12.2.1.

    Args:
        seconds: How long the audit may take, at most, and not more than half of what is left of the budget; what does
            not fit in says so.
        budget: Seconds that the pre-flight checks of a run may take together; None for no limit.
        on_error: ``"warn"`` or ``"raise"``; see :class:`~lightning_rules.Rule`.

    Raises:
        ValueError: ``seconds`` or ``budget`` is not a positive number.
    """

    name = "data-audit"
    source = (
        'Karpathy (2019), "A Recipe for Training Neural Networks", step 1, "become one with the data"; Goodfellow, '
        "Bengio and Courville (2016), Deep Learning, sections 1.2.2, 5.3.1 and 12.2.1"
    )
    kind = "check"
    parts: ClassVar[tuple[Part, ...]] = (
        # What the data contain.
        class_counts.PART,
        target_values.PART,
        junk.PART,
        input_scale.PART,
        input_structure.PART,
        distribution_shift.PART,
        label_probe.PART,
        duplicates.PART,
        # How the loaders behave.
        shuffle.PART,
        repeated_batches.PART,
        validation_passes.PART,
        same_draws.PART,
        distributed_sampling.PART,
    )
    aspects = aspects_of(parts)

    def __init__(
        self, seconds: float = 20.0, budget: float | None = 10.0, on_error: Literal["warn", "raise"] = "warn"
    ) -> None:
        super().__init__(budget, on_error)
        if not seconds > 0:
            raise ValueError(f"Expected `seconds` to be a positive number, but got {seconds!r}.")
        self.seconds = seconds

    def measure(self, view: View, deadline: Deadline) -> list[tuple[Any, str]]:
        """For each part its numbers, or why it has none, within the audit's own time."""
        return super().measure(view, deadline.within(min(self.seconds, deadline.left / 2)))

    def read(self, view: View, deadline: Deadline) -> DataSeen:
        """Both splits, each to be read when a part first asks for it."""
        return DataSeen(view, min(2.0, deadline.left / 8))
