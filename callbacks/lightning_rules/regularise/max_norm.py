"""The rule max-norm."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import isfinite
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd
from torch.optim import Optimizer

from lightning_rules.finding import Finding, Severity
from lightning_rules.rule import NotApplicable, Rule
from lightning_rules.shards import refuse_shards

NAME = "max-norm"
AT_LIMIT = 0.999  # of the limit: a unit whose norm rounding has left just below it is at it


@dataclass(frozen=True)
class Weight:
    """A weight whose units are constrained.

    Attributes:
        layer: The layer's path in the module.
        view: The weight with its units along dimensions of their own; shares memory with the parameter.
        dims: The dimensions of ``view`` that run over one unit's incoming weights.
    """

    layer: str
    view: Tensor
    dims: tuple[int, ...]


class MaxNorm(Rule):
    """The incoming weights of each unit never have a norm above a limit.

    Why: With dropout, large rates explore well but let weights explode; a limit on each unit's weights allows large
        rates, and other than weight decay it leaves small weights alone.

    What it does: After each step of each optimiser, scales the incoming weights of every unit whose Euclidean norm is
        above ``max_norm`` down to it; the others keep every bit. A unit is a row of a linear layer's weight, or a
        filter of a convolution with all its inputs (transposed convolutions too). Biases, norms, embeddings and
        recurrent layers are left alone, and so are frozen weights and weights shared with an embedding. When the fit
        ends it says how many units are at the limit.

    Fires when: It never alarms. At the end it advises a lower limit where no unit has come near it, so that the rule
        did nothing.

    Under DDP: Ranks hold the same weights after a step, and so the same limited weights; nothing is communicated.
        Sharded strategies (FSDP, DeepSpeed): does not apply.

    Cost: After each step two small kernels a weight and two more in all; no synchronisation with the device. One
        synchronisation when the fit ends.

    Example:
        >>> from lightning.pytorch import Trainer
        >>> trainer = Trainer(callbacks=[MaxNorm(max_norm=3.0)], logger=False)

    Source: Srivastava et al. (2014), "Dropout: A Simple Way to Prevent Neural Networks from Overfitting", section 5.1
        and appendix A.3 (typical limits: 3 to 4). Goodfellow, Bengio and Courville (2016), section 7.2.

    Args:
        max_norm: The limit, above 0.
        layers: Names of layers, as in ``named_modules()``; each has a weight of two or more dimensions, whose first
            runs over units (embeddings may be named). None: all linear and convolutional layers.
        on_error: ``"warn"`` or ``"raise"``; see :class:`~lightning_rules.Rule`.

    Raises:
        ValueError: An argument is out of range, or (when the fit starts) ``layers`` names no layer with such a weight.
    """

    name = NAME
    source = (
        'Srivastava et al. (2014), "Dropout: A Simple Way to Prevent Neural Networks from Overfitting", section 5.1'
    )
    kind = "enforce"

    def __init__(
        self, max_norm: float = 3.0, layers: list[str] | None = None, on_error: Literal["warn", "raise"] = "warn"
    ) -> None:
        super().__init__(on_error)
        if not (isfinite(max_norm) and max_norm > 0):
            raise ValueError(f"Expected `max_norm` to be above 0, but got {max_norm}; 3 or 4 are usual.")
        self.max_norm = max_norm
        self.layers = layers
        self._release: list[Any] = []
        self._limited: list[Weight] = []

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        """Follow each optimiser."""
        named = _named(pl_module, self.layers)
        limited: dict[Tensor, Weight] = {}

        def measure() -> list[tuple[str, int]]:
            refuse_shards(trainer)
            limited.update(weights_of(pl_module, named))
            if not limited:
                raise NotApplicable("the module has no trainable linear or convolutional layer.")
            return [(weight.layer, _units(weight)) for weight in limited.values()]

        self._let_go()
        self.observe(trainer, measure, lambda ranks: [_started(ranks[0], self.max_norm)])

        def limit_step(optimizer: Optimizer, args: Any, kwargs: Any) -> None:
            stepped = (p for group in optimizer.param_groups for p in group["params"] if p.grad is not None)
            limit([limited[parameter] for parameter in stepped if parameter in limited], self.max_norm)

        for optimizer in trainer.optimizers if limited else ():
            self._release.append(optimizer.register_step_post_hook(limit_step))
        self._limited = list(limited.values())

    def on_train_end(self, trainer: Any, pl_module: Any) -> None:
        """Say how many units are at the limit."""
        if self._release:
            self.observe(
                trainer,
                lambda: share_at_limit(self._limited, self.max_norm),
                lambda ranks: [judge_end(ranks[0], self.max_norm)],
            )
        self._let_go()

    def on_exception(self, trainer: Any, pl_module: Any, exception: BaseException) -> None:
        """Let the optimisers go."""
        self._let_go()
        super().on_exception(trainer, pl_module, exception)

    def _let_go(self) -> None:
        for handle in self._release:
            handle.remove()
        self._release, self._limited = [], []


def _named(module: nn.Module, names: list[str] | None) -> dict[str, nn.Module]:
    """The layers that a user named, or all that have units.

    Raises:
        ValueError: A name is not a layer with a weight of two or more dimensions.
    """
    layers = dict(module.named_modules())
    if names is None:
        return {name: layer for name, layer in layers.items() if isinstance(layer, (nn.Linear, _ConvNd))}
    for name in names:
        weight = getattr(layers.get(name), "weight", None)
        if not isinstance(weight, Tensor) or weight.dim() < 2:
            raise ValueError(
                f"`layers` names {name!r}, which is no layer with a weight of two or more dimensions; "
                "take names from `named_modules()`."
            )
    return {name: layers[name] for name in names}


def weights_of(module: nn.Module, layers: dict[str, nn.Module]) -> Iterator[tuple[Tensor, Weight]]:
    """The trainable weights of these layers, each with the view that shows its units."""
    asked = {id(layer) for layer in layers.values()}
    embeddings = (nn.Embedding, nn.EmbeddingBag)
    spared = {layer.weight for layer in module.modules() if isinstance(layer, embeddings) and id(layer) not in asked}
    for name, layer in layers.items():
        weight = layer._parameters.get("weight")
        if weight is not None and weight.requires_grad and weight not in spared:
            yield weight, Weight(name, *_by_unit(layer, weight.detach()))


def _by_unit(layer: nn.Module, weight: Tensor) -> tuple[Tensor, tuple[int, ...]]:
    """The weight with its units apart, and the dimensions that run over each unit's incoming weights."""
    if isinstance(layer, _ConvTransposeNd):  # [in, out / groups, ...]
        view = weight.view(layer.groups, -1, *weight.shape[1:])
        return view, (1, *range(3, view.dim()))
    return weight, tuple(range(1, weight.dim()))


