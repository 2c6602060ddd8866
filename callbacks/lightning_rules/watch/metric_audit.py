"""The rule metric-audit."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any, Literal

import torch
from torch import nn

from lightning_rules.answers import AnswerWatch
from lightning_rules.finding import Finding
from lightning_rules.idle_hooks import rest, wake
from lightning_rules.monitor import Monitor, NotApplicable, View
from lightning_rules.watch.metric_direction import MONITOR_MODE, judge_modes, watchers
from lightning_rules.watch.metric_findings import (
    LAST_BATCH,
    OF_BATCHES,
    PADDED,
    UNSYNCHRONISED,
    WRONG,
    MetricsSeen,
    judge,
)
from lightning_rules.watch.metric_numbers import Collected, Sums, Validation, summary

BATCH_HOOK = "on_validation_batch_end"
KEPT = 4  # validations that are remembered


class MetricAudit(Monitor):
    """The number that a run is judged by is the number it says it is.

    Why: A metric is believed, and chosen by: one that is taken from the last batch alone, or that a callback waits for
        at the wrong end, spoils every decision that follows, and the run itself looks healthy.

    What it does: In the 1st, 2nd, 4th, 8th, ... validation a hook on the last layer hears what the network answers,
        and accuracy, cross-entropy or errors are reckoned from it on the device: of each batch, of the last one, of
        the whole set. At the end of the validation each metric that the run's own code has logged is compared with
        them, in the usual forms (error rate, per cent, perplexity, root). Callbacks and schedulers with a ``monitor``
        are asked for their ``mode``. That validation data are training data is told by ``data-audit`` (``no-leak``).

    Fires when: A logged metric equals the last batch's in at least two audited validations and the whole set's not
        (``metric-of-the-last-batch``, error); a callback or scheduler waits for the minimum of an accuracy or the
        maximum of a loss (``monitor-mode``); what calls itself accuracy is, in two validations, further than 5
        standard errors and 0.05 from the share of right answers, the mean over classes and all others known
        (``wrong-metric``); a monitored metric differs between ranks (``unsynchronised-metric``). For a person's eye:
        batches of unlike size counted alike (``metric-of-batches``), examples that a sampler repeats to fill the ranks
        (``padded-metric``).

    Under DDP: Each rank reckons its own share; a metric may be a rank's own, pooled or averaged.

    Cost: A few sums over the outputs of each batch (0.2 ms for 32 rows of 10 classes on one busy core), in the
        validations named above alone; one training step at the start, which all rules that hear answers share.

    Example:
        >>> from lightning.pytorch import Trainer
        >>> trainer = Trainer(callbacks=[MetricAudit()], logger=False)

    Source: Karpathy (2019), "A Recipe for Training Neural Networks", section 2

    Args:
        overhead: Share of the training time that all monitors may take together.
        on_error: ``"warn"`` or ``"raise"``; see :class:`~lightning_rules.Rule`.
    """

    name = "metric-audit"
    source = 'Karpathy (2019), "A Recipe for Training Neural Networks", section 2'
    kind = "check"
    aspects = (MONITOR_MODE, LAST_BATCH, OF_BATCHES, WRONG, UNSYNCHRONISED, PADDED)

    def __init__(self, overhead: float = 0.03, on_error: Literal["warn", "raise"] = "warn") -> None:
        super().__init__(overhead, on_error)

    def _forget(self) -> None:
        super()._forget()
        self._number = 0  # of validations
        self._monitored: tuple[str, ...] = ()
        self._padding: tuple[int, int] | None = None
        self._validations: tuple[Validation, ...] = ()
        self._values: dict[str, float] = {}
        self._fresh: list[Any] = []
        self._monitored_now: dict[str, Any] = {}
        self._let_go()

    def _let_go(self) -> None:
        self._watch: AnswerWatch | None = None
        self._plain = False
        self._collected: Collected | None = None
        self._before: dict[str, Any] = {}

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        """Judge what callbacks and schedulers wait for, then begin as every monitor."""
        self.observe(trainer, lambda: watchers(trainer), lambda ranks: judge_modes(ranks[0]))
        super().on_train_start(trainer, pl_module)

    def start(self, view: View) -> None:
        """Find the layer that answers; without one, only monitored metrics are compared between ranks."""
        rest(self, BATCH_HOOK)
        loaders = view.validation_loaders
        if not loaders:
            raise NotApplicable("there is no validation.")
        self._monitored = tuple(dict.fromkeys(one.monitor for one in watchers(view.trainer)))
        self._padding = _padding(loaders) if view.trainer.world_size > 1 else None
        try:
            self._watch = AnswerWatch(view) if len(loaders) == 1 else None
        except NotApplicable:
            if view.trainer.world_size == 1:
                raise
        if self._watch is None and view.trainer.world_size == 1:
            raise NotApplicable("there are several validation loaders.")
        if self._watch is not None:
            layer = view.module.get_submodule(self._watch.head)
            self._plain = isinstance(layer, (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d))

    def on_validation_start(self, trainer: Any, pl_module: Any) -> None:
        """Hear the answers of this validation, where it is to be audited."""
        if self._active and not trainer.sanity_checking:
            self._guarded(self._open, trainer)

    def _open(self, trainer: Any) -> None:
        self._number += 1
        if self._watch is None or self._number & (self._number - 1):
            return
        self._collected = Collected(self._number, self._watch.kind, self._plain)
        self._before = dict(trainer.callback_metrics)
        self._watch.attach()
        wake(self, BATCH_HOOK)

    def on_validation_batch_end(
        self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        """Add up a batch."""
        self._guarded(self._add, batch)

    def _add(self, batch: Any) -> None:
        if self._watch is not None and self._collected is not None:
            self._collected.add(self._watch.answers(batch))

    def on_validation_end(self, trainer: Any, pl_module: Any) -> None:
        """Take the numbers that the run's own code has logged."""
        if self._active and not trainer.sanity_checking:
            rest(self, BATCH_HOOK)
            self._guarded(self._close, trainer)

    def _close(self, trainer: Any) -> None:
        metrics = trainer.callback_metrics
        if trainer.world_size > 1:
            self._monitored_now = {name: metrics[name].clone() for name in self._monitored if name in metrics}
        if self._watch is None or self._collected is None:
            return
        self._watch.detach()
        fresh = {name: value.clone() for name, value in metrics.items() if value is not self._before.get(name)}
        reading = self._collected.reading({name: value for name, value in fresh.items() if value.numel() == 1})
        self._fresh = self._fresh if reading is None else [*self._fresh[-KEPT:], reading]
        self._collected, self._before = None, {}

    def readings(self) -> Any:
        """What the validations since the last look have given."""
        fresh, self._fresh = self._fresh, []
        return fresh, dict(self._monitored_now)

    def take(self, readings: Any) -> MetricsSeen:
        """The validations that are remembered, in numbers."""
        fresh, values = readings
        self._validations = (*self._validations, *map(summary, fresh))[-KEPT:]
        self._values = {name: float(value) for name, value in values.items()}
        return MetricsSeen(self._validations, self._monitored, self._values, self._padding)

    def judge(self, ranks: Sequence[MetricsSeen]) -> list[Finding]:
        """See :func:`metric_findings.judge`."""
        return judge(ranks)

    def _take_off(self) -> None:
        """Leave no hook on the module."""
        if self._watch is not None:
            self._watch.detach()
        self._let_go()

    def _release(self) -> None:
        super()._release()
        self._take_off()

    def state_dict(self) -> dict[str, Any]:
        """The validations that are remembered, and how many there were."""
        seen = (*self._validations, *map(summary, self._fresh))
        kept = [asdict(one) for one in seen[-KEPT:]]
        return {**super().state_dict(), "number": self._number, "validations": kept}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """The inverse of :meth:`state_dict`."""
        super().load_state_dict(state_dict)
        self._number = state_dict["number"]
        self._validations = tuple(_restored(values) for values in state_dict["validations"])


def _restored(values: Mapping[str, Any]) -> Validation:
    return Validation(**{**values, "sums": {name: Sums(**sums) for name, sums in values["sums"].items()}})


def _padding(loaders: Sequence[Any]) -> tuple[int, int] | None:
    """How many examples a distributed sampler repeats, and how many there are."""
    extra = size = 0
    for loader in loaders:
        sampler = getattr(loader, "sampler", None)
        if isinstance(sampler, torch.utils.data.DistributedSampler):
            size += len(sampler.dataset)  # type: ignore[arg-type]
            extra += max(0, sampler.total_size - len(sampler.dataset))  # type: ignore[arg-type]
    return (extra, size) if size else None
