"""What published monitors look at: losses of all steps; gradients, weights and activations of some."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import lightning as L
import torch
from torch import Tensor, nn

ACTIVATIONS = (nn.ReLU, nn.LeakyReLU, nn.GELU, nn.ELU, nn.Tanh, nn.Sigmoid)


@dataclass
class Seen:
    """Numbers of one step, by the name of the parameter or of the activation.

    Attributes:
        step: The optimiser step.
        gradients: Mean of the absolute gradient.
        gradient_spread: Distance of the 5th from the 95th percentile of the gradient.
        weights: Mean of the absolute value, of weights of two dimensions or more.
        tiny: Share of weights below 1e-5.
        negative: Share of weights below zero.
        updates: Mean absolute change since the step before, over the mean absolute weight.
        inactive: Share of units, of each rectifier, that are zero for 99% or more of the batch.
        saturated: Share of units, of each tanh or sigmoid, whose inputs lie beyond its range for 99% or more.
        variances: Variance of each activation's input.
    """

    step: int
    gradients: dict[str, float] = field(default_factory=dict)
    gradient_spread: dict[str, float] = field(default_factory=dict)
    weights: dict[str, float] = field(default_factory=dict)
    tiny: dict[str, float] = field(default_factory=dict)
    negative: dict[str, float] = field(default_factory=dict)
    updates: dict[str, float] = field(default_factory=dict)
    inactive: dict[str, float] = field(default_factory=dict)
    saturated: dict[str, float] = field(default_factory=dict)
    variances: dict[str, float] = field(default_factory=dict)


class Trace(L.Callback):
    """Keeps the numbers of a fit.

    Attributes:
        losses: The training loss of each step.
        first_batch: The first training batch.
        seen: The numbers of every so manyth step.
        validation: (Training loss, validation loss) of each epoch that logs ``val_loss``.

    Args:
        every: Steps from one look to the next.
    """

    def __init__(self, every: int = 5) -> None:
        self.every = every
        self.losses: list[float] = []
        self.first_batch: Any = None
        self.seen: list[Seen] = []
        self.validation: list[tuple[float, float]] = []
        self._before: dict[str, Tensor] = {}
        self._hooks: list[Any] = []
        self._batch = 0

    @property
    def _looks(self) -> bool:
        return self._batch % self.every == 0

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        for name, layer in pl_module.named_modules():
            if isinstance(layer, ACTIVATIONS):
                self._hooks.append(layer.register_forward_hook(self._hook(name)))

    def _hook(self, name: str) -> Any:
        def hook(layer: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
            if not (layer.training and self._looks and self.seen):
                return
            x, seen = inputs[0].detach().flatten(1), self.seen[-1]
            seen.variances[name] = x.var().item()
            if isinstance(layer, nn.ReLU):
                active = (output.detach().flatten(1) > 0).float().mean(0)
                seen.inactive[name] = (active < 0.01).float().mean().item()
            limit = {nn.Tanh: 9.4999, nn.Sigmoid: 23.0}.get(type(layer))  # type: ignore[arg-type]
            if limit:
                inside = (x.abs() < limit).float().mean(0)
                seen.saturated[name] = (inside < 0.01).float().mean().item()

        return hook

    def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:
        if self.first_batch is None:
            self.first_batch = batch
        if self._looks:
            self.seen.append(Seen(trainer.global_step))
            self._before = {name: weight.detach().clone() for name, weight in _weights(pl_module)}

    def on_after_backward(self, trainer: Any, pl_module: Any) -> None:
        if not (self._looks and self.seen):
            return
        for name, parameter in pl_module.named_parameters():
            if parameter.grad is not None and parameter.requires_grad:
                gradient = parameter.grad.detach().flatten()
                self.seen[-1].gradients[name] = gradient.abs().mean().item()
                low, high = gradient.quantile(torch.tensor([0.05, 0.95])).tolist()
                self.seen[-1].gradient_spread[name] = high - low

    def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        loss = outputs.get("loss") if isinstance(outputs, dict) else outputs  # nothing, by hand
        self.losses.append(float(loss) if loss is not None else math.nan)
        if self._looks:
            for name, weight in _weights(pl_module):
                size, seen = weight.abs().mean().item(), self.seen[-1]
                seen.weights[name] = size
                seen.tiny[name] = (weight.abs() < 1e-5).float().mean().item()
                seen.negative[name] = (weight < 0).float().mean().item()
                seen.updates[name] = (weight - self._before[name]).abs().mean().item() / (size + 1e-9)
        self._batch += 1

    def on_validation_epoch_end(self, trainer: Any, pl_module: Any) -> None:
        loss = trainer.callback_metrics.get("val_loss")
        if loss is not None and self.losses:
            self.validation.append((self.losses[-1], float(loss)))

    def on_train_end(self, trainer: Any, pl_module: Any) -> None:
        for hook in self._hooks:
            hook.remove()


def _weights(module: nn.Module) -> list[tuple[str, Tensor]]:
    parameters = module.named_parameters()
    return [(name, weight.detach()) for name, weight in parameters if weight.requires_grad and weight.dim() > 1]
