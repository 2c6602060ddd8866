"""The rule worst-errors."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, Literal

import torch
from torch import Tensor

from lightning_rules.answers import Answers
from lightning_rules.class_names import name_of
from lightning_rules.exhibit import Exhibit, Matrix, Section
from lightning_rules.monitor import Finding, Severity
from lightning_rules.validation_watch import ValidationWatch
from lightning_rules.watch.error_figure import draw
from lightning_rules.watch.error_tally import Errors, ErrorTally, read, together

NAME = "worst-errors"
TOP = 3  # pairs that are named in the sentence


class WorstErrors(ValidationWatch):
    """A person looks at the errors that cost most: the most confident mistakes, and the classes that are confused.

    Why: The mean of a metric says how often a network is wrong, and not where. The most confident mistakes show wrong
        labels, cut-off objects and inputs that are broken, at a glance; the pairs of classes that are confused say
        for which examples more data, or a finer feature, would pay.

    What it does: Hears what the last layer answers in the run's own validation steps and counts on the device: for each
        pair of classes how often one was taken for the other and what these mistakes add to the loss, false positives
        and false negatives of each class, and the 16 mistakes the network was surest of, with their inputs (for a
        regression the largest residuals). At the end of the fit the last validation is drawn to
        ``<log_dir>/rules/worst_errors.png`` and to the loggers that take pictures; the numbers stay in ``errors``,
        the inputs of rank 0's own mistakes in ``inputs``.

    Fires when: Never an alarm. At the end of the fit one line of information names the costliest pairs and the classes
        that are missed most.

    Under DDP: Counts are added over ranks (of each rank the 256 costliest pairs), the most confident mistakes of all
        ranks are named, and those of rank 0 are shown. Examples that a sampler repeats to fill the last batch count
        twice.

    Cost: No forward pass but one before the first step; some thirty small operations on each validation batch (0.2 ms
        on one core), nothing on training batches, and a second for the picture when the fit ends. At most 16 inputs
        are held.

    Example:
        >>> from lightning.pytorch import Trainer
        >>> trainer = Trainer(callbacks=[WorstErrors()], logger=False)

    Source: Karpathy (2019), "A Recipe for Training Neural Networks", step 1; Ng (2018), "Machine Learning Yearning",
        chapters 13-19, "Error analysis".

    Args:
        overhead: Share of the training time that all monitors may take together, above 0 and below 1.
        on_error: ``"warn"`` or ``"raise"``; see :class:`~lightning_rules.Rule`.
    """

    name = NAME
    source = (
        'Karpathy (2019), "A Recipe for Training Neural Networks", step 1; Ng (2018), "Machine Learning Yearning", '
        'chapters 13-19, "Error analysis"'
    )
    kind = "report"

    def __init__(self, overhead: float = 0.03, on_error: Literal["warn", "raise"] = "warn") -> None:
        super().__init__(overhead, on_error)

    def _forget(self) -> None:
        super()._forget()
        self.errors: Errors | None = None
        self.inputs: Tensor | None = None
        self._own: Errors | None = None
        self._tally: ErrorTally | None = None
        self._ended: ErrorTally | None = None
        self._examples = 0

    def begin_validation(self) -> None:
        """Count anew."""
        self._tally, self._examples = None, 0

    def see(self, trainer: Any, answers: Answers, inputs: Tensor | None, batch_idx: int) -> None:
        """Count the errors of a batch."""
        if self._tally is None:
            self._tally = ErrorTally(answers)
        examples = len(answers.outputs) // answers.rows_per_example
        place = torch.arange(self._examples, self._examples + examples, device=answers.outputs.device)
        index = place * trainer.world_size + trainer.global_rank
        self._tally.add(answers, inputs, index.repeat_interleave(answers.rows_per_example))
        self._examples += examples

    def end_validation(self) -> None:
        """What was counted waits for the next look."""
        self._ended, self._tally = self._tally or self._ended, None

    def readings(self) -> Any:
        """Those of the last whole validation."""
        ended, self._ended = self._ended, None
        return None if ended is None else ended.readings()

    def take(self, readings: Any) -> Errors | None:
        """This rank's errors."""
        if readings is not None:
            self._own, self.inputs = read(readings), readings["inputs"]
        return self._own

    def judge(self, ranks: Sequence[Errors | None]) -> Iterable[Finding]:
        """One line of information."""
        seen = [rank for rank in ranks if rank is not None]
        self.errors = together(seen) if seen else None
        return judge_errors(self.errors, self.names)

    def draw(self) -> Any:
        """The mistakes with pictures, the pairs and the classes."""
        if self.errors is None or self._own is None or not self.errors.examples:
            return None
        return draw(self.errors, self._own.mistakes, self.inputs, self.names)

    def exhibits(self) -> list[Exhibit]:
        """The mistakes with pictures, and which class was taken for which."""
        pictures = self.picture(
            Section.ERRORS,
            "The most confident mistakes",
            "Each with what was right, what was answered, and how sure the network was: look for wrong labels and for "
            "faults of the preprocessing first.",
        )
        matrix = None if self.errors is None else confusion(self.errors, self.names)
        if matrix is None:
            return pictures
        caption = "Rows are what is right, columns what was answered, in the last validation; the diagonal is right."
        return [*pictures, Exhibit("confusion", Section.ERRORS, "Confusion matrix", caption, matrix, [NAME])]

    def _release(self) -> None:
        super()._release()
        self._tally, self._ended = None, None


