"""Short runs from where the run stands, on its own batches and with its own optimiser; each is undone."""

from __future__ import annotations

import copy
import logging
import math
from collections.abc import Generator, Iterable, Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from itertools import islice
from typing import Any

import torch
import torch.distributed
from torch import Tensor

from lightning_rules.loaders import endless
from lightning_rules.ranks import gather
from lightning_rules.rates import peak_rates, set_rates
from lightning_rules.rule import NotApplicable, Rule
from lightning_rules.view import View

log = logging.getLogger(__name__)


class TrialRuns:
    """Short runs of automatic optimisation, as the Trainer would do them.

    Training step, accumulation, precision, clipping by the Trainer or the module, and the optimiser are the run's own,
    and so are rules that act before a step. Schedulers stand still, other callbacks and loggers are left out. Each run
    begins with the same weights and random numbers and sees the same batches.

    Under DDP each rank reads its share, and losses and gradients are averaged as in the real run, but by hand: where a
    step raises on one rank, all ranks agree that it failed, and none waits for another.

    Args:
        trainer: The Trainer, from ``on_train_start`` on.
        module: The LightningModule it trains.
        alone: Each rank trains by itself, with its own batches, and waits for no other; rules that act before a step,
            which may wait, are then left out under DDP.

    Raises:
        NotApplicable: There is not exactly one optimiser, the module optimises manually, or its parameters are
            sharded over ranks.
    """

    def __init__(self, trainer: Any, module: Any, alone: bool = False) -> None:
        if not module.automatic_optimization:
            raise NotApplicable("the module optimises manually, and only it knows what a step is.")
        if len(trainer.optimizers) != 1:
            raise NotApplicable(f"it needs one optimiser, and the run has {len(trainer.optimizers)}.")
        self.trainer = trainer
        self.module = module
        self.optimizer = trainer.optimizers[0]
        self.schedulers = [config.scheduler for config in trainer.lr_scheduler_configs]
        self.peaks = peak_rates(self.optimizer, self.schedulers)
        self.view = View(trainer, module)
        self.alone = alone

    def run(self, rates: Iterable[float], batches: Sequence[Any] | None = None) -> Generator[float, None, None]:
        """Train with these rates, one a step, of the group with the highest rate; others keep their ratio to it.

        Everything is put back when the iterator ends or is closed.

        Args:
            rates: The rate of each step.
            batches: Batches on the host to train on, in turns; None for those of the training loader.

        Yields:
            The loss before each step, the mean over accumulated batches and ranks; the same on all ranks. NaN, and
            then no more, where a later step than the first raised.

        Raises:
            NotApplicable: The first step raised, gave no loss, or the data cannot be read twice.
        """
        rules = [] if self.alone and self.trainer.world_size > 1 else self.acting_rules()
        with self.lent(rules), closing(self._source(batches)) as source:
            for number, rate in enumerate(rates):
                set_rates(self.optimizer, [peak * rate / max(self.peaks) for peak in self.peaks])
                yield self._agreed_step(source, number)

    def _source(self, batches: Sequence[Any] | None) -> Generator[Any, None, None]:
        return endless(self.trainer.train_dataloader if batches is None else batches)

    @contextmanager
    def lent(self, rules: Sequence[Rule] = ()) -> Iterator[None]:
        """Module, optimiser and Trainer to be used at will, with these rules for callbacks; then all is put back."""
        with self.view.on_loan(), _kept(self.optimizer), self._callbacks_set_aside(rules):
            vars(self.module).pop("clip_gradients")  # what View mutes, and a real step needs
            if self.trainer.world_size > 1:
                vars(self.module)["backward"] = self._backward_past_hooks
            yield

    def _agreed_step(self, batches: Iterator[Any], number: int) -> float:
        """One optimiser step on all ranks, or a failure on all."""
        losses: list[float] = []
        closure = self._closure(batches, number, losses)
        try:
            self.trainer.strategy.optimizer_step(self.optimizer, closure, self.module)
        except _StepFailed as failed:
            if number == 0:
                raise NotApplicable(f"a trial step failed: {failed}") from failed
            log.debug("A trial step failed; its rate counts as too high.", exc_info=True)
            return math.nan
        return losses[0]

    def _closure(self, batches: Iterator[Any], number: int, losses: list[float]) -> Any:
        """Forward and backward over the batches of a step; an optimiser may call it more than once."""
        count = self.trainer.accumulate_grad_batches
        held: list[Any] = []

        def closure() -> Tensor:
            total, failure = None, ""
            try:
                if not held:
                    held.extend(islice(batches, count))
                total = self._forward_backward(held, number * count)
            except NotApplicable as reason:
                failure = str(reason)
            except Exception as error:
                log.debug("A trial step raised.", exc_info=True)
                failure = f"{type(error).__name__}: {str(error).partition(chr(10))[0]}"
            mine = (None if total is None else float(total), failure)
            everywhere = [mine] if self.alone else gather(self.trainer, mine)
            failures = [failure for _, failure in everywhere if failure]
            if failures or total is None:
                raise _StepFailed(failures[0] if failures else "training_step returned no loss")
            self._average_gradients()
            losses.append(sum(loss for loss, _ in everywhere if loss is not None) / len(everywhere))
            return total

        return closure

    def _forward_backward(self, batches: Sequence[Any], first: int) -> Tensor:
        """Gradients of the mean loss over the batches, and that loss, detached."""
        if not batches:
            raise NotApplicable("the training data ended before the trial did.")
        self.optimizer.zero_grad()
        losses = []
        for batch_idx, batch in enumerate(batches, first):
            loss = self.view.loss(batch, batch_idx)
            if loss is None:
                raise NotApplicable("training_step returned no loss.")
            self.trainer.strategy.backward(loss / len(batches), self.optimizer)
            losses.append(loss.detach().float())
        return torch.stack(losses).mean()

    def _backward_past_hooks(self, loss: Tensor) -> None:
        """Accumulate gradients without the hooks by which DDP notes which parameters a step has used.

        They work outside DDP's forward too, and the first real step would then wait for the gradients of parameters
        that it does not use ("undefined, but still allreduced", torch 2.15).
        """
        parameters = [parameter for parameter in self.module.parameters() if parameter.requires_grad]
        for parameter, gradient in zip(
            parameters, torch.autograd.grad(loss, parameters, allow_unused=True), strict=True
        ):
            if gradient is not None:
                parameter.grad = gradient if parameter.grad is None else parameter.grad + gradient

    @torch.no_grad()
    def _average_gradients(self) -> None:
        """The mean over ranks, as DDP has it: a gradient that a rank lacks counts as zero."""
        world = self.trainer.world_size
        if world == 1 or self.alone:
            return
        parameters = [parameter for group in self.optimizer.param_groups for parameter in group["params"]]
        used = torch.tensor([parameter.grad is not None for parameter in parameters], dtype=torch.float32)
        used = used.to(self.trainer.strategy.root_device)
        torch.distributed.all_reduce(used)
        for parameter, ranks in zip(parameters, used.tolist(), strict=True):
            if ranks == 0:
                continue
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
            torch.distributed.all_reduce(parameter.grad)
            parameter.grad /= world

    def acting_rules(self) -> list[Rule]:
        """Copies of the enforcing rules that act before a step, which tell nobody."""
        rules = [callback for callback in self.trainer.callbacks if isinstance(callback, Rule)]
        return [_mute_copy(rule) for rule in rules if _acts_before_steps(rule)]

    @contextmanager
    def _callbacks_set_aside(self, rules: Sequence[Rule]) -> Iterator[None]:
        """Only these rules are callbacks; the scaler and the Trainer's wish to stop are kept."""
        trainer, plugin = self.trainer, self.trainer.precision_plugin
        callbacks, should_stop, scaler = trainer.callbacks, trainer.should_stop, getattr(plugin, "scaler", None)
        trainer.callbacks = list(rules)
        if scaler is not None:
            plugin.scaler = copy.deepcopy(scaler)
        try:
            yield
        finally:
            trainer.callbacks, trainer.should_stop = callbacks, should_stop
            if scaler is not None:
                plugin.scaler = scaler


