"""The rule loss-decreases."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, replace
from statistics import fmean
from typing import Any, Literal

import torch
from torch import Tensor

from lightning_rules.exhibit import Curve, Curves, Exhibit, Section
from lightning_rules.monitor import Finding, Monitor, NotApplicable, View
from lightning_rules.watch.loss_history import LossHistory, mean_over_ranks
from lightning_rules.watch.loss_judgements import LossesSeen, judge
from lightning_rules.watch.prior_loss import PriorLoss, prior_loss

SMOOTH = 32


class LossDecreases(Monitor):
    """The training loss falls: below where it started, below what the targets' prior gives away, and it stays down.

    Why: The smoothed training loss is the first thing to look at, and the one that must fall whatever else is wrong.
        A loss that does not fall, climbs, explodes or is NaN has one of a few causes, and each hour of such a run is
        lost. What makes the curve hard to read is noise, and that a loss can fall for a while without anything being
        learned of the inputs: until the network knows how frequent each class is.

    What it does: Keeps the loss of every batch, as `training_step` returns it, on the device; at a look it adds them
        to a history of bounded size (the first 16, the last 128, and up to 128 block means of the whole run), which
        survives a resume. The curve is judged against its noise (the differences of neighbouring block means), its
        own trend (Mann-Kendall) and, where the loss is made of torch's loss functions and of targets that stand in
        the batch, against the loss of the best constant output on four batches: the effective prior, with class
        weights, sampler and label smoothing folded in. It logs `training_loss/smoothed` and `training_loss/noise`.

    Fires when: `non-finite-loss`: the last losses were all NaN or infinite (error; with a GradScaler from 20 on), or
        more than 2% were (warning): the first such batch is named, and whether losses rose before it. `no-progress`:
        every loss of the run is the same number (error); or, after two thirds of the planned batches (of a long plan
        500, or a fifth of it, at most 2,000), the last third of the curve is not below the prior's loss by 0.1% or half
        its noise, and does not fall (warning). `diverging-loss`: it is above 1.5 times its start and the prior's loss
        for a third of the run (warning; error above 3 times and rising); it had fallen and more than half of that is
        lost again for good (warning; told with the epoch if it jumped where one began); it falls below zero faster and
        faster, beyond 100 times its start, or is 10,000 times its start (error). `oscillating-loss`: it jumps up and
        down from step to step by more than half its level, farther and farther, without falling (warning).
        `loss-spikes`: single losses stood far above the rest (information). `loss-decreases`: it fell, or there were
        too few losses to tell (never an alarm). Losses that no constant output can be compared with (adversarial,
        reinforcement, contrastive with moving targets, with further terms) are judged by what no healthy loss does, and
        manual optimisation by NaN alone.

    Under DDP: The mean of the ranks' losses is judged; a loss that is not finite counts on any rank.

    Cost: A microsecond a batch to keep the loss, and about a millisecond at a look; before the first batch up to four
        forward passes of `training_step`, none begun after a second (0.01 s for a two-layer MLP). Nothing waits for
        the device.

    Example:
        >>> from lightning.pytorch import Trainer
        >>> trainer = Trainer(callbacks=[LossDecreases()], logger=False)

    Source: Ng (2018), "Machine Learning Yearning", chapters 28 and 44; Karpathy (2019), "A Recipe for Training Neural
        Networks", step 2, "input-independent baseline".

    Args:
        overhead: Share of the training time that all monitors of a run may take together, above 0 and below 1.
        on_error: ``"warn"`` or ``"raise"``; see :class:`~lightning_rules.Rule`.
    """

    name = "loss-decreases"
    source = (
        'Ng (2018), "Machine Learning Yearning", chapters 28 and 44; Karpathy (2019), "A Recipe for Training Neural '
        'Networks", step 2, "input-independent baseline"'
    )
    kind = "check"
    aspects = ("non-finite-loss", "no-progress", "diverging-loss", "oscillating-loss", "loss-spikes", "loss-decreases")

    def __init__(self, overhead: float = 0.03, on_error: Literal["warn", "raise"] = "warn") -> None:
        super().__init__(overhead, on_error)

    def _forget(self) -> None:
        super()._forget()
        self._history = LossHistory()
        self._prior: PriorLoss | None = None
        self._kept: list[tuple[Tensor | None, int]] = []
        self._trainer: Any = None
        self._module: Any = None

    def start(self, view: View) -> None:
        """Measure the prior's loss, unless the run is resumed and has it already."""
        self._trainer, self._module = view.trainer, view.module
        if self._history.batches == 0 and view.trainer.global_step == 0 and self._is_automatic():
            self._prior = prior_loss(view)

    def _is_automatic(self) -> bool:
        return bool(self._module.automatic_optimization)

    def each_batch(self, outputs: Any) -> None:
        """Keep the loss, which Lightning has divided by the number of accumulated batches."""
        loss = outputs.get("loss") if isinstance(outputs, Mapping) else outputs
        self._kept.append((loss if isinstance(loss, Tensor) else None, self._trainer.accumulate_grad_batches))

    def readings(self) -> list[Tensor | float | None]:
        """The losses since the last look."""
        kept, self._kept = self._kept, []
        return together(kept, self._is_automatic())

    def take(self, readings: list[Tensor | float | None]) -> LossesSeen:
        """Add the losses to the history."""
        self._history.add(values_of(readings))
        if self._last_look and self._history.losses + self._history.not_finite == 0:
            raise NotApplicable("training_step returns no loss.")
        return self._seen()

    def _seen(self) -> LossesSeen:
        trainer = self._trainer
        per_epoch = float(trainer.num_training_batches)
        epochs = trainer.max_epochs if trainer.max_epochs not in (None, -1) else math.inf
        steps = trainer.max_steps if trainer.max_steps != -1 else math.inf
        planned = min(per_epoch * epochs, steps * trainer.accumulate_grad_batches)
        return LossesSeen(
            history=replace(self._history),
            prior=self._prior,
            planned=self._history.batches if self._last_look else planned,
            epoch_batches=per_epoch,
            automatic=self._is_automatic(),
            scaled=getattr(trainer.precision_plugin, "scaler", None) is not None,
            ended=self._last_look,
        )

    def judge(self, ranks: Sequence[LossesSeen]) -> Iterable[Finding]:
        """Judge the mean curve of the ranks."""
        return judge_ranks(ranks)

    def exhibits(self) -> list[Exhibit]:
        """The training loss, and what always answering the prior costs."""
        history = self._history
        places = [(number + 0.5) * history.block for number in range(len(history.means))]
        if not places:
            return []
        curves = [Curve("training loss", places, history.means, "train")]
        if self._prior is not None:
            curves.append(Curve("the prior alone", [places[0], places[-1]], [self._prior.mean] * 2))
        caption = "Means of equally many batches; below the prior's line something is learned of the inputs."
        content = Curves(curves, "training batch", "loss as training_step returns it")
        return [Exhibit("training_loss", Section.CURVES, "Training loss", caption, content, self.aspects)]

    def scalars(self) -> dict[str, float]:
        """The level of the latest losses, and the standard deviation around it."""
        recent = self._history.recent[-SMOOTH:]
        if not recent:
            return {}
        level = fmean(recent)
        noise = fmean((loss - level) ** 2 for loss in recent) ** 0.5
        return {"training_loss/smoothed": level, "training_loss/noise": noise}

    def _release(self) -> None:
        super()._release()
        self._kept, self._trainer, self._module = [], None, None

    def state_dict(self) -> dict[str, Any]:
        """The history with the losses since the last look, and the prior's loss."""
        prior = None if self._prior is None else asdict(self._prior)
        history = LossHistory.of(self._history.state())
        if self._kept:
            history.add(values_of(together(self._kept, self._is_automatic())))
        return {**super().state_dict(), "history": history.state(), "prior": prior}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """The inverse of :meth:`state_dict`."""
        super().load_state_dict(state_dict)
        self._history = LossHistory.of(state_dict["history"])
        self._prior = None if state_dict["prior"] is None else PriorLoss(**state_dict["prior"])


