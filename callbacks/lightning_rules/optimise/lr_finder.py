"""The rule lr-finder."""

from __future__ import annotations

import math
from collections.abc import Generator, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Literal

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

from lightning_rules.exhibit import Exhibit
from lightning_rules.finding import Finding, Severity
from lightning_rules.optimise import rate_search
from lightning_rules.optimise.rate_curve import exhibit, save_curve
from lightning_rules.optimise.rate_search import Search
from lightning_rules.rates import multiply_rates, refuse_unknown_schedulers
from lightning_rules.rule import NotApplicable, Rule
from lightning_rules.trial_runs import TrialRuns

NAME = "lr-finder"
LEAST_BUDGET = rate_search.RANGE_STEPS + 3 * rate_search.TRIAL_STEPS  # a candidate and one on either side
ATTRIBUTES = ("lr", "learning_rate")


class LRFinder(Rule):
    """The learning rate is the most important hyperparameter: it is found first, on the run's own network and data.

    Why: A rate copied from elsewhere is wrong for this network, this batch size and this optimiser as often as not.
        Three times too low costs most of a short run; three times too high, all of it. A range test alone says where
        the loss falls fastest while the rate changes, not which rate trains best while it stays.

    What it does: Before the first step, a range test: 120 steps in which the rate grows from 1e-7 to 10, smoothed
        without lag and differentiated in the logarithm of the rate. Around the rate where the loss falls fastest,
        runs of 100 steps at constant rates, a factor of 3.2 apart, until both sides are clearly worse; two
        more beside the best; a parabola fitted to these. Steps are the run's own: batches, accumulation,
        precision, clipping, optimiser; every run begins at the same weights and sees the same batches. Where a
        schedule will lower the rate, that best rate is taken. A constant rate has to serve the end of the run too,
        and is set lower the longer the run is, down to a third; measured in ``benchmarks/lr_finder.py``, that does
        better than Goodfellow's advice to go above the best of the first 100 steps, which held with a schedule only.
        All rates of the run, in groups and schedulers, are multiplied by one factor: ratios between groups, warm-up
        and decay keep their shape. ``lr`` or ``learning_rate`` of the module or its ``hparams`` follows where it held
        the old rate. Curve and candidates are saved as ``rules/lr-finder.json`` and ``.png`` in the run's log folder.

        Let it stand after rules that set weights or clip, so that the short runs start and step as the run will:
        ``Trainer(callbacks=[*recommended(), LRFinder()])``.

        Otherwise the run is as if it had not been there: weights, buffers, optimiser, schedulers, random numbers,
        loaders, loggers and counters. Hooks of the module and of callbacks around batches and epochs are not called
        in the short runs. Lightning's ``LearningRateFinder`` (2.6.6) differentiates in the rate itself, sets all
        groups to one rate, fails on negative losses, uses the loss of rank 0 and shifts the run's random numbers.

    Fires when: It never alarms. It says the rate found and the one it replaces. Where the loss does not fall beyond
        its noise, where the budget ends before the best rate is enclosed, with several optimisers, manual
        optimisation, unknown schedulers or sharded parameters, and in a resumed run, it keeps the rate and says why.

    Under DDP: Every rank reads its own share; losses and gradients are averaged over ranks as in the run, so that all
        ranks find the same rate, and about the one that one process finds at the same global batch size.

    Cost: At most ``budget`` optimiser steps before training, and a copy of the weights and of the optimiser's state.

    Example:
        >>> from lightning.pytorch import Trainer
        >>> trainer = Trainer(callbacks=[LRFinder(budget=600)], logger=False)

    Source: Goodfellow et al. (2016), "Deep Learning", sections 8.3.1 and 11.4.1; range test: Smith (2017), "Cyclical
        Learning Rates for Training Neural Networks", section 3.3.

    Args:
        budget: How many optimiser steps may be spent, at least 420.
        apply: Whether to train with the rate found; else it is only reported.
        on_error: ``"warn"`` or ``"raise"``; see :class:`~lightning_rules.Rule`.

    Raises:
        ValueError: ``budget`` is too small.
    """

    name = NAME
    source = 'Goodfellow et al. (2016), "Deep Learning", sections 8.3.1 and 11.4.1'
    kind = "enforce"

    def __init__(self, budget: int = 800, apply: bool = True, on_error: Literal["warn", "raise"] = "warn") -> None:
        super().__init__(on_error)
        if isinstance(budget, bool) or not isinstance(budget, int) or budget < LEAST_BUDGET:
            raise ValueError(
                f"Expected `budget` to be a whole number of steps, at least {LEAST_BUDGET}, but got {budget!r}."
            )
        self.budget = budget
        self.apply = apply
        self.suggestion: float | None = None
        self._found: tuple[Search, float] | None = None

    def setup(self, trainer: Any, pl_module: Any, stage: str) -> None:
        """Forget an earlier fit."""
        super().setup(trainer, pl_module, stage)
        if stage == "fit":
            self.suggestion, self._found = None, None

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        """Search, and train with what was found."""
        searches: list[tuple[Search, float]] = []

        def judge(ranks: Sequence[tuple[Search, float]]) -> list[Finding]:
            searches.append(ranks[0])
            return [_finding(*ranks[0], applied=self.apply)]

        self.observe(trainer, lambda: self._search(trainer, pl_module), judge)
        for search, before in searches:
            self.suggestion = search.rate
            self._found = search, before
            if trainer.is_global_zero:
                save_curve(search, before, self._folder)
            if self.apply:
                schedulers = [config.scheduler for config in trainer.lr_scheduler_configs]
                multiply_rates(trainer.optimizers[0], schedulers, search.rate / before)
                _tell_module(pl_module, before, search.rate)

    def exhibits(self) -> list[Exhibit]:
        """The curves of the search, when it has ended."""
        return [] if self._found is None else [exhibit(*self._found)]

    def _search(self, trainer: Any, module: Any) -> tuple[Search, float]:
        """The search, and the rate that the run would have had."""
        if trainer.global_step > 0 or trainer.ckpt_path:
            raise NotApplicable("the run is resumed, and goes on at the rate it had.")
        runs = TrialRuns(trainer, module)
        refuse_unknown_schedulers(runs.schedulers)
        before = max(runs.peaks)
        with _progress(trainer, self.budget) as advance:

            def run(rates: Sequence[float]) -> Generator[float, None, None]:
                for loss in runs.run(rates):
                    advance()
                    yield loss

            steps = float(trainer.estimated_stepping_batches)
            run_steps = steps if steps >= 0 else math.inf  # Lightning's -1 means no end
            return rate_search.search(run, before, run_steps, bool(runs.schedulers), self.budget), before


