"""The rule exact-resume."""

from __future__ import annotations

import logging
import os
import warnings
from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from typing import Any, Literal

from lightning_rules.reproduce import loop_position
from lightning_rules.reproduce.loop_position import Hook
from lightning_rules.reproduce.preemption import EXIT_CODE, REQUEUE, TERMINATE, Signals, ended_by_signal, save_last
from lightning_rules.reproduce.rank_state import RankState, gather_ranks, put_back
from lightning_rules.reproduce.resumption import NAME, Resumption, judge, obstacles_of, unfit
from lightning_rules.reproduce.seeded_batches import SeededBatches, is_stateful, obstacle
from lightning_rules.rule import Rule
from lightning_rules.shards import shards
from lightning_rules.stand_ins import stand_in

KEY = "exact_resume"
# Lightning's warning about loaders without a state of their own.
NOT_RESUMABLE = "You're resuming from a checkpoint that ended before the epoch ended"
log = logging.getLogger("lightning_rules")


class ExactResume(Rule):
    """A run that was killed and resumed ends with the same weights, to the last bit, as one that was not.

    Why: A long run is resumed several times. If each time the data begin anew, some examples are seen twice and
        others not at all, schedules and early stopping go another way, and no result can be repeated or compared.
        With Lightning 2.6.6 a run killed in the middle of an epoch goes on with epoch 0's order and other dropout,
        and leaves out a validation or the step of a scheduler, depending on the hook its checkpoint comes from.

    What it does: Each checkpoint that holds the states of callbacks also holds, for every rank: the states of all
        random number generators (Python, NumPy, torch on all devices, those that samplers own), where the training
        loaders stand, gradients accumulated but not yet used, buffers that differ from rank 0's, and the metrics of
        the epoch under way. A run resumed from it, in whatever hook it was saved, carries out what was left of that
        hook and goes on with the next batch. Workers need no memory: their random numbers begin anew with each
        batch, and follow from the pass and the number of the batch, so that even their count may change. Orders
        and augmentations are therefore others than without the rule, and as good.

        SIGTERM (preemption) is obeyed between two batches by all ranks together: the last checkpoint is saved, and
        the program ends with exit status 75. SLURM's requeue signal leads, at the same point, to Lightning's own
        saving and requeueing.

        A loader with ``state_dict`` and ``load_state_dict`` (torchdata's StatefulDataLoader) is restored by
        Lightning; such loaders do not restore their workers' random numbers, and the rule says so.

    Fires when: For information, at the start, if a resume could not be exact: data without a sampler
        (IterableDataset) whose loader has no state; a data set with a random number generator of its own in worker
        processes; CUDA without deterministic algorithms; a sharded strategy; more than two ranks, whose first sum of
        gradients after a resume may be in another order; module hooks that run after the checkpoint's. A warning if
        the run was resumed and could not go on exactly: another number of ranks, other data, a checkpoint without
        the rule or saved in the middle of a batch.

    Under DDP: Each rank restores its own state. Rank 0 receives the states one after the other; large are only
        gradients in flight. The agreement on signals takes the place of Lightning's, one small exchange a batch.

    Cost: Nothing between saves but two integers a batch; 20 kB a rank in a checkpoint. A resume lists the sampler
        up to its place and reads no data twice. Measured in benchmarks/RESULTS.md.

    Example:
        >>> from lightning.pytorch import Trainer
        >>> trainer = Trainer(callbacks=[ExactResume()], logger=False)

    Source: Hui (2018), "How to start a deep learning project", on checkpoints: "save regularly, resume".

    Args:
        on_error: ``"warn"`` or ``"raise"``; see :class:`~lightning_rules.Rule`.

    Raises:
        SystemExit: With status 75, between two batches, when the process has received SIGTERM.
    """

    name = NAME
    source = 'Hui (2018), "How to start a deep learning project", on checkpoints: "save regularly, resume"'
    kind = "enforce"

    def __init__(self, on_error: Literal["warn", "raise"] = "warn") -> None:
        super().__init__(on_error)
        self._batches: list[SeededBatches] = []
        self._pending: RankState | None = None
        self._hook: Hook | None = None
        self._resumed: tuple[int, int] | None = None
        self._inexact = ""
        self._validated = False
        self._signals: Signals | None = None
        self._undo = ExitStack()

    def setup(self, trainer: Any, pl_module: Any, stage: str) -> None:
        """Stand between the loops and their loaders, until the fit ends."""
        super().setup(trainer, pl_module, stage)
        self._put_back()
        self._pending, self._hook, self._resumed, self._inexact = None, None, None, ""
        if stage == "fit":
            self._follow_loaders(trainer)
            self._follow_loops(trainer)
            self._signals = Signals(trainer)
            self._undo.callback(self._signals.stop_listening)

    def _follow_loaders(self, trainer: Any) -> None:
        """See each training loader between its making and its first iterator: only the strategy is called there."""

        def numbered(process: Callable[[Any], Any], loader: Any) -> Any:
            loader = process(loader)
            if trainer.training and not is_stateful(loader) and obstacle(loader) is None:
                batches = SeededBatches(loader)
                batches.idle = self._pending is not None
                batches.attach()
                self._batches = [one for one in self._batches if one.loader is not loader] + [batches]
            return loader

        stand_in(trainer.strategy, "process_dataloader", lambda process: partial(numbered, process), self._undo)

    def _follow_loops(self, trainer: Any) -> None:
        """Two places of Lightning's loops without a hook: before an epoch begins, and between two batches."""
        fit, epoch = trainer.fit_loop, trainer.fit_loop.epoch_loop
        start_epoch, train_batch = fit.on_advance_start, epoch.advance

        def on_advance_start() -> None:
            if self._pending is not None and self._hook == "train_epoch_end":
                self._begin_next_epoch(trainer)
            start_epoch()

        def advance(data_fetcher: Any) -> None:
            if self._pending is not None:
                self._go_on(trainer, data_fetcher)
                if self._hook != "between":  # the hook in which the run was saved has an end of its own
                    epoch._skip_next_val = self._hook == "validation_end"
                    return
            self._obey_signals(trainer)
            train_batch(data_fetcher)

        fit.on_advance_start, epoch.advance = on_advance_start, advance
        self._undo.callback(vars(fit).pop, "on_advance_start", None)
        self._undo.callback(vars(epoch).pop, "advance", None)

    def on_save_checkpoint(self, trainer: Any, pl_module: Any, checkpoint: dict[str, Any]) -> None:
        """Add the states of all ranks; a collective, as saving is."""
        hook = None if trainer.interrupted or shards(trainer) else loop_position.current_hook(trainer, self._validated)
        checkpoint[KEY] = {
            "hook": hook,
            "world_size": trainer.world_size,
            "should_stop": trainer.should_stop,
            "place": [trainer.global_step, loop_position.batches_done(trainer)],
            "ranks": gather_ranks(trainer, self._batches_now(trainer)) if hook is not None else [],
        }

    def on_load_checkpoint(self, trainer: Any, pl_module: Any, checkpoint: dict[str, Any]) -> None:
        """Take this rank's state, and let Lightning's loops stand between two batches."""
        if trainer.state.fn.value != "fit":
            return
        state = checkpoint.get(KEY)
        self._resumed = (int(checkpoint.get("global_step", 0)), 0)
        self._inexact = unfit(state, trainer)
        if state is None or self._inexact:
            return
        self._hook, self._resumed = state["hook"], tuple(state["place"])
        self._pending = state["ranks"][trainer.global_rank]
        trainer.should_stop = state["should_stop"]
        loop_position.settle(checkpoint["loops"], state["hook"])
        warnings.filterwarnings("ignore", message=NOT_RESUMABLE)
        self._undo.callback(_forget_filter, warnings.filters[0])

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        """Say whether a resume can be exact, and whether this one is."""
        if self._pending is not None and not self._fits(trainer):
            self._inexact = "the training loaders are not those that the checkpoint was saved with"
        self.observe(trainer, lambda: self._measure(trainer), judge)

    def on_validation_start(self, trainer: Any, pl_module: Any) -> None:
        """A checkpoint saved in the middle of a validation cannot be resumed exactly."""
        self._validated = False

    def on_validation_end(self, trainer: Any, pl_module: Any) -> None:
        """Checkpoints are saved in this hook, after this rule."""
        self._validated = True

    def _measure(self, trainer: Any) -> Resumption:
        path = os.path.relpath(trainer.ckpt_path) if os.path.exists(trainer.ckpt_path or "") else trainer.ckpt_path
        return Resumption(obstacles_of(trainer), self._resumed, str(path), self._inexact)

    def _fits(self, trainer: Any) -> bool:
        assert self._pending is not None
        lengths = [len(one) for one in self._batches_now(trainer)]
        places = self._pending["loaders"]
        return len(places) == len(lengths) and all(
            place is None or place["length"] == length for place, length in zip(places, lengths, strict=True)
        )

    def _batches_now(self, trainer: Any) -> list[SeededBatches]:
        loaders = getattr(trainer.fit_loop._combined_loader, "flattened", [])
        return [batches for loader in loaders for batches in self._batches if batches.loader is loader]

    def _begin_next_epoch(self, trainer: Any) -> None:
        """What was left of the epoch that a checkpoint was saved at the end of."""
        state = self._take_pending(trainer)
        put_back(trainer, state, [] if self._inexact else self._batches_now(trainer), running=False)
        loop_position.step_plateau_schedulers(trainer)

    def _go_on(self, trainer: Any, data_fetcher: Any) -> None:
        """Find the place in the epoch again, then all that has been drawn and accumulated by then."""
        state = self._take_pending(trainer)
        batches = self._batches_now(trainer)
        if not self._inexact:
            for one, place in zip(batches, state["loaders"], strict=True):
                if place is not None:
                    one.find_again(place)
        _load_again(trainer, state)
        iter(data_fetcher)
        data_fetcher.fetched += loop_position.batches_done(trainer)
        put_back(trainer, state, [] if self._inexact else batches, running=True)

    def _take_pending(self, trainer: Any) -> RankState:
        assert self._pending is not None
        state, self._pending = self._pending, None
        for one in self._batches:
            one.idle = False
        loop_position.forget_restart(trainer)
        return state

    def _obey_signals(self, trainer: Any) -> None:
        """Between two batches, all ranks alike."""
        noted = self._signals.agreed() if self._signals is not None else 0
        if noted & REQUEUE and self._signals is not None:
            self._signals.requeue()
        if noted & TERMINATE:
            path = save_last(trainer)
            if trainer.is_global_zero:
                log.warning(
                    f"{NAME}: Ended by SIGTERM after step {trainer.global_step}, with exit status {EXIT_CODE}; "
                    f"saved {path}, from which --ckpt_path last goes on."
                )
            raise ended_by_signal(trainer)

    def on_exception(self, trainer: Any, pl_module: Any, exception: BaseException) -> None:
        """Give loops, loaders and signals back: Lightning calls no ``teardown`` after an error."""
        super().on_exception(trainer, pl_module, exception)
        self._put_back()

    def teardown(self, trainer: Any, pl_module: Any, stage: str) -> None:
        """Give loops, loaders and signals back."""
        super().teardown(trainer, pl_module, stage)
        self._put_back()

    def _put_back(self) -> None:
        self._undo.close()
        for batches in self._batches:
            batches.detach()
        self._batches, self._signals, self._validated = [], None, False


def _load_again(trainer: Any, state: RankState) -> None:
    """Loaders with a state of their own have begun with it already, and begin once more."""
    combined = trainer.fit_loop._combined_loader
    states = iter(state["stateful"])
    for loader in combined.flattened:
        if is_stateful(loader):
            loader.load_state_dict(next(states))


def _forget_filter(entry: Any) -> None:
    if entry in warnings.filters:
        warnings.filters.remove(entry)  # type: ignore[attr-defined]
