"""The rule largest-batch-size."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from contextlib import ExitStack
from typing import Any, Literal

from torch import nn

from lightning_rules.finding import Finding
from lightning_rules.namespace import namespace_of
from lightning_rules.optimise.batch_choice import NAME, Choice, finding_of, tightest
from lightning_rules.optimise.batch_trial import Trial, try_size
from lightning_rules.optimise.resized_loader import examples_in, refuse_other_loaders, resize_as_they_come
from lightning_rules.ranks import gather
from lightning_rules.rates import multiply_rates, refuse_unknown_schedulers
from lightning_rules.rule import NotApplicable, Rule
from lightning_rules.trial_runs import TrialRuns
from lightning_rules.untouched import untouched

FIRST = 16
ROOT_SCALED = ("ada", "lamb")  # in the optimiser's name, as timm's train.py has it: Adam, AdamW, Adagrad, RAdam, LAMB


class LargestBatchSize(Rule):
    """Batches are as large as memory allows, in powers of two from 16 to 256.

    Why: Larger batches use the device better and estimate the gradient better; beyond some hundred examples a step
        the gain is small, and generalisation can suffer. A size copied from another machine wastes memory, or runs
        out of it in the last, different batch of an epoch.

    What it does: When a fit starts, tries 16, 32, 64, ... examples a batch up to ``ceiling`` (down to 1 if 16 do not
        fit): three full steps of the run's own optimiser, whose state takes memory too, and one with the last, short
        batch, made of the largest examples among the first 512. It takes the largest size that fitted with ``margin``
        of the device's memory to spare; a size it has not tried is never taken. Everything else is put back. The
        training loader gets that size, whether it comes from a DataModule, the module or a DataLoader, and so does
        an attribute or hyperparameter ``batch_size``; optimisers and schedulers are configured again, so that
        schedules counted in steps have the right length; learning rates are multiplied by the ratio of the global
        batch sizes (SGD) or its square root (optimisers with "ada" or "lamb" in their name), as in timm's train.py.
        Lightning's ``BatchSizeFinder`` (2.6.6) raises under DDP, returns a size that it never tried, and needs the
        attribute.

    Fires when: It is an error if not even one example fits. Otherwise it says size, memory and rates. It says why and
        changes nothing where the batches are made by the data set or a batch sampler of one's own, with several
        loaders or optimisers, manual optimisation, unknown schedulers, sharded parameters, or batch norm that is
        synchronised over ranks.

    Under DDP: Each rank tries alone, so that none waits for one that has run out of memory; then all take the largest
        size that fits on every rank. A second copy of the weights, which the trial holds, stands in for DDP's
        buckets. A training step that calls collectives itself has to set its size by hand.

    Cost: About twenty steps before training. On a CPU memory has no limit that can be asked for: only what fails to
        be allocated is noticed, and ``margin`` has no effect.

    Example:
        >>> from lightning.pytorch import Trainer
        >>> trainer = Trainer(callbacks=[LargestBatchSize(ceiling=128)], logger=False)

    Source: Goodfellow et al. (2016), "Deep Learning", section 8.1.3; rates: Goyal et al. (2017), "Accurate, Large
        Minibatch SGD", section 2.1; Krizhevsky (2014), "One weird trick for parallelizing convolutional neural
        networks", section 5.

    Args:
        ceiling: The largest number of examples a batch and rank, at least 1; "dataset" for all there are.
        margin: Share of the device's memory that has to stay free, 0 up to, not including, 1.
        scale_rate: Whether to multiply the learning rates.
        global_batch_size: Examples an optimiser step over all ranks; where they do not fit at once, gradients are
            accumulated. None accumulates as the Trainer was told to.
        on_error: ``"warn"`` or ``"raise"``; see :class:`~lightning_rules.Rule`.

    Raises:
        ValueError: An argument is out of its range.
        MisconfigurationException: In `fit`, before training: the Trainer accumulates too, or `global_batch_size`
            cannot be shared out among the ranks.
    """

    name = NAME
    source = 'Goodfellow et al. (2016), "Deep Learning", section 8.1.3'
    kind = "enforce"

    def __init__(
        self,
        ceiling: int | Literal["dataset"] = 256,
        margin: float = 0.1,
        scale_rate: bool = True,
        global_batch_size: int | None = None,
        on_error: Literal["warn", "raise"] = "warn",
    ) -> None:
        super().__init__(on_error)
        if ceiling != "dataset" and not _is_count(ceiling):
            raise ValueError(f"Expected `ceiling` to be a whole number of examples or 'dataset', but got {ceiling!r}.")
        if not 0 <= margin < 1:
            raise ValueError(f"Expected `margin` to be at least 0 and below 1, but got {margin!r}.")
        if global_batch_size is not None and not _is_count(global_batch_size):
            raise ValueError(f"Expected `global_batch_size` to be a whole number, but got {global_batch_size!r}.")
        self.ceiling = ceiling
        self.margin = margin
        self.scale_rate = scale_rate
        self.global_batch_size = global_batch_size
        self.batch_size: int | None = None
        self._accumulate = 1
        self._undo = ExitStack()

    def setup(self, trainer: Any, pl_module: Any, stage: str) -> None:
        """Refuse contradictions; forget an earlier fit."""
        super().setup(trainer, pl_module, stage)
        if stage != "fit":
            return
        self._undo.close()
        self.batch_size = None
        if self.global_batch_size is None:
            return
        error = namespace_of(trainer).utilities.exceptions.MisconfigurationException
        if trainer.accumulate_grad_batches != 1:
            raise error(
                f"LargestBatchSize(global_batch_size={self.global_batch_size}) chooses how many batches to accumulate, "
                f"and Trainer(accumulate_grad_batches={trainer.accumulate_grad_batches}) does too: remove one of them."
            )
        if self.global_batch_size % trainer.world_size:
            raise error(
                f"LargestBatchSize(global_batch_size={self.global_batch_size}) cannot be shared out among "
                f"{trainer.world_size} ranks: give a multiple of {trainer.world_size}."
            )

    def on_fit_start(self, trainer: Any, pl_module: Any) -> None:
        """Try, and use the largest; a resumed run goes on with what it had."""
        if trainer.ckpt_path:
            if self.batch_size:
                self._use(trainer, pl_module, self.batch_size, self._accumulate)
            return
        choices: list[Choice] = []

        def judge(ranks: Sequence[Choice]) -> list[Finding]:
            choices.append(ranks[0])
            return [finding_of(ranks[0], self.scale_rate)]

        self.observe(trainer, lambda: self._choose(trainer, pl_module), judge)
        for choice in choices:
            if choice.size:
                self._use(trainer, pl_module, choice.size, choice.accumulate)
                schedulers = [config.scheduler for config in trainer.lr_scheduler_configs]
                multiply_rates(trainer.optimizers[0], schedulers, choice.rate_factor)

    def _choose(self, trainer: Any, module: Any) -> Choice:
        """Try sizes, and agree on each before the next."""
        with untouched():  # to make a loader's iterator draws a random number
            trainer.fit_loop.setup_data()
        loader = trainer.train_dataloader
        refuse_other_loaders(loader)
        runs = TrialRuns(trainer, module)
        refuse_unknown_schedulers(runs.schedulers)
        refuse_synchronised(trainer, module)
        shares = [count for count in gather(trainer, examples_in(loader)) if count is not None]
        share = min(shares, default=None)
        trials: list[Trial] = []

        def fits(size: int) -> bool:
            short = 0 if share is None or loader.drop_last else share % size
            trials.append(tightest(gather(trainer, _attempt(runs, loader, size, short, self.margin))))
            if trials[-1].failure:
                raise NotApplicable(f"a step with {size} examples failed: {trials[-1].failure}")
            return trials[-1].fits

        large, small = self._sizes(share, trainer.world_size)
        if not any([*itertools.takewhile(fits, large)]):
            any(fits(size) for size in small)  # stops at the first that fits
        return self._choice(trainer, loader.batch_size, trials)

    def _sizes(self, share: int | None, ranks: int) -> tuple[list[int], list[int]]:
        """Powers of two from 16 up to the ceiling, with the whole data set if asked for; then those below, falling."""
        limits = [share, None if self.global_batch_size is None else self.global_batch_size // ranks]
        if self.ceiling != "dataset":
            limits.append(self.ceiling)
        elif share is None:
            raise NotApplicable("the data set does not tell its length, and `ceiling` is 'dataset'.")
        top = min(limit for limit in limits if limit is not None)
        powers = [2**power for power in range(top.bit_length())]
        if self.ceiling == "dataset" and top not in powers:
            powers.append(top)
        large = [size for size in powers if size >= FIRST]
        return large, [size for size in reversed(powers) if size < FIRST]

    def _choice(self, trainer: Any, before: int, trials: list[Trial]) -> Choice:
        size = max((trial.size for trial in trials if trial.fits), default=0)
        accumulate = trainer.accumulate_grad_batches
        if self.global_batch_size is not None and size:
            accumulate = math.ceil(self.global_batch_size / (size * trainer.world_size))
        ratio = size * accumulate / (before * trainer.accumulate_grad_batches)
        name = type(trainer.optimizers[0]).__name__.lower()
        factor = ratio**0.5 if any(part in name for part in ROOT_SCALED) else ratio
        return Choice(before, size, accumulate, factor if self.scale_rate and size else 1.0, trials)

    def _use(self, trainer: Any, module: Any, size: int, accumulate: int) -> None:
        """Read the data in batches of this size from now on, and configure optimisers for as many steps."""
        self.batch_size, self._accumulate = size, accumulate
        resize_as_they_come(trainer, size, self._undo)
        for owner in (trainer.datamodule, module):
            if owner is not None:
                _tell(owner, size)
        self._undo.callback(setattr, trainer, "accumulate_grad_batches", trainer.accumulate_grad_batches)
        trainer.accumulate_grad_batches = accumulate
        trainer.fit_loop._combined_loader = None  # as Lightning's own finder has it: the loader is made anew
        trainer.strategy.setup_optimizers(trainer)

    def on_exception(self, trainer: Any, pl_module: Any, exception: BaseException) -> None:
        """Put the Trainer back: Lightning calls no ``teardown`` after an error."""
        super().on_exception(trainer, pl_module, exception)
        self._undo.close()

    def teardown(self, trainer: Any, pl_module: Any, stage: str) -> None:
        """Put the Trainer back."""
        super().teardown(trainer, pl_module, stage)
        self._undo.close()

    def state_dict(self) -> dict[str, Any]:
        """Findings, the size and the accumulation, which a resumed run goes on with."""
        return {**super().state_dict(), "batch_size": self.batch_size, "accumulate": self._accumulate}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """The inverse of :meth:`state_dict`."""
        super().load_state_dict(state_dict)
        self.batch_size, self._accumulate = state_dict["batch_size"], state_dict["accumulate"]


def refuse_synchronised(trainer: Any, module: nn.Module) -> None:
    """Refuse layers whose forward pass waits for other ranks.

    Raises:
        NotApplicable: There is one, and there are several ranks.
    """
    if trainer.world_size > 1 and any(isinstance(part, nn.SyncBatchNorm) for part in module.modules()):
        raise NotApplicable("batch norm is synchronised over ranks, and a rank cannot try a step alone.")


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 1


def _attempt(runs: TrialRuns, loader: Any, size: int, short: int, margin: float) -> Trial:
    """A trial that never raises: other ranks wait for what it says."""
    try:
        return try_size(runs, loader, size, short, margin)
    except Exception as error:
        return Trial(size, False, failure=str(error) if isinstance(error, NotApplicable) else repr(error))


def _tell(owner: Any, size: int) -> None:
    """Set ``batch_size`` where a module or data module keeps it."""
    if "batch_size" in getattr(owner, "hparams", {}):
        owner.hparams["batch_size"] = size
    if hasattr(owner, "batch_size"):
        owner.batch_size = size