class _StepFailed(Exception):
    """A step raised on some rank; all ranks see this in its place."""


def _acts_before_steps(rule: Rule) -> bool:
    return rule.kind == "enforce" and type(rule).on_before_optimizer_step is not Rule.on_before_optimizer_step


def _mute_copy(rule: Rule) -> Rule:
    again = copy.deepcopy(rule)
    again.observe = lambda *args, **kwargs: []  # type: ignore[method-assign]
    return again


@contextmanager
def _kept(optimizer: torch.optim.Optimizer) -> Iterator[None]:
    """Put back an optimiser's state, groups and plain attributes, in place, when the block ends."""
    with ExitStack() as undo:
        for one in _with_inner(optimizer):
            undo.callback(_put_back, one, *_contents(one))
        yield


def _with_inner(optimizer: Any) -> list[Any]:
    """The optimiser, and one that it wraps (timm's Lookahead)."""
    inner = [value for value in vars(optimizer).values() if isinstance(value, torch.optim.Optimizer)]
    return [optimizer, *inner]


def _contents(optimizer: Any) -> tuple[dict[Any, Any], list[dict[str, Any]], dict[str, Any]]:
    parameters = {id(p): p for group in optimizer.param_groups for p in group["params"]}
    state = {key: copy.deepcopy(value, dict(parameters)) for key, value in optimizer.state.items()}
    return state, [dict(group) for group in optimizer.param_groups], dict(vars(optimizer))


def _put_back(optimizer: Any, state: dict[Any, Any], groups: list[dict[str, Any]], attributes: dict[str, Any]) -> None:
    optimizer.state.clear()
    optimizer.state.update(state)
    for group, kept in zip(optimizer.param_groups, groups, strict=True):
        group.clear()
        group.update(kept)
    vars(optimizer).clear()
    vars(optimizer).update(attributes)
