"""The rule batch-independence."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import partial
from typing import Any, Literal

from lightning_rules.batches import leaves
from lightning_rules.deadline import Deadline
from lightning_rules.finding import Finding, Severity
from lightning_rules.preflight.batch_parts import input_leaves
from lightning_rules.preflight.row_mixing import Mixing, example_dimensions, later_seen, rows_mixed
from lightning_rules.preflight_check import PreflightCheck
from lightning_rules.rule import NotApplicable, attempt
from lightning_rules.view import View

NAME = "batch-independence"


class BatchIndependence(PreflightCheck):
    """What the network says of one example does not depend on the other examples of its batch.

    Why: A view or reshape where a permute is meant, a softmax over the wrong dimension or a recurrent layer with the
        wrong ``batch_first`` mixes rows of the batch. Training still lowers the loss, in part, and evaluation
        depends on the company an example is in.

    What it does: Runs ``training_step`` in evaluation mode on up to 13 examples, then twice more with the inputs of
        one half of them overwritten, then of the other, each time with the same random numbers, and compares the
        outputs of the rows that were left alone: what the loss function is given, if it is compared with labels of
        the batch, else what the outermost modules return. Every dimension that may count examples is tried, and the
        one with the least dependence counts. Hooks tell in which module rows mix first.

    Fires when: An output of an untouched row changes by more than 0.001 of the outputs' spread (0.05 in 16 bits), in
        every way to read rows (warning). Inputs that ``training_step`` mixes before any module sees them, as mixup
        does, are no alarm; batch norm is none in evaluation mode.

    Under DDP: Each rank probes a batch of its own; the largest change is judged, so that all find the same. Sharded
        strategies (FSDP, DeepSpeed): does not apply.

    Cost: Three forward passes of 13 examples: below 0.1 s for a small network, 0.2 s for timm's ``test_resnet``. No
        trace is left.

    Example:
        >>> from lightning.pytorch import Trainer
        >>> trainer = Trainer(callbacks=[BatchIndependence(time_steps=True)], logger=False)

    Source: Karpathy (2019), "A Recipe for Training Neural Networks", step 2, "use backprop to chart dependencies".

    Args:
        time_steps: For causal models of sequences: outputs at a time must not depend on inputs of later times either.
        budget: Seconds that the pre-flight checks of a run may take together; None for no limit.
        on_error: ``"warn"`` or ``"raise"``; see :class:`~lightning_rules.Rule`.
    """

    name = NAME
    source = 'Karpathy (2019), "A Recipe for Training Neural Networks", step 2, "use backprop to chart dependencies"'

    def __init__(
        self, time_steps: bool = False, budget: float | None = 10.0, on_error: Literal["warn", "raise"] = "warn"
    ) -> None:
        super().__init__(budget, on_error)
        self.time_steps = time_steps

    def measure(self, view: View, deadline: Deadline) -> tuple[list[Mixing], list[Mixing]]:
        """What changed in untouched rows, and, if asked for, at earlier times."""
        batch: Any = view.batches(1)[0]
        inputs = input_leaves(view, batch)
        given = {id(leaf) for leaf in inputs}
        others = [leaf for _, leaf in leaves(batch) if id(leaf) not in given]
        dims = example_dimensions(inputs, others)
        tried = [attempt(partial(rows_mixed, view, batch, dim)) for dim in dims]
        seen = [found for found, _ in tried if found is not None]
        if not seen:
            said = tried[0][1].removeprefix(NotApplicable.prefix)
            failed = said.startswith("the measurement failed")
            raise NotApplicable("training_step does not run on some examples of a batch alone." if failed else said)
        rows = min(seen, key=lambda found: max(mixing.untouched for mixing in found))
        times = attempt(partial(later_seen, view, batch, 1 - dims[0]))[0] if self.time_steps else None
        return rows, times or []

    def judge(self, ranks: Sequence[tuple[list[Mixing], list[Mixing]]]) -> Iterable[Finding]:
        """One verdict on rows, one on times."""
        yield judge_rows([mixing for rows, _ in ranks for mixing in rows])
        times = [mixing for _, times in ranks for mixing in times]
        if times:
            yield judge_times(times)


def judge_rows(seen: Sequence[Mixing]) -> Finding:
    """Whether an output depends on other examples; pure."""
    worst = max(seen, key=lambda mixing: mixing.untouched / mixing.tolerance)
    evidence = {"untouched": worst.untouched, "touched": worst.touched, "rows": worst.rows}
    if worst.untouched <= worst.tolerance:
        if worst.touched <= worst.tolerance:
            message = "Outputs do not change with any input, so that nothing is said about rows that mix."
            return Finding(NAME, Severity.INFO, message, "", evidence)
        message = f"Outputs of {worst.rows} examples in evaluation mode stay as they are when the others change."
        return Finding(NAME, Severity.OK, message, "", evidence)
    message = (
        f"In evaluation mode the output of an example (what is given to {worst.output}) changes with the other "
        f"examples of its batch: by {worst.untouched:.2g} standard deviations, where 0 is expected"
    )
    if worst.outside:
        message += "; rows are mixed before any module sees them, as in mixup."
        return Finding(NAME, Severity.INFO, message, "", evidence)
    advice = (
        "Look for a view or reshape where a permute is meant, a softmax or mean over dimension 0, batch_first of a "
        "recurrent layer, statistics of the batch computed by hand."
    )
    return Finding(NAME, Severity.WARNING, f"{message}; rows mix first {worst.where}.", advice, evidence)


def judge_times(seen: Sequence[Mixing]) -> Finding:
    """Whether an output depends on later inputs; pure."""
    worst = max(seen, key=lambda mixing: mixing.untouched / mixing.tolerance)
    evidence = {"earlier": worst.untouched, "later": worst.touched, "times": worst.rows}
    if worst.untouched <= worst.tolerance:
        return Finding(NAME, Severity.OK, "Outputs at a time depend on inputs up to that time only.", "", evidence)
    message = f"Outputs change by {worst.untouched:.2g} standard deviations with inputs of later times; 0 is expected."
    advice = (
        "Look for a missing or transposed causal mask, a bidirectional layer, padding on both sides of a convolution."
    )
    return Finding(NAME, Severity.WARNING, message, advice, evidence)
