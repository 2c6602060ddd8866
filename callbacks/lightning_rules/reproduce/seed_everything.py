"""The rule seed-everything."""

from __future__ import annotations

import os
import zlib
from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from typing import Any, Literal

import torch
from lightning.fabric.utilities.seed import max_seed_value
from lightning.fabric.utilities.seed import seed_everything as seed_generators
from torch.utils._pytree import tree_leaves
from torch.utils.data import IterableDataset

from lightning_rules.ranks import gather
from lightning_rules.reproduce import environment
from lightning_rules.reproduce.seeded import NAME, Mode, Seeded, judge, judge_weights
from lightning_rules.reproduce.streams import Place, Purpose, SeededLoaders, start_stream
from lightning_rules.rule import Rule
from lightning_rules.stand_ins import stand_in


class SeedEverything(Rule):
    """Every random number of a run follows from one seed, alike on all ranks or apart as training needs it.

    Why: A result that cannot be repeated cannot be debugged, and a difference between two runs means nothing while
        they differ in luck. Under DDP the usual way of seeding goes wrong quietly: ranks that share a seed draw the
        same augmentations (in the main process always; in workers unless these are seeded by rank), so that each
        step sees less variety than its batch size says.

    What it does: With a seed (``mode`` "fixed") it seeds Python, NumPy and torch (CUDA included) in ``setup``, alike
        on all ranks, so that weights made in ``setup`` and ``configure_model`` agree. At the start of each epoch the
        generators go on with a stream derived from seed, epoch, step and rank: augmentation and dropout differ
        between ranks, and a resumed run does not replay what it has seen. A run resumed at the end of an epoch draws
        what the unbroken run would have drawn where the main process reads the data; workers begin new streams.
        Workers are seeded by rank and worker; a loader's own ``generator`` or ``worker_init_fn`` is kept. Samplers
        that Lightning shards draw alike on all ranks. "fresh" draws a seed, says it, and does the same;
        ``SeedEverything(THAT_SEED)`` repeats the run. Seed, flags and versions go into findings and checkpoint. Let
        the rule stand before others that draw random numbers.

        Without arguments ("workers") the program's own seeding is left alone, and only the worker processes of
        several ranks are kept apart.

        What is drawn before a callback can act is not reached: weights made in the module's ``__init__``, and splits
        drawn in the data module's ``__init__``, ``prepare_data`` or ``setup``. Call ``seed_everything(seed)`` of
        Lightning first, or set ``seed_everything`` of its command line. DDP hands rank 0's weights to all ranks
        anyway; it does not do so for splits.

    Fires when: It is an error if ranks start training with different weights under DDP (bit for bit; DDP keeps such
        differences for ever). Otherwise it tells the seed, and, for information, what it could not reach: weights
        made before any seed was set, workers that the user seeds without Lightning's knowledge of ranks, versions
        that differ from those of the checkpoint.

    Under DDP: The seed is rank 0's. Streams of ranks differ in training, agree before it. A data set that shuffles
        by itself and takes its rank's share needs a generator of its own, seeded alike on all ranks.

    Cost: Less than a millisecond an epoch; one read of all weights at the start (two under DDP).
        ``deterministic=True`` forbids cuDNN's search for the fastest convolution and every kernel without a fixed
        order of summation: some training becomes slower, some operators raise a ``RuntimeError`` that names them.

    Example:
        >>> from lightning.pytorch import Trainer
        >>> trainer = Trainer(callbacks=[SeedEverything(42)], logger=False)

    Source: Karpathy (2019), "A Recipe for Training Neural Networks", step 2, "fix random seed".

    Args:
        seed: The seed, 0 to 4294967295; only for "fixed".
        mode: "fixed", "fresh" or "workers"; None means "fixed" where a seed is given, else "workers".
        deterministic: Whether torch uses only algorithms that give the same bits each time; put back afterwards.
        on_error: ``"warn"`` or ``"raise"``; see :class:`~lightning_rules.Rule`.

    Raises:
        TypeError: The seed is not a whole number.
        ValueError: The seed is out of bounds, the mode is unknown, or the two do not go together; when a fit starts,
            that two rules of this class would seed the same run.
    """

    name = NAME
    source = 'Karpathy (2019), "A Recipe for Training Neural Networks", step 2, "fix random seed"'
    kind = "enforce"

    def __init__(
        self,
        seed: int | None = None,
        mode: Literal["fixed", "fresh", "workers"] | None = None,
        deterministic: bool = False,
        on_error: Literal["warn", "raise"] = "warn",
    ) -> None:
        super().__init__(on_error)
        _refuse(seed, mode)
        self.seed = seed
        self.mode = mode
        self.deterministic = deterministic
        self._run_seed: int | None = None
        self._versions_before: dict[str, str] | None = None
        self._unseeded_start = self._workers_before = self._compared = False
        self._loaders = SeededLoaders()
        self._undo = ExitStack()

    @property
    def _way(self) -> Mode:
        return self.mode or ("workers" if self.seed is None else "fixed")

    def setup(self, trainer: Any, pl_module: Any, stage: str) -> None:
        """Agree on the seed and seed this process, as all others."""
        super().setup(trainer, pl_module, stage)
        self._put_back()
        if stage == "fit":
            self._versions_before, self._compared, self._unseeded_start = None, False, False
        seeds = [c for c in trainer.callbacks if isinstance(c, SeedEverything) and c._way != "workers"]
        if len(seeds) > 1:
            raise ValueError(f"Expected one SeedEverything with a seed, but got {len(seeds)}; keep one of them.")
        if self.deterministic:
            environment.choose_deterministic_algorithms(self._undo)
        self._workers_before = os.environ.get("PL_SEED_WORKERS", "0") != "0"
        if self._way == "workers":
            if trainer.world_size > 1 and not seeds:
                environment.set_variable(self._undo, "PL_SEED_WORKERS", "1")
            return
        if stage == "fit" or self._run_seed is None:
            seed = environment.drawn_seed() if self.seed is None else self.seed
            self._run_seed = gather(trainer, seed)[0]
            self._unseeded_start = "PL_GLOBAL_SEED" not in os.environ and any(True for _ in pl_module.parameters())
        self._seed_process()
        self._follow_loaders(trainer)

    def _seed_process(self) -> None:
        """As the program would by calling ``seed_everything``; Lightning's samplers and workers read the variables."""
        assert self._run_seed is not None
        environment.set_variable(self._undo, "PL_GLOBAL_SEED", str(self._run_seed))
        environment.set_variable(self._undo, "PL_SEED_WORKERS", "1")
        seed_generators(self._run_seed, workers=True, verbose=False)

    def _follow_loaders(self, trainer: Any) -> None:
        """See each loader between its making and its first iterator: only the strategy is called there."""

        def seeded(process: Callable[[Any], Any], loader: Any) -> Any:
            loader = process(loader)
            place = _place(trainer)
            if trainer.training:
                # An iterable data set without length is read ahead before training starts.
                streams = isinstance(getattr(loader, "dataset", None), IterableDataset)
                self._start(trainer, "loading", apart=streams)
            self._loaders.add(loader, self._run_seed or 0, trainer.global_rank, trainer.training, place)
            return loader

        stand_in(trainer.strategy, "process_dataloader", lambda process: partial(seeded, process), self._undo)

    def on_load_checkpoint(self, trainer: Any, pl_module: Any, checkpoint: dict[str, Any]) -> None:
        """Go on with the seed that a fresh run drew; what was restored is no fresh start."""
        state = checkpoint.get("callbacks", {}).get(self.state_key, {})
        self._versions_before = state.get("versions")
        self._unseeded_start = False
        if self._way == "fresh" and state.get("seed") is not None:
            self._run_seed = state["seed"]
            self._seed_process()

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        """Tell the seed; weights that others draw in this hook are alike on all ranks."""
        if self._way != "workers":
            self._start(trainer, "start", apart=trainer.global_step > 0)
        elif any(isinstance(c, SeedEverything) and c._way != "workers" for c in trainer.callbacks):
            return
        self.observe(trainer, lambda: self._measure(trainer, pl_module), judge)

    def on_train_epoch_start(self, trainer: Any, pl_module: Any) -> None:
        """Go on with the streams of this epoch, another on each rank."""
        if self._way == "workers":
            return
        if not self._compared and trainer.world_size > 1 and "DDP" in type(trainer.strategy).__name__:
            self.observe(trainer, lambda: environment.fingerprint(pl_module), judge_weights)
        self._compared = True
        self._start(trainer, "epoch", apart=True)
        self._loaders.start(self._run_seed or 0, trainer.global_rank, _place(trainer))

    def _start(self, trainer: Any, purpose: Purpose, apart: bool) -> None:
        """Start the stream of this place in the run: another on each rank, or one for all."""
        rank = (trainer.global_rank,) if apart else ()
        start_stream(self._run_seed or 0, purpose, *_place(trainer), *rank)

    def _measure(self, trainer: Any, pl_module: Any) -> Seeded:
        workers = [getattr(loader, "num_workers", None) for loader in tree_leaves(trainer.train_dataloader)]
        return Seeded(
            seed=int(os.environ["PL_GLOBAL_SEED"]) if "PL_GLOBAL_SEED" in os.environ else None,
            mode=self._way,
            unseeded_start=self._unseeded_start,
            own_workers=self._loaders.own_workers,
            workers_before=self._workers_before,
            has_workers=any(workers),
            main_process_reads=0 in workers,
            state=zlib.crc32(torch.get_rng_state().numpy().tobytes()),
            weights=environment.fingerprint(pl_module) if self._run_seed is not None else None,
            changed=environment.changed(self._versions_before or environment.versions(), environment.versions()),
        )

    def on_exception(self, trainer: Any, pl_module: Any, exception: BaseException) -> None:
        """Put back flags, variables and loaders: Lightning calls no ``teardown`` after an error."""
        super().on_exception(trainer, pl_module, exception)
        self._put_back()

    def teardown(self, trainer: Any, pl_module: Any, stage: str) -> None:
        """Put back flags, variables and loaders."""
        super().teardown(trainer, pl_module, stage)
        self._put_back()

    def _put_back(self) -> None:
        self._loaders.put_back()
        self._undo.close()

    def state_dict(self) -> dict[str, Any]:
        """Findings, seed, flags and versions."""
        recorded = {"seed": self._run_seed, "flags": environment.flags(), "versions": dict(environment.versions())}
        return {**super().state_dict(), **recorded}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """The inverse of :meth:`state_dict`; flags and versions are those of the process, not of the checkpoint."""
        super().load_state_dict(state_dict)
        self._run_seed = state_dict["seed"]


def _refuse(seed: Any, mode: Any) -> None:
    if mode not in (None, "fixed", "fresh", "workers"):
        raise ValueError(f"Expected `mode` to be 'fixed', 'fresh' or 'workers', but got {mode!r}.")
    if seed is None:
        if mode == "fixed":
            raise ValueError("mode='fixed' needs a seed; write SeedEverything(42), or mode='fresh' to draw one.")
        return
    if isinstance(seed, bool) or not isinstance(seed, int):
        raise TypeError(f"Expected `seed` to be a whole number, but got {seed!r} of type {type(seed).__name__}.")
    if not 0 <= seed <= max_seed_value:
        raise ValueError(f"Expected `seed` to be between 0 and {max_seed_value}, but got {seed}.")
    if mode in ("fresh", "workers"):
        raise ValueError(f"mode={mode!r} takes no seed, but got seed={seed}; leave out one of the two.")


def _place(trainer: Any) -> Place:
    return trainer.current_epoch, trainer.global_step
