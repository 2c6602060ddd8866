"""What the training labels alone say: the constant output that is best before any input is seen.

The prior is the *effective* one: it folds in class weights, the weight of positives, label smoothing and the sampler,
since these decide where the loss of an untrained network really has its minimum (Karpathy 2019, "init well"; with
class-weighted cross-entropy the logarithm of the plain class frequencies is worse than no bias at all).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset

from lightning_rules.batches import leaf_at, leaves
from lightning_rules.labels import agree_with_items, draws, labels_of
from lightning_rules.losses import Kind, LossCall
from lightning_rules.rule import NotApplicable
from lightning_rules.view import View

EXAMPLES_READ = 4096
MEDIAN_VALUES = 4096
Array = np.ndarray[Any, np.dtype[np.float64]]
_counted: WeakKeyDictionary[Any, dict[Any, Tally]] = WeakKeyDictionary()


@dataclass(frozen=True, eq=False)
class Tally:
    """Sums over targets from which the best constant output follows; tallies of ranks add up.

    Attributes:
        kind: Which constant it is.
        sums: By kind: ``softmax``: mass a class ``[C]``; ``sigmoid``: mass of positives and negatives ``[2, K]``;
            ``mean``: sum of values and of weights ``[2, K]``; ``median``: values ``[n, K]``.
        examples: How many targets were counted.
        origin: Where they were read, in words.
        complete: Whether every rank counted the whole training set, and not a part of its own.
    """

    kind: Kind
    sums: Array
    examples: int
    origin: str
    complete: bool = False

    def __add__(self, other: Tally) -> Tally:
        sums = np.concatenate([self.sums, other.sums]) if self.kind == "median" else self.sums + other.sums
        examples = self.examples if self.complete else self.examples + other.examples
        return replace(self, sums=sums, examples=examples)

    @property
    def frequencies(self) -> Array:
        """Softmax: the share of each class ``[C]``; sigmoid: the base rates ``[K]``.

        Always inside (0, 1): what was never seen counts as if one more example had been spread evenly, so that it is
        rare and not impossible.
        """
        if self.kind == "softmax":
            share = self.sums / self.sums.sum()
            share = np.maximum(share, 1 / (len(share) * (self.examples + 1)))
            return np.asarray(share / share.sum())
        share = self.sums[0] / np.maximum(self.sums.sum(axis=0), 1e-12)
        return np.asarray(np.clip(share, 0.5 / (self.examples + 1), 1 - 0.5 / (self.examples + 1)))

    @property
    def constant(self) -> Array:
        """The best constant: log prior ``[C]``, logits of base rates, means or medians ``[K]``."""
        if self.kind == "softmax":
            return np.log(self.frequencies)
        if self.kind == "sigmoid":
            return np.log(self.frequencies) - np.log1p(-self.frequencies)
        if self.kind == "mean":
            return np.asarray(self.sums[0] / self.sums[1])
        return np.asarray(np.median(self.sums, axis=0))


def tally(call: LossCall, target: Tensor, outputs: int, origin: str, times: Tensor | None = None) -> Tally:
    """Count targets the way a loss weighs them.

    Args:
        call: The loss call: its weights and smoothing count.
        target: Targets shaped as those of the call, of any number of examples.
        outputs: How many outputs (biases) there are.
        origin: Where the targets were read, in words.
        times: How often each example is drawn, shape ``[examples]``; None where all are drawn alike.

    Raises:
        NotApplicable: Targets and outputs have no dimension in common, or weights differ from example to example.
    """
    target = target.detach().cpu()
    if call.kind == "softmax":
        return _tally_classes(call, target, outputs, origin, times)
    values = _columns(target.double(), outputs)
    rows = values.shape[0] // max(1, target.shape[0]) if target.dim() else 1
    drawn = torch.ones(len(values)) if times is None else times.repeat_interleave(rows)
    drawn = drawn.double().unsqueeze(1).expand_as(values)
    known = torch.isfinite(values)
    values, drawn = values.masked_fill(~known, 0.0), drawn.masked_fill(~known, 0.0)
    if call.kind == "median":
        middle = values.numpy()[np.linspace(0, len(values) - 1, min(len(values), MEDIAN_VALUES)).astype(int)]
        return Tally("median", middle, len(values), origin)
    weight = _per_output(call.arguments.get("weight"), outputs) * drawn
    sums = [(values * weight).sum(0), weight.sum(0)]
    if call.kind == "sigmoid":
        positive = _per_output(call.arguments.get("pos_weight"), outputs)
        sums = [sums[0] * positive.squeeze(0), ((1 - values) * weight).sum(0)]
    return Tally(call.kind, torch.stack([part.expand(outputs) for part in sums]).numpy(), len(values), origin)


def _tally_classes(call: LossCall, target: Tensor, classes: int, origin: str, times: Tensor | None) -> Tally:
    if target.is_floating_point():
        columns = _columns(target.double(), classes)
        counts = (columns if times is None else columns * times.unsqueeze(1)).sum(0)
        examples = len(columns)
    else:
        flat = target.flatten().long()
        known = (flat != call.arguments["ignore_index"]) & (flat >= 0) & (flat < classes)
        times = None if times is None else times.repeat_interleave(len(flat) // len(times))[known].double()
        counts = torch.bincount(flat[known], weights=times, minlength=classes).double()
        examples = int(known.sum())
    if examples == 0 or float(counts.sum()) == 0.0:
        raise NotApplicable("no target counts: all are ignored.")
    smoothing = float(call.arguments.get("label_smoothing", 0.0))
    weight = _per_output(call.arguments.get("weight"), classes).squeeze(0)
    mass = ((1 - smoothing) * counts + smoothing / classes * counts.sum()) * weight
    return Tally("softmax", mass.numpy(), examples, origin)


def constant_output(call: LossCall, constant: Array) -> Tensor:
    """A constant as the output that the loss would be given by a network that knows nothing else.

    Args:
        call: The loss call, for shape, type and device, and for whether it takes probabilities.
        constant: Logits, log priors or values, one an output ``[K]``; or a single one.

    Returns:
        A tensor of the shape of ``call.output``.
    """
    values = torch.as_tensor(constant, dtype=call.output.dtype, device=call.output.device)
    if call.function is F.binary_cross_entropy:
        values = torch.sigmoid(values)
    shape = call.output.shape
    if len(values) > 1 and len(shape) > 2 and shape[1] == len(values):
        values = values.reshape(-1, *(1,) * (len(shape) - 2))
    return values.expand(shape).contiguous()


def per_example(call: LossCall, output: Tensor) -> Tensor:
    """The loss of each example ``[n]`` for a given output, float64, on the host, averaged over all else."""
    with torch.no_grad():
        losses = call.loss_of(output if output.dtype is torch.float64 else output.float()).cpu().double()
    return losses.flatten(1).mean(1) if losses.dim() > 1 else losses.flatten()


def _columns(values: Tensor, outputs: int) -> Tensor:
    """Values as ``[n, outputs]``: all in one column for one output, else the dimension of that size last."""
    if outputs == 1:
        return values.reshape(-1, 1)
    if values.dim() > 1 and values.shape[1] == outputs:
        return values.movedim(1, -1).reshape(-1, outputs)
    if values.dim() > 0 and values.shape[-1] == outputs:
        return values.reshape(-1, outputs)
    raise NotApplicable(f"targets of shape {list(values.shape)} have no dimension of {outputs} outputs.")


def _per_output(weight: Any, outputs: int) -> Tensor:
    if not isinstance(weight, Tensor):
        return torch.ones(1, outputs, dtype=torch.float64)
    if weight.numel() not in (1, outputs):
        raise NotApplicable(f"a loss weight of shape {list(weight.shape)} differs from example to example.")
    return weight.detach().cpu().double().reshape(1, -1).expand(1, outputs)


def tally_of(view: View, call: LossCall, batch: Any, outputs: int) -> Tally:
    """Count the training targets of one loss, by the cheapest way that is true.

    1. All labels, read without inputs, where they are seen to be what the loss is given.
    2. Else the targets of the first 4,096 examples (of this rank), read through the loader.
    3. Else, where the step derives its targets itself, those of this batch.

    The first two are remembered as long as the loader lives.

    Args:
        view: The run.
        call: A loss call of this batch.
        batch: The batch, on the host.
        outputs: How many outputs (biases) there are.

    Raises:
        NotApplicable: The targets do not fit the outputs.
    """
    path = next((path for path, leaf in leaves(batch) if call.is_target(leaf)), None)
    if path is None:
        return tally(call, call.target, outputs, "the first batch, since training_step makes its targets itself")
    loader, inner = _loader_of(view.trainer.train_dataloader, path)
    known = _counted.setdefault(loader, {}) if isinstance(loader, DataLoader) else {}
    key = (inner, call.name, outputs, str(call.arguments.get("weight")), str(call.arguments.get("pos_weight")),
           call.arguments.get("label_smoothing"))  # fmt: skip
    if key not in known:
        known[key] = _all_labels(loader, inner, call, outputs) or _first_examples(view, path, call, outputs)
    return known[key]


def _all_labels(loader: Any, path: tuple[Any, ...], call: LossCall, outputs: int) -> Tally | None:
    if not isinstance(loader, DataLoader) or isinstance(loader.dataset, IterableDataset):
        return None
    labels, times = labels_of(loader.dataset, path), draws(loader)
    if labels is None or (times is not None and call.kind == "median"):
        return None
    target = call.as_target(labels)
    if target is None or len(target) != len(labels) or not agree_with_items(labels, loader.dataset, path):
        return None
    weighed = "" if times is None else ", weighed by the sampler"
    counted = tally(call, target, outputs, f"all {len(labels)} training labels{weighed}", times)
    return replace(counted, complete=True)


def _first_examples(view: View, path: tuple[Any, ...], call: LossCall, outputs: int) -> Tally:
    per_batch = max(1, len(call.target) if call.target.dim() else 1)
    read = view.batches(max(1, EXAMPLES_READ // per_batch), lambda batch: call.as_target(leaf_at(batch, path)))
    targets = torch.cat([target for target in read if target is not None])
    return tally(call, targets, outputs, f"the first {len(targets)} training targets")


def _loader_of(loaders: Any, path: tuple[Any, ...]) -> tuple[Any, tuple[Any, ...]]:
    """The loader that a part of the batch comes from, and the path within that loader's batch."""
    if isinstance(loaders, (dict, list, tuple)) and path:
        return _loader_of(loaders[path[0]], path[1:])
    return loaders, path
