"""What a network really gets: the tensor that enters its first weighted layer, and what its losses are called with."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map_only

from lightning_rules.batches import leaf_at
from lightning_rules.losses import LossCall
from lightning_rules.rule import NotApplicable
from lightning_rules.view import View

PLACES = 8192  # values of a picture that are looked at, about
# Layers that leave a common factor of their input a common factor: a norm behind them still takes it out.
HOMOGENEOUS = (nn.ReLU, nn.LeakyReLU, nn.PReLU, nn.Identity, nn.Dropout, nn.Flatten, nn.MaxPool2d, nn.AvgPool2d)


@dataclass(frozen=True, eq=False)
class Entered:
    """What entered the first weighted layer.

    Attributes:
        values: One row an example ``[n, ...]``, float32, on the host; None where rows are not examples.
        layer: The layer's class and path: ``"Conv2d net.conv1"``.
        embeds: Whether this layer looks up ids, so that scale means nothing.
        normalised: ``"before"`` where a normalisation layer stands before it, ``"after"`` where one takes the scale
            out right behind it, else empty.
        augmented: Whether the same batch enters otherwise when it is stepped again.
    """

    values: Tensor | None
    layer: str
    embeds: bool
    normalised: str
    augmented: bool = False


@dataclass(frozen=True)
class LossFacts:
    """What one loss function was called with, in numbers.

    Attributes:
        function: Its name: ``"cross_entropy"``.
        kind: As :data:`lightning_rules.losses.Kind`.
        classes: Size of the class dimension; 1 where the output has none.
        floating: Whether the targets are floating point numbers.
        lowest: Least finite target.
        highest: Greatest finite target.
        target_rms: Root mean square of the finite targets.
        target_std: Their standard deviation.
        output_std: Standard deviation of the network's output.
        error_rms: Root mean square of output minus target; 0 where shapes differ.
        uneven_rows: Share of examples whose soft targets do not add up to 1; 0 for other targets.
        weighted: Whether the loss weighs classes.
        ignored: The label that the loss leaves out.
        own: Whether its targets are those of the batch, and not made by the step.
    """

    function: str
    kind: str
    classes: int
    floating: bool
    lowest: float
    highest: float
    target_rms: float
    target_std: float
    output_std: float
    error_rms: float
    uneven_rows: float
    weighted: bool
    ignored: int
    own: bool


class _Enough(Exception):
    """Ends a forward pass: what had to be seen was seen."""


class _FirstLayer:
    """Hooks of all layers, which see the first weighted one that is given something made of the batch."""

    def __init__(self, marked: bool) -> None:
        self.marked = marked
        self.rows: list[Tensor] = []
        self.name, self.embeds, self.normalised = "", False, ""
        self._found = False

    def begin(self) -> None:
        self._found = False

    def hook(self, name: str) -> Any:
        def before(layer: nn.Module, inputs: Any) -> None:
            given = next((value for value in inputs if isinstance(value, Tensor)), None)
            if self._found:
                self._look_behind(layer)
            elif given is not None and "Norm" in type(layer).__name__:
                self.normalised = "before"
            elif given is not None and is_weighted(layer) and (given.requires_grad or not self.marked):
                self._found, self.name = True, f"{type(layer).__name__} {name}"
                self.embeds = isinstance(layer, (nn.Embedding, nn.EmbeddingBag))
                self.rows.append(thinned(given.detach()).float().cpu())

        return before

    def _look_behind(self, layer: nn.Module) -> None:
        if isinstance(layer, HOMOGENEOUS):
            return
        if "Norm" in type(layer).__name__ and not self.normalised:
            self.normalised = "after"
        raise _Enough


def thinned(values: Tensor) -> Tensor:
    """Pictures ``[n, channels, height, width]`` with every so many rows and columns, others as they are."""
    if values.dim() != 4:
        return values
    step = max(1, round((values[0].numel() / PLACES) ** 0.5)) if len(values) else 1
    return values[..., ::step, ::step]


def is_weighted(layer: nn.Module) -> bool:
    """Whether a layer mixes its inputs by weights of its own."""
    whole = isinstance(layer, (nn.MultiheadAttention, nn.RNNBase))
    alone = next(layer.children(), None) is None
    return whole or (alone and any(p is not None and p.dim() > 1 for p in layer._parameters.values()))


def entered(view: View, batches: list[tuple[int, Any]], path: tuple[Any, ...], validation: bool) -> Entered:
    """Run the user's step on batches in evaluation mode, as far as the first weighted layer.

    Args:
        view: The run.
        batches: Batches on the host, each with its number of examples.
        path: Where in a batch its main input stands.
        validation: Run ``validation_step`` in place of ``training_step``.

    Raises:
        NotApplicable: The step cannot be run, or no layer is given what stands in the batch.
    """
    marked = leaf_at(batches[0][1], path).is_floating_point()
    first = _FirstLayer(marked)
    with view.on_loan(), _hooked(view.module, first), torch.compiler.set_stance("force_eager"):
        view.module.eval()
        view.module.requires_grad_(False)
        for _, batch in [*batches, batches[0]]:
            first.begin()
            with suppress(_Enough):
                _run(view, _marked(batch, path) if marked else batch, validation)
    if not first.rows:
        raise NotApplicable("no layer with weights of its own is given the batch's input.")
    *rows, again = first.rows
    augmented = not rows or not torch.equal(rows[0].nan_to_num(), again.nan_to_num())
    return Entered(_one_each(rows, batches), first.name, first.embeds, first.normalised, augmented)


def _run(view: View, batch: Any, validation: bool) -> None:
    if not validation:
        view.loss(batch, 0)
        return
    with view.validation_step(batch):
        pass


def _marked(batch: Any, path: tuple[Any, ...]) -> Any:
    """The batch with its main input marked: what is computed from it, and from nothing else, has a gradient."""
    main = leaf_at(batch, path)
    mark = main.detach().clone().requires_grad_() * 1
    return tree_map_only(Tensor, lambda leaf: mark if leaf is main else leaf, batch)


@contextmanager
def _hooked(module: nn.Module, first: _FirstLayer) -> Iterator[None]:
    handles = [
        layer.register_forward_pre_hook(first.hook(name))
        for name, layer in module.named_modules()
        if name and (is_weighted(layer) or next(layer.children(), None) is None)
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _one_each(rows: list[Tensor], batches: list[tuple[int, Any]]) -> Tensor | None:
    fits = len(rows) == len(batches) and all(
        part.dim() > 1 and len(part) % count == 0 for part, (count, _) in zip(rows, batches, strict=True)
    )
    alike = fits and len({part.shape[1:] for part in rows}) == 1
    return torch.cat(rows) if alike else None


def losses(view: View, batch: Any, path: tuple[Any, ...] | None) -> tuple[tuple[LossFacts, ...], str]:
    """What the losses of one training step, in evaluation mode, are called with; and why it failed, if it did.

    Args:
        view: The run.
        batch: A batch on the host.
        path: Where in it the targets stand.

    Raises:
        NotApplicable: The step cannot be run beside the run.
    """
    own = None if path is None else leaf_at(batch, path)
    try:
        with view.step(batch, evaluation=True) as step, torch.no_grad():
            return tuple(_facts(call, own) for call in step.calls), ""
    except NotApplicable:
        raise
    except Exception as error:
        return (), f"{type(error).__name__}: {str(error).partition(chr(10))[0]}"


def is_finite(view: View, batch: Any) -> bool:
    """Whether the loss of the training step, in evaluation mode, is a finite number.

    Raises:
        NotApplicable: The step returns no loss, or cannot be run beside the run.
    """
    with view.step(batch, evaluation=True) as step:
        if step.loss is None:
            raise NotApplicable("training_step returned no loss.")
        return bool(torch.isfinite(step.loss.detach()).all())


def _facts(call: LossCall, own: Tensor | None) -> LossFacts:
    target, output = call.target.detach().cpu(), call.output.detach().cpu().double()
    values = target.double()[torch.isfinite(target.double())]
    soft = call.kind == "softmax" and target.is_floating_point() and target.dim() > 1
    sums = target.double().sum(1) if soft else torch.ones(1)
    ignored = call.arguments.get("ignore_index")
    return LossFacts(
        function=call.name,
        kind=call.kind,
        classes=int(output.shape[call.class_dim]) if output.dim() > 1 or call.kind == "softmax" else 1,
        floating=target.is_floating_point(),
        lowest=float(values.min()) if len(values) else 0.0,
        highest=float(values.max()) if len(values) else 0.0,
        target_rms=float(values.square().mean().sqrt()) if len(values) else 0.0,
        target_std=float(values.std(correction=0)) if len(values) else 0.0,
        output_std=float(output.std(correction=0)),
        error_rms=float((output - target).square().nanmean().sqrt()) if output.shape == target.shape else 0.0,
        uneven_rows=float(((sums - 1).abs() > 1e-3).double().mean()),
        weighted=isinstance(call.arguments.get("weight"), Tensor) or call.arguments.get("pos_weight") is not None,
        ignored=-100 if ignored is None else int(ignored),
        own=own is not None and _is_made_of(target, own.detach().cpu()),
    )


def _is_made_of(target: Tensor, own: Tensor) -> bool:
    """Whether a loss's targets are the batch's, but for type, shape and one-hot coding."""
    if target.numel() == own.numel():
        return torch.allclose(target.double().flatten(), own.double().flatten(), equal_nan=True)
    coded = target.is_floating_point() and target.dim() == 2 and own.numel() == len(target)
    return coded and torch.equal(target.argmax(1), own.flatten().long())