def judge_errors(errors: Errors | None, names: Sequence[str]) -> list[Finding]:
    """What the errors of a validation say, in one sentence.

    Args:
        errors: Those of all ranks; None where none were seen.
        names: Of the classes, as far as they are known.
    """
    if errors is None or not errors.examples:
        return []
    if errors.kind in ("mean", "median"):
        return [_judge_residuals(errors)]
    called = list(names)
    wrong = "wrong in at least one class" if errors.several else "wrong"
    rate = f"{errors.wrong:,.0f} of {errors.examples:,} validation answers are {wrong}"
    evidence: dict[str, Any] = {"examples": errors.examples, "wrong": int(errors.wrong)}
    parts = []
    for place, pair in enumerate(errors.pairs[:TOP], 1):
        share = pair.cost / errors.cost if errors.cost else 0.0
        taken = f"{name_of(called, pair.right)} taken for {name_of(called, pair.said)}"
        parts.append(f"{taken} ({pair.count:,} times, {share:.0%} of the loss of all mistakes)")
        evidence |= {f"pair_{place}": taken, f"pair_{place}_count": pair.count, f"pair_{place}_cost": pair.cost}
    missed = _most_missed(errors)
    if missed is not None:
        share, label = missed
        evidence |= {"most_missed": name_of(called, label), "most_missed_share": share}
        parts.append(f"missed most is {name_of(called, label)} ({share:.0%} of its examples)")
    if errors.mistakes:
        worst = errors.mistakes[0]
        evidence |= {"surest_mistake": worst.index, "surest_mistake_probability": worst.size}
        parts.append(f"the surest mistake is example {worst.index} (with a probability of {worst.size:.3g})")
    message = f"{rate}: {'; '.join(parts)}." if parts else f"{rate}."
    return [Finding(NAME, Severity.INFO, message, evidence=evidence)]


def confusion(errors: Errors, names: Sequence[str]) -> Matrix | None:
    """How often each class was answered as each; None where the errors do not hold all of it."""
    classes = len(errors.members)
    off = sum(pair.count for pair in errors.pairs)
    if classes < 2 or errors.several or off != errors.wrong:
        return None
    counts = [[0] * classes for _ in range(classes)]
    for label, (members, missed) in enumerate(zip(errors.members, errors.false_negatives, strict=True)):
        counts[label][label] = members - missed
    for pair in errors.pairs:
        counts[pair.right][pair.said] = pair.count
    return Matrix([name_of(list(names), label) for label in range(classes)], counts)


def _most_missed(errors: Errors) -> tuple[float, int] | None:
    shares = [
        (missed / members, label)
        for label, (missed, members) in enumerate(zip(errors.false_negatives, errors.members, strict=True))
        if missed
    ]
    return max(shares, default=None)


def _judge_residuals(errors: Errors) -> Finding:
    mean = errors.wrong / errors.examples
    message = f"The mean absolute residual over {errors.examples:,} validation examples is {mean:.3g}"
    evidence: dict[str, Any] = {"examples": errors.examples, "mean_absolute_residual": mean}
    if errors.mistakes:
        worst = errors.mistakes[0]
        message += f"; the largest, {worst.size:.3g}, is that of example {worst.index}"
        message += f" (answered {worst.said:.3g}, right is {worst.right:.3g})" if errors.outputs == 1 else ""
        evidence |= {"worst_example": worst.index, "largest_residual": worst.size}
    return Finding(NAME, Severity.INFO, message + ".", evidence=evidence)
