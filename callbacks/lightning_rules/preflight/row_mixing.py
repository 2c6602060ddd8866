"""Whether what a network says of one example changes when the other examples of its batch do."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from lightning_rules.batches import leaves
from lightning_rules.losses import LossCall
from lightning_rules.preflight.batch_parts import input_leaves, mapped, with_inputs
from lightning_rules.rule import NotApplicable, attempt
from lightning_rules.view import View

SIZES = (13, 11, 7, 5)  # examples; primes, so that the dimension that counts them is seldom another one
FULL, HALF = 1e-3, 5e-2  # of the outputs' spread: what rounding may change, in 32 and in 16 bits
SEED = 0


@dataclass(frozen=True)
class Mixing:
    """How much the outputs of untouched rows changed when others did.

    Attributes:
        untouched: The largest change in untouched rows, over the spread of the outputs.
        touched: The same in the rows whose inputs were changed.
        tolerance: What rounding may change.
        rows: How many rows the probe had.
        output: Which output was looked at, in words.
        where: Where rows mix first, in words; "" where that is not seen.
        outside: Whether rows were mixed before any module saw them, as mixup does.
    """

    untouched: float
    touched: float
    tolerance: float
    rows: int
    output: str
    where: str
    outside: bool


@dataclass
class _Run:
    """One forward pass: the outputs looked at, and the first tensors that went into and came out of each module."""

    outputs: list[tuple[str, Tensor]]
    trace: list[tuple[str, str, Tensor, Tensor]]


def example_dimensions(inputs: list[Tensor], others: list[Tensor]) -> list[int]:
    """The dimensions, 0 or 1, that may count the examples in all inputs and all targets.

    Raises:
        NotApplicable: There is none.
    """
    found = []
    for dim in (0, 1):
        sizes = {leaf.shape[dim] if leaf.dim() > dim else 0 for leaf in inputs}
        if len(sizes) != 1:
            continue
        size = sizes.pop()
        fits = all(size in leaf.shape[:2] for leaf in others if leaf.dim() > 0)
        if size >= SIZES[-1] and fits:
            found.append(dim)
    if not found:
        raise NotApplicable("it is not clear which dimension of the batch counts its examples.")
    return found


def cut(batch: Any, inputs: list[Tensor], dim: int, count: int) -> Any:
    """The first rows of a batch along the dimension of its inputs that counts them."""
    size = inputs[0].shape[dim]
    given = {id(leaf) for leaf in inputs}

    def shorter(part: Any) -> Any:
        if not isinstance(part, Tensor) or part.dim() == 0:
            return part
        along = dim if id(part) in given or (part.dim() > dim and part.shape[dim] == size) else 0
        return part.narrow(along, 0, count) if part.shape[along] == size else part

    return mapped(batch, shorter)


def rows_mixed(view: View, whole: Any, dim: int) -> list[Mixing]:
    """Change half of the rows of a small batch, then the other half, and see whether the rest of the outputs changes.

    Args:
        view: The run.
        whole: A batch on the host.
        dim: The dimension of the inputs that counts rows.

    Returns:
        One entry an output.

    Raises:
        NotApplicable: The batch is too small, or no output has rows.
    """
    inputs = input_leaves(view, whole)
    count = next((size for size in SIZES if size <= inputs[0].shape[dim]), None)
    if count is None:
        raise NotApplicable(f"a batch of {inputs[0].shape[dim]} examples is too small to see whether they mix.")
    batch = cut(whole, inputs, dim, count)
    half = torch.randperm(count, generator=torch.Generator().manual_seed(SEED)) % 2 == 0
    found = _compared(view, batch, dim, count, [half, ~half])
    if any(mixing.outside for mixing in found):  # an augmentation of training, or a bug: validation tells
        seen, _ = attempt(lambda: _compared(view, batch, dim, count, [half, ~half], validation=True))
        mixed = [replace(mixing, outside=False) for mixing in seen or [] if mixing.untouched > mixing.tolerance]
        return mixed or found
    return found


def later_seen(view: View, whole: Any, dim: int) -> list[Mixing]:
    """Change the later half of each sequence, and see whether outputs at earlier times change."""
    inputs = input_leaves(view, whole)
    length = inputs[0].shape[dim]
    return _compared(view, whole, dim, length, [torch.arange(length) >= length // 2], shorter=1)


def _compared(
    view: View,
    batch: Any,
    dim: int,
    count: int,
    changed: list[Tensor],
    shorter: int = 0,
    validation: bool = False,
) -> list[Mixing]:
    inputs = input_leaves(view, batch)
    before = _run(view, batch, validation)
    found: dict[str, Mixing] = {}
    for rows in changed:
        other = with_inputs(batch, inputs, partial(_replaced, dim=dim, rows=rows, shift=bool(shorter)))
        after = _run(view, other, validation)
        for (name, one), (_, two) in zip(before.outputs, after.outputs, strict=True):
            mixing = _mixing(name, one, two, rows, count, shorter)
            if mixing is None:
                continue
            if mixing.untouched > mixing.tolerance and not shorter:
                mixing = _located(mixing, before, after, rows, count)
            if name not in found or mixing.untouched > found[name].untouched:
                found[name] = mixing
    if not found:
        raise NotApplicable("no output of the network has a row for each example.")
    return list(found.values())


def _replaced(leaf: Tensor, dim: int, rows: Tensor, shift: bool) -> Tensor:
    """The leaf with some rows overwritten by the first of them, or, for times, shifted by one."""
    moved = leaf.detach().clone().movedim(dim, 0)
    chosen = rows.nonzero().flatten()
    source = moved[chosen].roll(1, 0) if shift else moved[chosen[:1]].expand(len(chosen), *moved.shape[1:])
    if torch.equal(source, moved[chosen]):
        source = moved[(~rows).nonzero().flatten()[:1]].expand_as(source)
    moved[chosen] = source.clone()
    return moved.movedim(0, dim)


def _run(view: View, batch: Any, validation: bool) -> _Run:
    """The training step in evaluation mode, or the validation step, with the same random numbers each time."""
    with _traced(view.module) as trace, view.on_loan():
        torch.manual_seed(SEED)
        with view.validation_step(batch) if validation else view.step(batch, evaluation=True) as step:
            outputs = [(call.name, call.output.detach().float().cpu()) for call in step.calls if _labelled(call, batch)]
    return _Run(outputs or _outermost(trace), trace)


def _labelled(call: LossCall, batch: Any) -> bool:
    """Whether a loss is compared with labels of the batch: similarities of examples are compared with their places."""
    target = call.target.detach().cpu().flatten()
    return any(
        leaf.numel() == target.numel() and torch.equal(leaf.flatten().to(target), target) for _, leaf in leaves(batch)
    )


def _outermost(trace: list[tuple[str, str, Tensor, Tensor]]) -> list[tuple[str, Tensor]]:
    """The outputs of the modules that no other module called; where there is no loss that could be asked."""
    names = [name for name, _, _, _ in trace if name]
    outer = [name for name in names if not any(name.startswith(f"{other}.") for other in names)]
    return [(name, out) for name, _, _, out in trace if name in outer]


@contextmanager
def _traced(module: nn.Module) -> Iterator[list[tuple[str, str, Tensor, Tensor]]]:
    """Record what goes into and comes out of each module, in the order in which they end."""
    trace: list[tuple[str, str, Tensor, Tensor]] = []

    def hook_of(name: str) -> Callable[..., None]:
        def hook(part: nn.Module, inputs: Any, output: Any) -> None:
            first = next((leaf for _, leaf in leaves(inputs)), None)
            out = next((leaf for _, leaf in leaves(output)), None)
            if first is not None and out is not None:
                trace.append(
                    (name, type(part).__name__, first.detach().cpu().clone(), out.detach().float().cpu().clone())
                )

        return hook

    handles = [part.register_forward_hook(hook_of(name)) for name, part in module.named_modules()]
    try:
        yield trace
    finally:
        for handle in handles:
            handle.remove()


def _mixing(name: str, one: Tensor, two: Tensor, rows: Tensor, count: int, shorter: int) -> Mixing | None:
    """The smallest change in untouched rows over all ways to read rows in an output; None where there is no way."""
    if one.shape != two.shape or one.dim() == 0:
        return None
    tolerance = HALF if _is_coarse(one) else FULL
    best: Mixing | None = None
    for seen_one, seen_two in zip(_layouts(one, count, shorter), _layouts(two, count, shorter), strict=True):
        kept = ~rows[: len(seen_one)]
        change = (
            (seen_one - seen_two).abs().flatten(1).amax(1) if seen_one[0].numel() else seen_one.new_zeros(len(kept))
        )
        spread = float(seen_one.std()) + 1e-6 * float(seen_one.abs().max()) + 1e-12
        untouched, touched = float(change[kept].max()) / spread, float(change[~kept].max()) / spread
        if best is None or untouched < best.untouched:
            best = Mixing(untouched, touched, tolerance, count, name, "", False)
    return best


def _layouts(output: Tensor, count: int, shorter: int) -> list[Tensor]:
    """An output with its rows first, in each way that its shape allows."""
    flat = output.reshape(1) if output.dim() == 0 else output
    sizes = [count - less for less in range(shorter + 1)]
    found = [flat.movedim(dim, 0) for dim in range(flat.dim()) if flat.shape[dim] in sizes]
    for size in sizes:
        if flat.shape[0] > size and flat.shape[0] % size == 0:
            parts = flat.shape[0] // size
            found.append(flat.reshape(size, parts, -1))
            found.append(flat.reshape(parts, size, -1).movedim(1, 0))
    return [layout.reshape(len(layout), -1) for layout in found]


def _is_coarse(output: Tensor) -> bool:
    """Whether values carry 16 bits only."""
    return torch.equal(output, output.to(torch.bfloat16).float()) or torch.equal(output, output.half().float())


def _located(mixing: Mixing, before: _Run, after: _Run, rows: Tensor, count: int) -> Mixing:
    """Say where rows mix first: in the first module that gets separate rows and gives mixed ones, or before one."""
    calls = [
        (name, kind, _is_mixed(x1, x2, rows, count), _is_mixed(y1, y2, rows, count))
        for (name, kind, x1, y1), (_, _, x2, y2) in zip(before.trace, after.trace, strict=False)
    ]
    made = [mixed_out and not mixed_in for _, _, mixed_in, mixed_out in calls]
    for name, kind, mixed_in, mixed_out in calls:
        if mixed_in:
            return replace(mixing, where=f"before {name or 'the module'} ({kind})", outside=not any(made))
        if mixed_out:
            return replace(mixing, where=f"in {name or 'the module'} ({kind})", outside=False)
    return replace(mixing, where="between the network and its loss", outside=False)


def _is_mixed(one: Tensor, two: Tensor, rows: Tensor, count: int) -> bool:
    if not one.is_floating_point() or one.shape != two.shape or one.dim() == 0:
        return False
    found = _mixing("", one.float(), two.float(), rows, count, 0)
    return found is not None and found.untouched > found.tolerance
