"""Notices training data that was not shuffled. An example of a rule of your own: copy it, or change it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import torch

from lightning_rules import Finding, Rule, Severity
from lightning_rules.rule import NotApplicable

Numbers = tuple[int, int, int, int]


class OneClassBatches(Rule):
    """Most training batches hold examples of one class only.

    Why:
        Each step then follows the gradient of one class and undoes the step before; batch norm sees the
        statistics of one class. It happens where files are read class by class and nobody shuffles.

    What it does:
        Looks at the labels of every training batch of the first epoch.

    Fires when:
        More than `share` of the batches hold a single class although the epoch holds several. Two classes
        of equal size, shuffled, in batches of 8, give a share of 1/128.

    Under DDP:
        The batches of all ranks are counted together.

    Cost:
        Three reductions over the labels a step, in the first epoch; no synchronisation before its end.

    Example:
        ``Trainer(callbacks=[OneClassBatches()])``

    Source:
        Hui 2018, How to start a deep learning project: shuffle the examples in each batch.

    Args:
        share: The largest share of one-class batches that is no alarm, from 0 to below 1.
        on_error: What an error does: "warn" or "raise".

    Raises:
        ValueError: `share` is out of range.
    """

    name = "one-class-batches"
    source = "Hui 2018, How to start a deep learning project"
    kind = "check"

    def __init__(self, share: float = 0.5, on_error: Literal["warn", "raise"] = "warn") -> None:
        super().__init__(on_error)
        if not 0 <= share < 1:
            raise ValueError(f"Expected `share` to be from 0 to below 1, but got {share}.")
        self.share = share
        self._lowest: list[torch.Tensor] = []
        self._highest: list[torch.Tensor] = []

    def on_train_epoch_start(self, trainer: Any, pl_module: Any) -> None:
        """Start afresh, also after a fit that was interrupted."""
        self._lowest, self._highest = [], []

    def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:
        """Note the lowest and the highest label of a batch; equal means one class."""
{% if cookiecutter.task == 'sequence-classification' %}
        labels = batch["y"]
{% else %}
        _, labels = batch
{% endif %}
        if trainer.current_epoch == 0 and len(labels) > 1:
            self._lowest.append(labels.min())
            self._highest.append(labels.max())

    def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None:
        """Judge the first epoch."""
        if trainer.current_epoch == 0:
            self.observe(trainer, self._measure, lambda ranks: [judge_batches(ranks, self.share)])

    def _measure(self) -> Numbers:
        if not self._lowest:
            raise NotApplicable("every batch holds a single example.")
        lowest, highest = torch.stack(self._lowest), torch.stack(self._highest)
        return len(lowest), int((lowest == highest).sum()), int(lowest.min()), int(highest.max())


def judge_batches(ranks: Sequence[Numbers], share: float) -> Finding:
    """Judge the numbers of all ranks: batches, those with one class, the lowest and the highest label."""
    batches, single = sum(numbers[0] for numbers in ranks), sum(numbers[1] for numbers in ranks)
    several = min(numbers[2] for numbers in ranks) < max(numbers[3] for numbers in ranks)
    seen = f"{single} of {batches} training batches hold examples of one class only"
    evidence = {"batches": batches, "one_class_batches": single}
    if several and single > share * batches:
        message = f"{seen}; expected at most {share:.0%}."
        advice = "Shuffle the training data: set `shuffle=True` in its DataLoader."
        return Finding(OneClassBatches.name, Severity.WARNING, message, advice, evidence)
    return Finding(OneClassBatches.name, Severity.OK, f"{seen}.", evidence=evidence)