def together(kept: Sequence[tuple[Tensor | None, int]], automatic: bool) -> list[Tensor | float | None]:
    """Losses as they were returned: a tensor ``[batches]`` and one of factors; or, where they differ, one by one."""
    factors = [float(count) if automatic else 1.0 for _, count in kept]
    losses = [loss for loss, _ in kept if loss is not None]
    kinds = {(loss.shape, loss.dtype, loss.device) for loss in losses}
    if len(losses) == len(kept) and len(kinds) == 1 and losses[0].dim() == 0:
        return [torch.stack(losses).detach().float(), torch.tensor(factors)]
    return [
        None if loss is None or loss.numel() == 0 else loss.detach().float().mean() * factor
        for (loss, _), factor in zip(kept, factors, strict=True)
    ]


def values_of(readings: Sequence[Tensor | float | None]) -> list[float | None]:
    """The inverse on the host: one loss a batch, None where there was none."""
    if readings and isinstance(readings[0], Tensor) and readings[0].dim() == 1:
        losses, factors = (reading.tolist() for reading in readings if isinstance(reading, Tensor))
        return [loss * factor for loss, factor in zip(losses, factors, strict=True)]
    return [None if value is None else float(value) for value in readings]


def judge_ranks(ranks: Sequence[LossesSeen]) -> list[Finding]:
    """Findings on the mean of the ranks' losses; pure."""
    priors = [rank.prior for rank in ranks if rank.prior is not None]
    prior = None
    if len(priors) == len(ranks):
        error = sum(one.error**2 for one in priors) ** 0.5 / len(priors)
        prior = PriorLoss(fmean(one.mean for one in priors), error)
    return judge(replace(ranks[0], history=mean_over_ranks([rank.history for rank in ranks]), prior=prior))
