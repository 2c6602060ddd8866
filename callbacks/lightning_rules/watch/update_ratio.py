"""The rule update-ratio."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from typing import Any, Literal

import torch
from torch import Tensor

from lightning_rules.monitor import Finding, Monitor, NotApplicable, Sample, View
from lightning_rules.shards import refuse_shards
from lightning_rules.watch.update_pace import Pace, planned_steps, rates_of, share_done, waits_for_progress
from lightning_rules.watch.updates import ENDED, ENDS_EARLY, LARGE, SMALL, STILL, UpdatesSeen, judge_updates, still_now
from lightning_rules.watch.weight_steps import WeightSteps

LOGGED = 30  # weights


class UpdateRatio(Monitor):
    """A step changes each weight by about a thousandth of its size.

    Why: The ratio of update to weight tells the learning rate's effect whatever the optimiser, the loss and the scale
        of the layer. Steps as large as the weights wipe out the initialisation and kill units; steps a hundred times
        too small leave a network where it began.

    What it does: It measures some steps of each optimiser, the first of a sampled batch: the mean absolute change of
        each weight over its mean absolute size, from the parameters before and after. Of each weight an even sample of
        at most 4,096 elements is looked at. Judged is the median of 8 measured steps. Biases, norms, embeddings and
        what an optimiser holds but does not train are not judged, nor are steps of L-BFGS too large: it seeks their
        length itself. It logs `update_ratio/LAYER` for up to 30 weights.

    Fires when: `updates-too-large`: a step changes half of the weights by more than a fifth of their size, beyond the
        first steps (by more than a tenth is only told), or half of them grow eightfold within the first 200 (warning).
        `updates-too-small`: no weight has been changed by more than a hundred-thousandth of its size a step, at the
        largest rate so far, and at that pace the whole run would change none by more than a few per cent (warning).
        `rate-ends-early`: the learning rate has been below a thousandth of its peak for more than half of the planned
        run, and not because a scheduler waited for progress (warning). `weights-never-move`: weights that have a
        gradient and a rate are exactly what they were 200 steps before, or no measured step has changed any (warning).

    Under DDP: Replicas take the same steps: rank 0's numbers are judged. Strategies that shard the parameters: does not
        apply.

    Cost: Nothing between sampled batches. A measured step takes 70 us more for a two-layer MLP of 64-128-10 and 0.9 ms
        for a ResNet-18, on one core; a look 50 us and 0.6 ms. It keeps 256 elements of each parameter, and 4,096 of
        each weight for the time of a measured step.

    Example:
        >>> from lightning.pytorch import Trainer
        >>> trainer = Trainer(callbacks=[UpdateRatio()], logger=False)

    Source: Karpathy (2015), "CS231n: Convolutional Neural Networks for Visual Recognition", Neural Networks Part 3,
        ratio of weights:updates.

    Args:
        overhead: Share of the training time that all monitors of a run may take together, above 0 and below 1; the
            least of all monitors counts.
        on_error: ``"warn"`` or ``"raise"``; nothing that this rule says is an error.

    Raises:
        ValueError: An argument is out of its range.
    """

    name = "update-ratio"
    source = (
        'Karpathy (2015), "CS231n: Convolutional Neural Networks for Visual Recognition", Neural Networks Part 3, '
        "ratio of weights:updates"
    )
    kind = "check"
    aspects = (LARGE, SMALL, ENDS_EARLY, STILL)

    def __init__(self, overhead: float = 0.03, on_error: Literal["warn", "raise"] = "warn") -> None:
        super().__init__(overhead, on_error)

    def _forget(self) -> None:
        super()._forget()
        self._trainer: Any = None
        self._planned = float("inf")
        self._watches: dict[int, WeightSteps] = {}  # by place in `trainer.optimizers`
        self._waiting: set[int] = set()  # places of optimisers whose next step is measured
        self._hooks: dict[int, list[Any]] = {}  # on those and, until it can be taken away, on some that have stepped
        self._seen: list[Any] = []
        self._paces: dict[int, Pace] = {}
        self._alive = 0.0  # share of the planned run that had passed when the rate was last alive

    def start(self, view: View) -> None:
        """Refuse runs without an optimiser that can be watched."""
        refuse_shards(view.trainer)
        if not any(hasattr(optimizer, "register_step_pre_hook") for optimizer in view.trainer.optimizers):
            raise NotApplicable("the run has no optimiser of torch.")
        self._trainer = view.trainer
        self._planned = planned_steps(view.trainer)

    def before(self, sample: Sample) -> None:
        """Wait for the next step of each optimiser; where gradients accumulate it comes with a later batch."""
        for place, optimizer in enumerate(sample.trainer.optimizers):
            if not hasattr(optimizer, "register_step_pre_hook"):
                continue
            self._waiting.add(place)
            if place not in self._hooks:
                self._hooks[place] = [
                    optimizer.register_step_pre_hook(partial(self._step_begins, place, sample.module)),
                    optimizer.register_step_post_hook(partial(self._step_ends, place)),
                ]

    def after(self, sample: Sample, outputs: Any) -> None:
        """Take the hooks away from the optimisers that have stepped."""
        self._let_go(self._hooks.keys() - self._waiting)

    def _step_begins(self, place: int, module: Any, optimizer: Any, *arguments: Any) -> None:
        if place in self._waiting:
            self._guarded(self._look_before, place, module, optimizer)

    def _step_ends(self, place: int, optimizer: Any, *arguments: Any) -> None:
        if place in self._waiting:
            self._waiting.discard(place)  # the hook itself stays: torch is running through all of them
            self._guarded(self._look_after, place, optimizer)

    @torch.no_grad()
    def _look_before(self, place: int, module: Any, optimizer: Any) -> None:
        watch = self._watches.get(place)
        if watch is None or not watch.holds(optimizer):
            watch = self._watches[place] = WeightSteps(optimizer, module, self._trainer.global_step)
        watch.before()

    @torch.no_grad()
    def _look_after(self, place: int, optimizer: Any) -> None:
        watch = self._watches[place]
        change = watch.after(optimizer)
        if change is not None:
            kind, step = type(optimizer).__name__, self._trainer.global_step
            self._seen.append(
                (place, kind, step, watch.judged, *change, rates_of(optimizer), share_done(self._trainer))
            )

    def _let_go(self, places: Iterable[int]) -> None:
        for place in list(places):
            for hook in self._hooks.pop(place):
                hook.remove()

    @torch.no_grad()
    def readings(self) -> Any:
        """Measured steps since the last look, and how far each parameter is from where it was at first."""
        seen, self._seen = self._seen, []
        step, several = self._trainer.global_step, len(self._trainer.optimizers)
        moved = [
            (watch.watched, list(watch.reached), watch.farthest(), watch.steps, (step - watch.began) // several)
            for watch in self._watches.values()
        ]
        return seen, moved, None if waits_for_progress(self._trainer) else share_done(self._trainer)

    def take(self, readings: Any) -> UpdatesSeen:
        """Add the measured steps to the windows."""
        seen, moved, done = readings
        for place, kind, step, weights, changes, sizes, rates, share in seen:
            pace = self._paces.setdefault(place, Pace(kind))
            pace.add(weights, _numbers(changes), _numbers(sizes), [[*map(float, group)] for group in rates], step)
            if share is not None and pace.rates[-1] >= ENDED * pace.peak:
                self._alive = max(self._alive, share)
        still: tuple[list[str], list[str]] = ([], [])
        for watched, reached, farthest, steps, since in moved:
            for names, more in zip(still, still_now(watched, reached, _numbers(farthest), steps, since), strict=True):
                names += more
        count = sum(len(watched) for watched, *_ in moved)
        return UpdatesSeen(list(self._paces.values()), self._planned, self._alive, done, (*still, count))

    def judge(self, ranks: Sequence[UpdatesSeen]) -> Iterable[Finding]:
        """See :func:`judge_updates`."""
        return judge_updates(ranks[0])

    def scalars(self) -> Mapping[str, float]:
        """The ratio of each weight, the median of the window."""
        pairs = [
            (name.removesuffix(".weight"), ratio)
            for pace in self._paces.values()
            for name, ratio in zip(pace.names, pace.usual_ratios, strict=False)
        ]
        return {f"update_ratio/{name}": ratio for name, ratio in pairs[:LOGGED]}

    def _release(self) -> None:
        super()._release()
        self._let_go(self._hooks)
        self._waiting = set()
        self._trainer, self._watches, self._seen = None, {}, []

    def state_dict(self) -> dict[str, Any]:
        """Findings, and the pace of each optimiser."""
        paces = {place: pace.state() for place, pace in self._paces.items()}
        return {**super().state_dict(), "paces": paces, "alive": self._alive}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """The inverse of :meth:`state_dict`."""
        super().load_state_dict(state_dict)
        self._paces = {place: Pace.of(state) for place, state in state_dict["paces"].items()}
        self._alive = state_dict["alive"]


def _numbers(parts: Sequence[Tensor]) -> list[float]:
    """The numbers of tensors on the host, one after the other."""
    return [number for part in parts for number in part.tolist()]
