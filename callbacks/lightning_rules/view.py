"""How a rule sees a run: batches, inputs and targets, the user's own loss, the head; and everything is put back."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from typing import Any, TypeVar

import torch
from torch import Tensor
from torch.nn.parameter import is_lazy

from lightning_rules.batches import split_batch
from lightning_rules.loaders import each_loader, peek
from lightning_rules.losses import LossCall, seen_losses
from lightning_rules.namespace import namespace_of
from lightning_rules.rule import NotApplicable
from lightning_rules.shards import refuse_shards
from lightning_rules.untouched import untouched

T = TypeVar("T")
MUTED = ("log", "log_dict", "print", "toggle_optimizer", "untoggle_optimizer", "clip_gradients")


@dataclass(frozen=True)
class Step:
    """What one training step computed.

    Attributes:
        loss: What it returned (or gave to ``manual_backward`` first), within its graph; None if it returned nothing.
        calls: The loss functions that this loss came from, in order; those computed for show are left out.
        losses: All losses: the returned one, and those given to ``manual_backward``.
    """

    loss: Tensor | None
    calls: list[LossCall]
    losses: list[Tensor] = field(default_factory=list)


class View:
    """A run as a rule sees it. Cheap to make; holds no copy of anything.

    Args:
        trainer: The Trainer, from ``on_train_start`` on.
        module: The LightningModule it trains.
    """

    def __init__(self, trainer: Any, module: Any) -> None:
        self.trainer = trainer
        self.module = module

    def batches(self, count: int, pick: Callable[[Any], T] = lambda batch: batch) -> list[T]:
        """The first training batches, on the host, read beside the run's own loader; see :func:`loaders.peek`.

        Under DDP these are this rank's batches.

        Raises:
            NotApplicable: There is no training loader, or its data can be read only once.
        """
        loaders = self.trainer.train_dataloader
        if loaders is None:
            raise NotApplicable("the run has no training loader.")
        limit = self.trainer.num_training_batches
        return peek(loaders, int(min(count, limit)), pick)

    def split(self, batch: Any) -> tuple[Any, Any]:
        """A batch as ``(inputs, targets)``; see :func:`batches.split_batch`."""
        return split_batch(batch, self.module)

    def to_device(self, batch: Any) -> Any:
        """The batch as ``training_step`` gets it: converted, moved, with the module's transfer hooks applied."""
        batch = self.trainer.precision_plugin.convert_input(batch)
        batch = self.module._on_before_batch_transfer(batch, dataloader_idx=0)
        return self.trainer.strategy.batch_to_device(batch, dataloader_idx=0)

    def validation_batches(self, count: int, pick: Callable[[Any], T] = lambda batch: batch) -> list[T]:
        """The first batches of the first validation loader, on the host, as :meth:`batches` reads them.

        Raises:
            NotApplicable: There is no validation loader, or its data can be read only once.
        """
        loaders = self.validation_loaders
        limits = self.trainer.num_val_batches
        limit = limits[0] if isinstance(limits, list) and limits else limits
        if not loaders or not limit:
            raise NotApplicable("the run has no validation loader.")
        return peek(loaders[0], int(min(count, limit)), pick)

    @property
    def validation_loaders(self) -> list[Any]:
        """The run's validation loaders, in order."""
        return each_loader(self.trainer.val_dataloaders)

    @contextmanager
    def step(
        self, batch: Any, batch_idx: int = 0, evaluation: bool = False, begin: Callable[[], Any] | None = None
    ) -> Iterator[Step]:
        """Run the user's ``training_step`` on a batch; when the block ends, everything it touched is put back.

        Nothing is logged, no optimiser moves, the process group is not used (the module runs, not its DDP wrapper),
        submodules stay in the mode they are in. Compiled modules run eagerly.

        Args:
            batch: A batch on the host, from :meth:`batches`.
            batch_idx: What the step is told.
            evaluation: Run the step with every submodule in evaluation mode, so that dropout is off and batch norm
                treats each example by itself.
            begin: Called first, with the module on loan.

        Yields:
            The loss and the calls that made it; their graphs end with the block.

        Raises:
            NotApplicable: Parameters are sharded over ranks or not made yet, or the step draws its batches itself.
        """
        with (
            self.on_loan() as seen,
            torch.enable_grad(),
            self.trainer.precision_plugin.train_step_context(),
        ):
            if begin is not None:
                begin()
            if evaluation:
                self.module.eval()
            batch = self.to_device(batch)
            with seen_losses(self.module) as calls:
                loss = self._training_step(batch, batch_idx)
            losses = [one for one in (loss, *seen) if one is not None]
            yield Step(next(iter(losses), None), _behind(losses, calls), losses)

    @contextmanager
    def validation_step(self, batch: Any, batch_idx: int = 0, begin: Callable[[], Any] | None = None) -> Iterator[Step]:
        """Run the user's ``validation_step`` as :meth:`step` runs ``training_step``: in evaluation mode, nothing kept.

        Gradients are enabled, so that the calls of loss functions are seen.

        Args:
            batch: A batch on the host, from :meth:`validation_batches`.
            batch_idx: What the step is told.
            begin: Puts the module into its mode in place of ``eval()``.

        Raises:
            NotApplicable: As for :meth:`step`, or the module has no ``validation_step``.
        """
        if type(self.module).validation_step is namespace_of(self.module).LightningModule.validation_step:
            raise NotApplicable("the module has no validation_step.")
        with self.on_loan(), torch.enable_grad(), self.trainer.precision_plugin.val_step_context():
            begin() if begin is not None else self.module.eval()
            batch = self.to_device(batch)
            with seen_losses(self.module) as calls:
                returned = self.module.validation_step(*_arguments(self.module.validation_step, batch, batch_idx))
            yield Step(_loss_in(returned), calls)

    @contextmanager
    def on_loan(self) -> Iterator[list[Tensor]]:
        """The module to be run and trained at will; when the block ends, everything is put back, as :meth:`step` does.

        Yields:
            The list that the losses given to ``manual_backward`` are appended to.

        Raises:
            NotApplicable: As for :meth:`step`.
        """
        self._refuse_what_cannot_be_run()
        with untouched(self.module, self.trainer.train_dataloader), _muted_loggers(self.trainer):
            yield _mute(self.module)

    def loss(self, batch: Any, batch_idx: int) -> Tensor | None:
        """The loss of ``training_step`` on a batch on the host, within :meth:`on_loan`; None if it gave none."""
        with torch.enable_grad(), self.trainer.precision_plugin.train_step_context():
            return self._training_step(self.to_device(batch), batch_idx)

    def _training_step(self, batch: Any, batch_idx: int) -> Tensor | None:
        return _loss_in(self.module.training_step(*_arguments(self.module.training_step, batch, batch_idx)))

    def _refuse_what_cannot_be_run(self) -> None:
        refuse_shards(self.trainer)
        if any(is_lazy(parameter) for parameter in self.module.parameters()):
            raise NotApplicable("lazy layers get their parameters, and draw random numbers, at the first batch.")
        if "dataloader_iter" in inspect.signature(self.module.training_step).parameters:
            raise NotApplicable("training_step draws its batches from the loader's iterator itself.")


