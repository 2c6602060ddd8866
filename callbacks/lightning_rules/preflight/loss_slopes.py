"""Slopes of the loss along directions in its parameters: by autograd, and by central differences."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from lightning_rules.deadline import Deadline
from lightning_rules.losses import LossCall, seen_losses
from lightning_rules.preflight.central_differences import Slope, slope
from lightning_rules.preflight.double_precision import LossFunction
from lightning_rules.preflight.graph_cuts import CutsSeen, seen_cuts
from lightning_rules.preflight.own_functions import FunctionSeen, examine, own_classes, recorded

# Of a parameter's size: shorter where a ReLU switches within the first, longer where rounding hides the slope.
STEPS = (1e-6, 1e-7, 1e-5)
FAILED = 2  # of those that fail, how many are looked at component by component
SHARE = 0.4  # of the time left that one round may take
NO_SLOPE = 1e-9  # of the loss's own slope: what remains of exact zeros
ADDED = 1e-3  # of the loss's own slope: a term that matters


@dataclass(frozen=True)
class ParameterSeen:
    """One parameter whose slopes differ.

    Attributes:
        name: The parameter.
        slope: Along a random direction.
        blocked: Whether autograd gives it no gradient at all.
        components: The indices of single components, flattened, with their slopes; only those that differ.
    """

    name: str
    slope: Slope
    blocked: bool
    components: tuple[tuple[int, Slope], ...] = ()

    @property
    def flat(self) -> bool:
        """Whether the loss does not depend on it at all, or autograd says so: not what an in-place change does."""
        numbers = abs(self.slope.analytic), abs(self.slope.numeric)
        return min(numbers) <= NO_SLOPE * max(numbers)


@dataclass(frozen=True)
class RoundSeen:
    """One comparison at one point.

    Attributes:
        compared: How many parameters were compared.
        parameters: How many there are.
        largest: The largest relative error among those that agree and could be resolved.
        kinks: Parameters at which the loss has two slopes, so that there is nothing to compare.
        unresolved: Parameters whose slope is too small a part of the loss to be seen.
        wrong: Parameters whose slopes differ.
        functions: What the user's own autograd functions came to.
        cuts: Where the step takes values out of the graph, if slopes differ.
        added: The slopes of what is added to torch's losses, where autograd has none; else None.
    """

    compared: int
    parameters: int
    largest: float
    kinks: int
    unresolved: int
    wrong: tuple[ParameterSeen, ...]
    functions: tuple[FunctionSeen, ...]
    cuts: CutsSeen
    added: Slope | None

    @property
    def agree(self) -> int:
        """How many parameters agree, of those that could be compared."""
        return self.compared - self.kinks - self.unresolved - len(self.wrong)


def see_round(function: LossFunction, tensors: int, components: int, deadline: Deadline) -> RoundSeen:
    """Compare slopes at the point where the parameters are, after a small nudge off exact zeros.

    Args:
        function: The loss.
        tensors: How many parameters are compared, evenly spread.
        components: How many single components are looked at where one fails.
        deadline: The time there is.

    Raises:
        NotApplicable: The loss is no function of the parameters, or the time is too short.
    """
    function.nudge()
    evaluation = Deadline()
    function.require_same_twice()
    seconds = evaluation.spent / 2
    deadline.require(30 * seconds, "a comparison of gradients")
    functions = _functions(function, components)
    here, gradients = function.gradients()
    affordable = int(min(1e6, SHARE * deadline.left / max(1e-6, 4 * seconds)))
    names = _spread(list(gradients), max(4, min(tensors, affordable)))
    kinks, unresolved, largest = 0, 0, 0.0
    wrong: list[ParameterSeen] = []
    for seed, name in enumerate(names):
        found = _along(function, name, function.direction(name, seed), gradients[name], here)
        if found.wrong and found.kink:
            kinks += 1
        elif found.wrong:
            looked = components if len(wrong) < FAILED and not deadline.left < 8 * components * seconds else 0
            wrong.append(_single_components(function, name, found, gradients[name], here, looked))
        elif found.resolved:
            largest = max(largest, found.error)
        else:
            unresolved += 1
    cuts = _cuts(function) if wrong else CutsSeen()
    added = _added_term(function) if wrong else None
    return RoundSeen(len(names), len(gradients), largest, kinks, unresolved, tuple(wrong), functions, cuts, added)


def _cuts(function: LossFunction) -> CutsSeen:
    with seen_cuts() as seen:
        function.loss()
    return seen


def _spread(names: list[str], count: int) -> list[str]:
    """Evenly spread, the first and the last among them."""
    if len(names) <= count:
        return names
    return [names[round(place * (len(names) - 1) / (count - 1))] for place in range(count)]


def _along(function: LossFunction, name: str, direction: Tensor, gradient: Tensor | None, here: float) -> Slope:
    return _best(function.along({name: direction}), _along_gradient(gradient, direction), here)


def _along_gradient(gradient: Tensor | None, direction: Tensor) -> float:
    return 0.0 if gradient is None else float((gradient * direction).sum())


def _best(function: Callable[[float], float], analytic: float, here: float) -> Slope:
    """With the step at which the two slopes are closest: a gradient that is wrong is wrong at each of them."""
    found: list[Slope] = []
    for step in STEPS:
        found.append(slope(function, analytic, here, step))
        if not found[-1].wrong:
            break
    return found[-1] if not found[-1].wrong else min(found, key=lambda one: one.error)


def _single_components(
    function: LossFunction, name: str, found: Slope, gradient: Tensor | None, here: float, count: int
) -> ParameterSeen:
    """Some components by themselves: those with the largest gradients, and some anywhere."""
    parameter = function.parameters[name]
    blocked = gradient is None or not bool(gradient.any())
    flat = torch.zeros(parameter.numel()) if gradient is None else gradient.flatten()
    generator = torch.Generator().manual_seed(4)
    anywhere = torch.randint(parameter.numel(), (count,), generator=generator).tolist()
    largest = flat.abs().topk(min(count, flat.numel())).indices.tolist()
    components = []
    for index in dict.fromkeys([*largest[: (count + 1) // 2], *anywhere][:count]):
        direction = torch.zeros_like(parameter).flatten()
        direction[index] = max(abs(float(parameter.detach().flatten()[index])), 0.05)
        direction = direction.view_as(parameter)
        single = slope(function.along({name: direction}), _along_gradient(gradient, direction), here, STEPS[0])
        if single.wrong and not single.kink:
            scale = float(direction.flatten()[index])
            components.append((index, _scaled(single, 1 / scale)))
    return ParameterSeen(name, found, blocked, tuple(components))


def _scaled(found: Slope, factor: float) -> Slope:
    """The slope in the parameter's own units."""
    numbers = (found.analytic, found.numeric, found.uncertainty, found.left, found.right)
    return Slope(*(number * factor for number in numbers))


