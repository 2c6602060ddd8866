"""What all parts of the model's audit look at: one training step, its layers in order, and the gradients it gives."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any

import torch
from torch import Tensor

from lightning_rules.batches import leaves
from lightning_rules.preflight.function_calls import ActivationCall, CallsSeen, Difference, DropoutCall, WatchFunctions
from lightning_rules.preflight.layer_runs import LayerRun, inside_modules, seen_layers
from lightning_rules.preflight.loss_facts import LossFacts, facts_of
from lightning_rules.rule import NotApplicable
from lightning_rules.view import Step, View

ALIKE = 1e-6  # of the largest value: how far rows that count as the same may lie apart


@dataclass(frozen=True)
class GradientSeen:
    """The gradient that one training step gives a parameter.

    Attributes:
        reached: Whether there is one; the fields below mean nothing where there is none.
        finite: Whether it has neither NaN nor infinity.
        zero: Whether all of it is exactly zero.
        rms: Its root mean square.
        rows: How many rows it has, in its first dimension; 0 for a vector.
        distinct_rows: How many of these differ from one another; see :func:`distinct_rows`.
    """

    reached: bool
    finite: bool = True
    zero: bool = False
    rms: float = 0.0
    rows: int = 0
    distinct_rows: int = 0


@dataclass(frozen=True)
class Trace:
    """One training step on one batch, in the modes the modules are in, with dropout off; plain values, no graph.

    Attributes:
        runs: The layers in the order in which they ran, each as often as it ran.
        gradients: For each parameter that requires a gradient, by its name in the module; empty where the step gives
            none at all: no loss, or a backward of its own that leaves nothing in ``.grad``.
        losses: Each call of a loss function.
        dropouts: Each call of a dropout function.
        activations: Each call of a ReLU, sigmoid or tanh.
        differences: Subtractions that stretch both sides.
        value: The loss; None where the step returned none.
        examples: The length of the first tensor in the batch.
        branches: How many values are read more than once on the way to the losses: 0 in a plain stack of layers.
        inputs_finite: Whether all floating-point tensors of the batch are finite.
    """

    runs: tuple[LayerRun, ...]
    gradients: dict[str, GradientSeen]
    losses: tuple[LossFacts, ...]
    dropouts: tuple[DropoutCall, ...] = ()
    activations: tuple[ActivationCall, ...] = ()
    differences: tuple[Difference, ...] = ()
    value: float | None = None
    examples: int = 0
    branches: int = 0
    inputs_finite: bool = True


class ModelSeen:
    """The module, its optimisers, and what one training step does; read once, shared by all parts.

    Args:
        view: The run.

    Attributes:
        view: The run.
        module: The LightningModule.
        trainer: Its Trainer.
        optimizers: The optimisers as the strategy holds them (torch's, not Lightning's wrappers).
    """

    def __init__(self, view: View) -> None:
        self.view = view
        self.module, self.trainer = view.module, view.trainer
        self.optimizers: list[Any] = list(view.trainer.optimizers)
        self._failures: dict[str, Exception] = {}

    @cached_property
    def batch(self) -> Any:
        """The first training batch, on the host.

        Raises:
            NotApplicable: There is none, or the data can be read only once.
        """
        return self.view.batches(1)[0]

    @property
    def trace(self) -> Trace:
        """One training step, run when first asked for; a failure is raised again to everyone who asks.

        Raises:
            NotApplicable: The step cannot be run beside the training.
        """
        return self._once("_trace")  # type: ignore[no-any-return]

    @property
    def evaluation(self) -> CallsSeen:
        """What one step in evaluation mode calls: the validation step's where there is one, else the training step's.

        Raises:
            NotApplicable: As for :attr:`trace`.
        """
        return self._once("_evaluation")  # type: ignore[no-any-return]

    def _once(self, name: str) -> Any:
        if name in self._failures:
            raise self._failures[name]
        try:
            return getattr(self, name)
        except Exception as failure:
            self._failures[name] = failure
            raise

    @cached_property
    def _trace(self) -> Trace:
        batch: Any = self.batch
        tensors = [part for _, part in leaves(batch)]
        inputs = [part for _, part in leaves(self.view.split(batch)[0]) if part.is_floating_point()]
        watch = WatchFunctions(keep_all=True)
        with seen_layers(self.module, watch) as layers, watch, self.view.step(batch) as step:
            losses = [facts_of(call, step.loss, inputs) for call in step.calls]
            runs = layers.finished(step.losses)
            gradients = dict(_gradients(self.module, step))
            value = None if step.loss is None else float(step.loss.detach().float().mean())
        return Trace(
            runs,
            gradients,
            tuple(losses),
            tuple(watch.seen.dropouts),
            tuple(activation() for activation in watch.seen.activations),
            tuple(watch.seen.differences),
            value,
            examples=next((len(part) for part in tensors if part.dim()), 0),
            branches=layers.branches,
            inputs_finite=all(bool(part.isfinite().all()) for part in inputs),
        )

    @cached_property
    def _evaluation(self) -> CallsSeen:
        batch: Any
        try:
            batch, step = self.view.validation_batches(1)[0], self.view.validation_step
        except NotApplicable:
            batch, step = self.batch, partial(self.view.step, evaluation=True)
        watch = WatchFunctions(keep_all=False)
        with inside_modules(self.module, watch.inside), watch, step(batch):
            return watch.seen


def _gradients(module: Any, step: Step) -> Iterator[tuple[str, GradientSeen]]:
    """The gradient of the sum of all losses for each parameter; what a step of its own backward left counts too."""
    named = [(name, parameter) for name, parameter in module.named_parameters() if parameter.requires_grad]
    losses = [loss.sum() for loss in step.losses if loss.requires_grad]
    found: Sequence[Tensor | None] = [None] * len(named)
    try:
        if losses and named:
            found = torch.autograd.grad(losses, [parameter for _, parameter in named], allow_unused=True)
    except RuntimeError:  # the step has called backward itself, and its graph is gone
        pass
    if all(gradient is None for gradient in found) and all(parameter.grad is None for _, parameter in named):
        return
    for (name, parameter), gradient in zip(named, found, strict=True):
        yield name, _seen(gradient if gradient is not None else parameter.grad)


@torch.no_grad()
def _seen(gradient: Tensor | None) -> GradientSeen:
    if gradient is None:
        return GradientSeen(reached=False)
    values = gradient.coalesce().values() if gradient.is_sparse else gradient
    return GradientSeen(
        reached=True,
        finite=bool(values.isfinite().all()),
        zero=not bool(values.any()),
        rms=float(values.abs().float().square().mean().sqrt()) if values.numel() else 0.0,
        rows=len(values) if values.dim() > 1 else 0,
        distinct_rows=distinct_rows(values) if values.dim() > 1 else 0,
    )


@torch.no_grad()
def distinct_rows(values: Tensor) -> int:
    """How many rows of a matrix (or slices of a larger tensor) differ, up to rounding.

    Rows are told apart by their products with one fixed vector of unlike numbers, so that it costs one pass.
    """
    flat = values.detach().abs() if values.is_complex() else values.detach()
    flat = flat.double().flatten(1)
    places = torch.arange(flat.shape[1], dtype=torch.float64, device=flat.device)
    marks = flat @ torch.cos(places * places + 1.0)
    scale = float(flat.abs().sum(dim=1).max()) if flat.numel() else 0.0
    if not scale or not bool(marks.isfinite().all()):
        return 1
    gaps = marks.sort().values.diff()
    return 1 + int((gaps > ALIKE * scale).sum())