def _loss_in(returned: Any) -> Tensor | None:
    """The loss in what a step returned."""
    loss = returned.get("loss") if isinstance(returned, Mapping) else returned
    return loss if isinstance(loss, Tensor) else None


def _behind(losses: list[Tensor], calls: list[LossCall]) -> list[LossCall]:
    """The calls that the losses depend on; all of them where no loss is known."""
    if not losses:
        return calls
    level = [loss.grad_fn for loss in losses if loss.grad_fn is not None]
    seen = set(level)
    while level:
        above = {node for below in level for node, _ in below.next_functions if node is not None}
        level = list(above - seen)
        seen |= above
    return [call for call in calls if call.value.grad_fn in seen]


def _arguments(training_step: Callable[..., Any], batch: Any, batch_idx: int) -> list[Any]:
    """Batch, batch index and loader index, as many as the step takes."""
    parameters = inspect.signature(training_step).parameters.values()
    if any(parameter.kind is parameter.VAR_POSITIONAL for parameter in parameters):
        return [batch, batch_idx]
    needed = [p for p in parameters if p.default is p.empty and p.kind is not p.VAR_KEYWORD]
    return [batch, batch_idx, 0][: max(1, len(needed), min(2, len(parameters)))]


@contextmanager
def _muted_loggers(trainer: Any) -> Iterator[None]:
    loggers = trainer.loggers
    dummy = namespace_of(trainer).loggers.logger.DummyLogger
    trainer.loggers = [dummy() for _ in loggers]
    try:
        yield
    finally:
        trainer.loggers = loggers


def _mute(module: Any) -> list[Tensor]:
    """Shadow the methods through which a step reaches the outside; ``untouched`` removes the shadows.

    Returns:
        The list that the losses given to ``manual_backward`` are appended to.
    """
    seen: list[Tensor] = []
    optimizers = module.optimizers()
    if isinstance(optimizers, list):
        still: Any = [_StillOptimizer(optimizer) for optimizer in optimizers]
    else:
        still = _StillOptimizer(optimizers)
    shadows: dict[str, Any] = dict.fromkeys(MUTED, lambda *args, **kwargs: None)
    shadows["manual_backward"] = lambda loss, *args, **kwargs: seen.append(loss)
    shadows["optimizers"] = lambda *args, **kwargs: still
    shadows["lr_schedulers"] = lambda *args, **kwargs: _Silent()
    module.__dict__.update(shadows)
    return seen


class _StillOptimizer:
    """An optimiser that can be asked anything and moves nothing."""

    def __init__(self, optimizer: Any) -> None:
        self.optimizer = optimizer

    def __getattr__(self, name: str) -> Any:
        return getattr(self.optimizer, name)

    def step(self, closure: Callable[[], Any] | None = None, **kwargs: Any) -> Any:
        return closure() if closure is not None else None

    def zero_grad(self, *args: Any, **kwargs: Any) -> None:
        pass

    def toggle_model(self, *args: Any, **kwargs: Any) -> Any:
        return nullcontext()


class _Silent:
    """Stands for one scheduler or a list of them: every call does nothing."""

    def __getattr__(self, name: str) -> Any:
        return lambda *args, **kwargs: None

    def __iter__(self) -> Iterator[Any]:
        return iter((self,) * 8)

    def __getitem__(self, index: int) -> Any:
        return self
