"""The rule data-audit."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

from lightning_rules.audit import Audit, Part, aspects_of
from lightning_rules.data import (
    class_counts,
    distribution_shift,
    duplicates,
    input_scale,
    input_structure,
    junk,
    label_probe,
    target_values,
)
from lightning_rules.data.data_seen import DataSeen
from lightning_rules.deadline import Deadline
from lightning_rules.view import View


class DataAudit(Audit):
    """The data are what the training needs: complete, clean, apart, and of the scale and type that it expects.

    Why: Most of what goes wrong goes wrong in the data, and a network trains on it without a word: validation rows
        that stand in the training set, a class that was filtered away, pixels that were scaled twice or in one split
        alone, a label that hides in the input. No statistic of the network sees these; a look at the data does.

    What it does: Reads an evenly spread sample of each split once (up to 4,096 examples, 2 s and 256 MiB each; labels
        and inputs of sets that lie in memory whole), as the loader collates it, and looks at: examples and classes of
        each split; copies and near copies within and across splits; NaN, infinity and constant inputs; the tensor that
        really enters the first weighted layer, its scale, and whether validation's is like training's; single input
        values that tell the label; and targets against the loss function that is called with them. Each aspect has a
        name of its own, under which it can be ignored.

    Fires when: A validation class has no training example, or is 8 times rarer in training (missing-class: error,
        warning). Validation examples are training examples, by index (no-leak: error) or by copies beyond what copies
        within training explain (1%: warning, 20%: error). Inputs or targets with NaN or infinity make the loss not
        finite, or all inputs are the same (no-junk: error). Inputs enter the first layer, without a normalisation
        layer before or behind it, with a root mean square above 30 or below 0.005, or with features whose scales
        differ 1,000 times (normalise-inputs: warning). Validation inputs are shifted by 0.35 standard deviations a
        feature or scaled by 1.6 (same-distribution: warning). One input value tells the class on held-out examples
        in 99% (label-in-input: warning). The places of an input are interchangeable in what is no noise
        (scrambled-inputs: warning). Labels are outside what the loss takes (target-type: error), regression
        targets are above 10 or below 0.005 in scale (target-scale: warning). Few data, imbalance, copies within
        training and constant features are information.

    Under DDP: Each rank reads the data sets, which are the same on all ranks, past the distributed samplers; of
        streams each rank sees its own part. Numbers are gathered, and all ranks find the same. Sharded strategies
        (FSDP, DeepSpeed): what needs a step does not apply.

    Cost: COST

    Example:
        >>> from lightning.pytorch import Trainer
        >>> trainer = Trainer(callbacks=[DataAudit(seconds=5)], logger=False)

    Source: Karpathy (2019), "A Recipe for Training Neural Networks", step 1, "become one with the data"; Goodfellow,
        Bengio and Courville (2016), Deep Learning, sections 1.2.2, 5.3.1 and 12.2.1.

    Args:
        seconds: How long the audit may take, at most; what does not fit in says so.
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
        return super().measure(view, deadline.within(self.seconds))

    def read(self, view: View, deadline: Deadline) -> DataSeen:
        """Both splits, each to be read when a part first asks for it."""
        return DataSeen(view, min(2.0, deadline.left / 8))
