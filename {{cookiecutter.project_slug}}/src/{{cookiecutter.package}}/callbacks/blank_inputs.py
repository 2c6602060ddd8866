"""The rule blank-inputs: an example of a rule of your own. Copy it, change it, or delete it with its test."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

from torch import Tensor

from lightning_rules import Finding, Rule, Severity
from lightning_rules.rule import NotApplicable
from lightning_rules.view import View

NAME = "blank-inputs"


class BlankInputs(Rule):
    """No training example is blank, that is, of one value throughout.

    Why: A blank example says nothing of its class, and teaches the network to guess. It comes of unreadable files,
        of crops that miss the object, of a scaling that rounds everything to zero.

    What it does: Looks at the inputs of the first training batches as they enter the network, before the first step.

    Fires when: A single example has the same value everywhere (warning).

    Under DDP: Each rank looks at its own batches; the counts are added.

    Cost: Loads the first batches once more; no trace is left.

    Example:
        >>> from lightning.pytorch import Trainer
        >>> trainer = Trainer(callbacks=[BlankInputs(batches=5)], logger=False)

    Source: Hui (2018), "How to start a deep learning project", cleaning the data.

    Args:
        batches: How many training batches to look at, at least 1.
        on_error: What an error does, ``"warn"`` or ``"raise"``; this rule only warns.
    """

    name = NAME
    source = 'Hui (2018), "How to start a deep learning project", cleaning the data.'
    kind = "check"

    def __init__(self, batches: int = 10, on_error: Literal["warn", "raise"] = "warn") -> None:
        super().__init__(on_error)
        if batches < 1:
            raise ValueError(f"Expected `batches` to be at least 1, but got {batches}; give the number to look at.")
        self.batches = batches

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        """Look at the first batches."""
        view = View(trainer, pl_module)
        self.observe(trainer, lambda: self._measure(view), judge_counts)

    def _measure(self, view: View) -> tuple[int, int]:
        counts = view.batches(self.batches, lambda batch: count_blank(view.split(batch)[0]))
        return sum(examples for examples, _ in counts), sum(blank for _, blank in counts)


def count_blank(inputs: Any) -> tuple[int, int]:
    """Count the examples of a batch [N, ...], and those of one value throughout."""
    if not isinstance(inputs, Tensor) or inputs.dim() < 2:
        raise NotApplicable("the inputs are not one tensor with several values an example.")
    values = inputs.flatten(1)
    return len(values), int((values.amin(1) == values.amax(1)).sum())


def judge_counts(ranks: Sequence[tuple[int, int]]) -> list[Finding]:
    """Judge the counts of all ranks, each (examples, blank examples)."""
    examples, blank = sum(counts[0] for counts in ranks), sum(counts[1] for counts in ranks)
    message = f"{blank} of the first {examples} training examples are blank; expected none."
    evidence = {"examples": examples, "blank": blank}
    if blank == 0:
        return [Finding(NAME, Severity.OK, message, evidence=evidence)]
    advice = "Look at the inputs of the first batches, and at what your transforms make of them."
    return [Finding(NAME, Severity.WARNING, message, advice, evidence)]