def _functions(function: LossFunction, components: int) -> tuple[FunctionSeen, ...]:
    classes = own_classes(function.loss())
    if not classes:
        return ()
    with recorded(classes) as calls:
        function.loss()
    return tuple(examine(made_by, arguments, components) for made_by, arguments in calls)


def _added_term(function: LossFunction) -> Slope | None:
    """The slopes of what the step adds to torch's losses, where autograd gives that none though it has one.

    The step's loss is taken apart to first order: torch's loss functions, each with the weight that autograd gives
    it, and the rest. Weights that are held constant on purpose make no rest.
    """
    loss, calls = _with_calls(function)
    if not calls:
        return None
    values = [call.value for call in calls]
    weights = torch.autograd.grad(loss, values, retain_graph=True, allow_unused=True)
    weights = tuple(torch.zeros_like(v) if w is None else w for w, v in zip(weights, values, strict=True))
    wanted = list(function.parameters.values())
    rest = loss - _weighted(weights, calls)
    whole = torch.autograd.grad(loss, wanted, retain_graph=True, allow_unused=True)
    partial = torch.autograd.grad(rest, wanted, allow_unused=True)
    value = float(rest.detach())
    if abs(value) <= NO_SLOPE * abs(float(loss.detach())) or _size(partial) > NO_SLOPE * _size(whole):
        return None
    directions = {name: function.direction(name, 5) for name in function.parameters}

    def at() -> float:
        loss, calls = _with_calls(function)
        return float((loss - _weighted(weights, calls)).detach())

    found = _best(function.along(directions, at), 0.0, value)
    scale = abs(slope(function.along(directions), 0.0, float(loss.detach()), STEPS[0]).numeric)
    return found if found.wrong and abs(found.numeric) > ADDED * scale else None


def _with_calls(function: LossFunction) -> tuple[Tensor, list[LossCall]]:
    with seen_losses(function.module) as calls:
        loss = function.loss()
    return loss, list(calls)


def _weighted(weights: Any, calls: list[LossCall]) -> Tensor:
    return torch.stack([(weight * call.value).sum() for weight, call in zip(weights, calls, strict=True)]).sum()


def _size(gradients: Any) -> float:
    known = [gradient.to_dense() for gradient in gradients if gradient is not None]
    return math.sqrt(sum(float(gradient.square().sum()) for gradient in known))
