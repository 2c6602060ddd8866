"""Whether loss and gradients of a step are finite, and which operation made them so if not."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from lightning_utilities.core.apply_func import apply_to_collection
from torch import Tensor

from lightning_rules.batches import leaves
from lightning_rules.rule import NotApplicable
from lightning_rules.view import View

NAMED = 3  # parameters that a message names
INPUTS = (("zero", 0.0), ("constant", 1.0))


@dataclass(frozen=True)
class StepSeen:
    """One step, in the precision of the run.

    Attributes:
        loss: Its loss.
        names: Parameters whose gradient is not finite, the first few.
        count: How many there are.
        operation: The operation whose backward was the first to turn finite numbers into others; else empty.
    """

    loss: float
    names: tuple[str, ...] = ()
    count: int = 0
    operation: str = ""

    @property
    def finite(self) -> bool:
        """Whether all of it is finite."""
        return abs(self.loss) < float("inf") and not self.count


def see_step(view: View, batch: Any) -> StepSeen:
    """Run one step and its backward pass, without a trace.

    Raises:
        NotApplicable: The step gives no loss, or one without gradient.
    """
    trained = {name: value for name, value in view.module.named_parameters() if value.requires_grad}
    with view.step(batch) as step:
        loss = _with_gradient(step.loss)
        gradients = torch.autograd.grad(loss, list(trained.values()), allow_unused=True)
    pairs = [(name, gradient) for name, gradient in zip(trained, gradients, strict=True) if gradient is not None]
    bad = [name for name, gradient in pairs if not bool(gradient.to_dense().isfinite().all())]
    operation = _operation(view, batch, list(trained.values())) if bad else ""
    return StepSeen(float(loss.detach()), tuple(bad[:NAMED]), len(bad), operation)


def _with_gradient(loss: Tensor | None) -> Tensor:
    if loss is None or loss.grad_fn is None:
        raise NotApplicable(f"training_step gives no loss{'' if loss is None else ' that has a gradient'}.")
    return loss.sum()


def _operation(view: View, batch: Any, trained: list[Tensor]) -> str:
    """The first operation whose backward is given finite numbers and returns others."""
    guilty: list[str] = []

    def watch(node: Any) -> None:
        def hook(returned: Any, given: Any) -> None:
            if not guilty and _finite(given) and not _finite(returned):
                guilty.append(node.name().partition("Backward")[0])

        node.register_hook(hook)

    with view.step(batch) as step:
        loss = _with_gradient(step.loss)
        level = [loss.grad_fn]
        seen = set(level)
        while level:
            for node in level:
                watch(node)
            above = {node for below in level if below is not None for node, _ in below.next_functions if node}
            level = list(above - seen)
            seen |= above
        torch.autograd.grad(loss, trained, allow_unused=True)
    return guilty[0] if guilty else ""


def _finite(values: Any) -> bool:
    tensors = [value for value in values if isinstance(value, Tensor) and not value.is_sparse]
    return all(bool(value.isfinite().all()) for value in tensors)


def see_constant_inputs(view: View, batch: Any) -> dict[str, StepSeen]:
    """Steps on inputs that are all zero, and all one, with the batch's own targets; those that are not finite.

    A blank image, or silence, is all that it takes to divide by a standard deviation of zero.

    Returns:
        What was seen, by the kind of input; empty where all is finite, or the step does not take such inputs.
    """
    inputs, _ = view.split(batch)
    places = {id(part) for _, part in leaves(inputs) if part.is_floating_point()}
    seen = {}
    for name, value in INPUTS if places else ():
        try:
            step = see_step(view, _filled(batch, places, value))
        except Exception:  # a step may refuse inputs that its data never has
            continue
        if not step.finite:
            seen[name] = step
    return seen


def _filled(batch: Any, places: set[int], value: float) -> Any:
    return apply_to_collection(batch, Tensor, lambda part: torch.full_like(part, value) if id(part) in places else part)