def _finding(search: Search, before: float, applied: bool) -> Finding:
    done = "Set the learning rate to" if applied else "Suggests a learning rate of"
    message = (
        f"{done} {search.rate:.2e} (it was {before:.2e}): of {len(search.candidates)} rates tried, "
        f"{search.best:.2e} is best after {max(len(c.losses) for c in search.candidates)} steps"
        + (", and a constant rate has to be lower for a longer run." if search.rate < search.best else ".")
    )
    evidence = {
        "rate": search.rate,
        "rate_before": before,
        "best_after_short_runs": search.best,
        "steepest_in_range_test": search.range_test.steepest,
        "loss_at_start": search.range_test.start,
        "loss_after_short_run": min(candidate.loss for candidate in search.candidates),
        "steps": search.steps,
    }
    return Finding(NAME, Severity.INFO, message, evidence=evidence)


def _tell_module(module: Any, before: float, rate: float) -> None:
    """Let the module's own record of its rate, which checkpoints keep, say what it trains with."""
    for name in ATTRIBUTES:
        if name in module.hparams and module.hparams[name] == before:
            module.hparams[name] = rate
        if getattr(module, name, None) == before:
            setattr(module, name, rate)


@contextmanager
def _progress(trainer: Any, total: int) -> Iterator[Any]:
    """A bar of steps on rank 0 where the Trainer shows one; yields what advances it."""
    bar = trainer.progress_bar_callback
    if not trainer.is_global_zero or bar is None or bar.is_disabled:
        yield lambda: None
        return
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TextColumn("steps"))
    with Progress(*columns, transient=True) as progress:
        task = progress.add_task("Finding the learning rate", total=total)
        yield lambda: progress.advance(task)