def _units(weight: Weight) -> int:
    return weight.view.numel() // max(1, _incoming(weight))


def _incoming(weight: Weight) -> int:
    size = 1
    for dim in weight.dims:
        size *= weight.view.shape[dim]
    return size


def _norms(weights: Sequence[Weight]) -> list[Tensor]:
    """The norm of each unit, in single precision at least, with dimensions kept."""
    return [
        torch.linalg.vector_norm(w.view, dim=w.dims, keepdim=True, dtype=torch.promote_types(w.view.dtype, torch.float))
        for w in weights
    ]


@torch.no_grad()
def limit(weights: Sequence[Weight], max_norm: float) -> None:
    """Scale units above the limit down to it, in place; divides the others by exactly 1."""
    if not weights:
        return
    norms = _norms(weights)
    torch._foreach_clamp_min_(norms, max_norm)
    torch._foreach_div_(norms, max_norm)
    torch._foreach_div_([weight.view for weight in weights], norms)


@torch.no_grad()
def share_at_limit(weights: Sequence[Weight], max_norm: float) -> tuple[int, int, float]:
    """How many units are at the limit, of how many, and the largest norm."""
    norms = torch.cat([norm.flatten().float().cpu() for norm in _norms(weights)])
    return int((norms >= AT_LIMIT * max_norm).sum()), norms.numel(), float(norms.max())


def _started(layers: Sequence[tuple[str, int]], max_norm: float) -> Finding:
    units = sum(count for _, count in layers)
    some = ", ".join(f"`{name}`" for name, _ in layers[:3]) + (", ..." if len(layers) > 3 else "")
    message = f"Keeps the incoming weights of {units} units in {len(layers)} layers ({some}) to a norm of {max_norm:g}."
    evidence = {"units": units, "layers": len(layers), "max_norm": max_norm}
    return Finding(NAME, Severity.INFO, message, evidence=evidence)


def judge_end(seen: tuple[int, int, float], max_norm: float) -> Finding:
    """What the limit did; pure."""
    at_limit, units, largest = seen
    evidence = {"units_at_limit": at_limit, "units": units, "largest_norm": largest}
    if at_limit == 0:
        message = f"No unit of {units} is at the limit of {max_norm:g}; the largest norm is {largest:.3g}."
        advice = f"Set `max_norm` below {largest:.2g} if it is meant to regularise."
        return Finding(NAME, Severity.INFO, message, advice, evidence)
    return Finding(NAME, Severity.OK, f"{at_limit} of {units} units are at the limit of {max_norm:g}.", "", evidence)
