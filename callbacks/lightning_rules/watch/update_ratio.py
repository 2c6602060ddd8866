"""The rule update-ratio."""

from __future__ import annotations

import weakref
from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from typing import Any, Literal

import torch

from lightning_rules.monitor import Finding, Monitor, NotApplicable, Sample, View
from lightning_rules.shards import refuse_shards
from lightning_rules.watch.epoch_openings import Between
from lightning_rules.watch.idle_weights import GradientTally, at_rate_zero, fresh_at_zero, idle_of
from lightning_rules.watch.optimiser_changes import Held, freezes_by_plan, remembers
from lightning_rules.watch.update_pace import Pace, planned_steps, rates_of, share_done, waits_for_progress
from lightning_rules.watch.updates import ASPECTS, ENDED, Progress, UpdatesSeen, judge_updates, still_now
from lightning_rules.watch.weight_steps import WeightSteps, numbers

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
        gradient and a rate are exactly what they were 200 steps before, or no measured step has changed any; or, after
        a third of the run, weights with gradients have never moved since their optimiser was never stepped, or since
        their group's rate is 0 while they still hold the numbers that torch drew (warning). `weights-overwritten`:
        most weights are drawn anew or put back to the first ones at the start of two epochs, or four fifths of each
        step are undone before the next begins (warning). `warm-up-repeats`: the rate falls back to where the run began
        at the start of each epoch, two at least (warning). `optimiser-replaced`: the Trainer holds a new optimiser
        with momentum at nearly every sampled batch (warning). `frozen-midway`: most weights of an optimiser were
        frozen within the first third of the run and are for two fifths of it (warning; else for a person's eye; not
        where a callback freezes by a plan).

    Under DDP: Replicas take the same steps: rank 0's numbers are judged. Strategies that shard the parameters: does not
        apply.

    Cost: Nothing between sampled batches but two idle hooks. A measured step takes 70 us more for a two-layer MLP of
        64-128-10 and 0.9 ms for a ResNet-18, on one core; what is left of the first 24 of them, 35 us and 0.3 ms; an
        epoch 0.15 ms and 1.7 ms; a look 50 us and 0.6 ms. It keeps 256 elements of each parameter, twice between two
        epochs, and 4,096 of each weight from a measured step to the next step.

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
    aspects = ASPECTS

    def __init__(self, overhead: float = 0.03, on_error: Literal["warn", "raise"] = "warn") -> None:
        super().__init__(overhead, on_error)

    def _forget(self) -> None:
        super()._forget()
        self._trainer: Any = None
        self._planned = float("inf")
        self._watches: dict[int, WeightSteps] = {}  # by place in `trainer.optimizers`
        self._waiting: set[int] = set()  # places of optimisers whose next step is measured
        self._hooks: dict[int, tuple[Any, list[Any]]] = {}  # each optimiser that is waited for, with the hooks on it
        self._seen: list[Any] = []
        self._paces: dict[int, Pace] = {}
        self._alive = 0.0  # share of the planned run that had passed when the rate was last alive,
        self._dead: float | None = None  # and when it was last seen to be gone
        self._between = Between()
        self._held: dict[int, Held] = {}
        self._objects: dict[int, weakref.ref[Any]] = {}  # the optimisers at the last sample
        self._stepped: set[int] = set()  # places of optimisers that have been stepped
        self._tallies: dict[int, GradientTally] = {}
        self._batches = 0  # up to the last sampled one
        self._fresh: set[int] = set()

    def start(self, view: View) -> None:
        """Refuse runs without an optimiser that can be watched."""
        refuse_shards(view.trainer)
        if not any(hasattr(optimizer, "register_step_pre_hook") for optimizer in view.trainer.optimizers):
            raise NotApplicable("the run has no optimiser of torch.")
        self._trainer = view.trainer
        self._planned = planned_steps(view.trainer)
        self._fresh = fresh_at_zero(view.trainer.optimizers, view.module)

    def before(self, sample: Sample) -> None:
        """Wait for the next step of each optimiser; where gradients accumulate it comes with a later batch."""
        self._batches = sample.batch_number + 1
        for place, optimizer in self._watchable():
            self._waiting.add(place)
            self._remember_object(place, optimizer)
            self._hook(place, optimizer, sample.module)
            if place not in self._watches:
                self._watches[place] = WeightSteps(optimizer, sample.module, self._trainer.global_step)

    def after(self, sample: Sample, outputs: Any) -> None:
        """Take the hooks away from the optimisers that have stepped and are not waited for."""
        self._count_gradients(set(self._watches) - self._stepped)
        paired = {place for place, watch in self._watches.items() if watch.is_paired}
        self._let_go(self._hooks.keys() - self._waiting - paired - self._between.opening)

    def on_train_epoch_start(self, trainer: Any, pl_module: Any) -> None:
        """Wait for the first step of the epoch."""
        if self._active:
            self._guarded(self._epoch_starts, pl_module)

    def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None:
        """Remember rates and samples of the weights until the next epoch's first step."""
        if self._active:
            self._guarded(self._between.epoch_ends, self._watchable(), self._watches)

    def _epoch_starts(self, module: Any) -> None:
        for place, optimizer in self._watchable():
            self._between.opening.add(place)
            self._hook(place, optimizer, module)

    def _watchable(self) -> list[tuple[int, Any]]:
        return [
            (place, optimizer)
            for place, optimizer in enumerate(self._trainer.optimizers)
            if hasattr(optimizer, "register_step_pre_hook")
        ]

    def _hook(self, place: int, optimizer: Any, module: Any) -> None:
        if place in self._hooks and self._hooks[place][0] is not optimizer:
            self._let_go([place])
        if place not in self._hooks:
            begins, ends = partial(self._step_begins, place, module), partial(self._step_ends, place)
            handles = [optimizer.register_step_pre_hook(begins), optimizer.register_step_post_hook(ends)]
            self._hooks[place] = optimizer, handles

    def _remember_object(self, place: int, optimizer: Any) -> None:
        held = self._held.setdefault(place, Held(type(optimizer).__name__, remembers(optimizer)))
        if place in self._objects:  # else it is the first sample, of the run or after a resume
            held.sampled(is_new=self._objects[place]() is not optimizer)
        self._objects[place] = weakref.ref(optimizer)

    def _step_begins(self, place: int, module: Any, optimizer: Any, *arguments: Any) -> None:
        if place in self._between.opening:
            self._guarded(self._between.first_step, place, optimizer, self._watches.get(place))
        watch = self._watches.get(place)
        if watch is not None and watch.is_paired:
            self._guarded(self._between.next_step, place, watch)
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
            lost = [] if watch is None else watch.frozen(optimizer)
            watch = self._watches[place] = WeightSteps(optimizer, module, self._trainer.global_step)
            self._held[place].freezes(lost, [one.name for one in watch.judged], share_done(self._trainer))
        self._stepped.add(place)
        self._count_gradients((set(self._watches) - self._stepped) | ({place} if at_rate_zero(optimizer) else set()))
        watch.before()

    @torch.no_grad()
    def _count_gradients(self, places: Iterable[int]) -> None:
        for place in places:
            if place not in self._tallies or self._tallies[place].watch is not self._watches[place]:
                self._tallies[place] = GradientTally(self._watches[place])
            self._tallies[place].look()

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
            for hook in self._hooks.pop(place)[1]:
                hook.remove()

    @torch.no_grad()
    def readings(self) -> Any:
        """Measured steps since the last look, and how far each parameter is from where it was at first."""
        seen, self._seen = self._seen, []
        step, several = self._trainer.global_step, len(self._trainer.optimizers)
        moved = [
            (watch, list(watch.reached), watch.farthest(), watch.steps, (step - watch.began) // several)
            for watch in self._watches.values()
        ]
        idle = [
            (self._held[place].kind, tally.watch, self._zero(place), tally.watch.farthest(), tally.reading())
            for place, tally in self._tallies.items()
        ]
        return seen, moved, self._between.readings(), idle, share_done(self._trainer)

    def _zero(self, place: int) -> set[int] | None:
        """The groups at rate 0; None where the optimiser was never stepped."""
        return set(at_rate_zero(self._trainer.optimizers[place])) if place in self._stepped else None

    def take(self, readings: Any) -> UpdatesSeen:
        """Add the measured steps to the windows."""
        seen, moved, between, tallies, done = readings
        for place, kind, step, weights, changes, sizes, rates, share in seen:
            pace = self._paces.setdefault(place, Pace(kind))
            pace.add(weights, numbers(changes), numbers(sizes), [[*map(float, group)] for group in rates], step)
            self._follow_rate(pace, share)
        self._between.take(between, self._held)
        still: tuple[list[str], list[str]] = ([], [])
        for watch, reached, farthest, steps, since in moved:
            found = still_now(watch.watched, reached, numbers(farthest), steps, since)
            for names, more in zip(still, found, strict=True):
                names += more
        count = sum(len(watch.watched) for watch, *_ in moved)
        idle = [idle_of(kind, watch, zero, numbers(far), had, self._fresh) for kind, watch, zero, far, had in tallies]
        progress = Progress(self._batches, done, self._last_look, freezes_by_plan(self._trainer))
        return UpdatesSeen(
            list(self._paces.values()), self._planned, self._alive, self._dead, (*still, count),
            list(self._between.courses.values()), idle, list(self._held.values()), progress,
        )  # fmt: skip

    def _follow_rate(self, pace: Pace, share: float | None) -> None:
        """Remember when the rate was last alive, and when it was last seen to be gone; a plateau's wait is none."""
        if share is None:
            return
        if pace.rates[-1] >= ENDED * pace.peak:
            self._alive, self._dead = max(self._alive, share), None
        elif not waits_for_progress(self._trainer):
            self._dead = share

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
        self._trainer, self._watches, self._tallies, self._objects, self._seen = None, {}, {}, {}, []
        self._between.forget()

    def state_dict(self) -> dict[str, Any]:
        """Findings, and what was seen of each optimiser."""
        return {
            **super().state_dict(),
            "paces": {place: pace.state() for place, pace in self._paces.items()},
            "alive": self._alive,
            "held": {place: vars(one).copy() for place, one in self._held.items()},
            "between": self._between.state(),
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """The inverse of :meth:`state_dict`."""
        super().load_state_dict(state_dict)
        self._paces = {place: Pace.of(state) for place, state in state_dict["paces"].items()}
        self._alive = state_dict["alive"]
        self._held = {place: Held(**known) for place, known in state_dict["held"].items()}
        self._between.restore(state_dict["between"])
