"""Each call of the user's own ``torch.autograd.Function`` in a step, differentiated by itself.

The loss as a whole cannot tell a wrong backward from a gradient that is held back on purpose (``detach``). A function
with a backward of its own can: it claims to know its derivative.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from lightning_rules.preflight.central_differences import Slope, slope

NOT_OWN = ("torch", "torchvision", "torchaudio", "lightning", "pytorch_lightning", "timm", "torchmetrics")
STEP = 1e-5
FLAT = 1e-9  # a numeric slope this small a part of the analytic one is none: the function is flat there
LARGEST = 5_000_000  # values of an input; a larger one is not copied some dozen times
CALLS = 4  # of one function in a step


@dataclass(frozen=True)
class Component:
    """One component of an input of one function, whose slope by autograd is not the numeric one.

    Attributes:
        function: The class's name, with its module: ``"model.ScaledTanh"``.
        argument: Which argument of ``forward``, from 0.
        index: Which element of it, flattened.
        slope: Both slopes.
        identity: Whether the function returns this argument unchanged: such a backward is meant to differ.
    """

    function: str
    argument: int
    index: int
    slope: Slope
    identity: bool

    @property
    def intended(self) -> bool:
        """Whether this is how straight-through estimators, surrogate gradients and gradient reversal look."""
        flat = abs(self.slope.numeric) <= max(FLAT * abs(self.slope.analytic), self.slope.uncertainty)
        return self.identity or flat


@dataclass(frozen=True)
class FunctionSeen:
    """What the components of one call came to.

    Attributes:
        function: The class's name, with its module.
        compared: How many components were compared.
        wrong: Those whose slopes differ beyond doubt.
        refused: Why it could not be differentiated; empty if it could.
    """

    function: str
    compared: int = 0
    wrong: tuple[Component, ...] = ()
    refused: str = ""

    @property
    def straight_through(self) -> bool:
        """Whether the function is flat, or an identity, at some component where it still gives a gradient.

        What else such a function returns for its gradient (that of a step size of quantisation) is chosen too.
        """
        return any(component.intended for component in self.wrong)


def own_classes(loss: Tensor) -> list[type[Any]]:
    """The user's Function classes in the graph of a loss, each once."""
    found: dict[Any, None] = {}
    level = [loss.grad_fn]
    seen = set(level)
    while level:
        for node in level:
            made_by = getattr(node, "_forward_cls", None)
            if made_by is not None and made_by.__module__.partition(".")[0] not in NOT_OWN:
                found[made_by] = None
        above = {node for below in level if below is not None for node, _ in below.next_functions if node is not None}
        level = list(above - seen)
        seen |= above
    return list(found)


@contextmanager
def recorded(classes: list[type[Any]]) -> Iterator[list[tuple[type[Any], tuple[Any, ...]]]]:
    """Record the arguments of each call of these functions inside the block.

    Yields:
        The class and copies of the arguments of each call.
    """
    calls: list[tuple[type[Any], tuple[Any, ...]]] = []
    originals = [(made_by, made_by.__dict__.get("forward")) for made_by in classes]
    try:
        for made_by, _ in originals:
            made_by.forward = staticmethod(_recording(made_by, made_by.forward, calls))
        yield calls
    finally:
        for made_by, original in originals:
            if original is None:
                del made_by.forward
            else:
                made_by.forward = original


def _recording(made_by: type[Any], forward: Any, calls: list[tuple[type[Any], tuple[Any, ...]]]) -> Any:
    with_context = not _has_setup_context(made_by)

    def recording(*args: Any, **kwargs: Any) -> Any:
        given = args[1:] if with_context else args
        known = sum(made is made_by for made, _ in calls)
        if known < CALLS:
            calls.append((made_by, tuple(_kept(value) for value in given)))
        return forward(*args, **kwargs)

    return recording


def _has_setup_context(made_by: type[Any]) -> bool:
    return made_by.setup_context is not torch.autograd.Function.setup_context


def _kept(value: Any) -> Any:
    return value.detach().clone() if isinstance(value, Tensor) else value


def examine(made_by: type[Any], arguments: tuple[Any, ...], components: int) -> FunctionSeen:
    """Compare slopes at some components of each float argument of one call.

    Args:
        made_by: The class.
        arguments: What ``apply`` is given.
        components: How many components of each argument: half of them those with the largest gradient.
    """
    name = f"{made_by.__module__}.{made_by.__qualname__}".replace("<locals>.", "")
    if any(isinstance(value, Tensor) and value.numel() > LARGEST for value in arguments):
        return FunctionSeen(name, refused="its arguments are too large")
    try:
        return _examined(made_by, name, arguments, components)
    except Exception as error:  # foreign code, with arguments that it may not expect
        return FunctionSeen(name, refused=f"{type(error).__name__}: {str(error).partition(chr(10))[0]}")


def _examined(made_by: type[Any], name: str, arguments: tuple[Any, ...], components: int) -> FunctionSeen:
    leaves = {place: value.double().contiguous() for place, value in enumerate(arguments) if _is_float(value)}
    weights: list[Tensor] = []

    def scalar(values: dict[int, Tensor]) -> Tensor:
        """A fixed weighted sum of the function's outputs."""
        torch.manual_seed(0)
        given = [values[place].clone() if place in values else _kept(value) for place, value in enumerate(arguments)]
        returned = made_by.apply(*given)
        outputs = [out for out in (returned if isinstance(returned, tuple) else (returned,)) if _is_float(out)]
        if not weights:
            generator = torch.Generator().manual_seed(2)
            weights.extend(torch.randn(out.shape, generator=generator, dtype=torch.float64) + 2 for out in outputs)
        return torch.stack([(out * w.to(out.device)).sum() for out, w in zip(outputs, weights, strict=True)]).sum()

    tracked = {place: value.requires_grad_() for place, value in leaves.items()}
    value = scalar(tracked)
    gradients = torch.autograd.grad(value, list(tracked.values()), allow_unused=True)
    plain = {place: value.detach() for place, value in leaves.items()}
    compared, wrong = 0, []
    given: tuple[Tensor | None, ...] = gradients
    for place, gradient in zip(plain, given, strict=True):
        if gradient is None:  # `backward` returns None: the argument is declared to have no gradient
            continue
        identity = _returns(made_by, arguments, plain, place)
        for index in _chosen(gradient, components):
            found = _component(scalar, plain, place, index, float(gradient.flatten()[index]), float(value.detach()))
            compared += 1
            if found.wrong and not found.kink:
                wrong.append(Component(name, place, index, found, identity))
    return FunctionSeen(name, compared, tuple(wrong))


def _is_float(value: Any) -> bool:
    return isinstance(value, Tensor) and value.is_floating_point() and value.numel() > 0


def _returns(made_by: type[Any], arguments: tuple[Any, ...], plain: dict[int, Tensor], place: int) -> bool:
    """Whether the function's output is this argument."""
    given = [plain[at].clone() if at in plain else _kept(value) for at, value in enumerate(arguments)]
    with torch.no_grad():
        returned = made_by.apply(*given)
    first = returned[0] if isinstance(returned, tuple) else returned
    return isinstance(first, Tensor) and first.shape == plain[place].shape and torch.equal(first, plain[place])


def _chosen(gradient: Tensor, components: int) -> list[int]:
    """Elements with the largest gradient, and some anywhere, always the same."""
    flat = gradient.detach().flatten().abs()
    largest = flat.topk(min((components + 1) // 2, flat.numel())).indices.tolist()
    generator = torch.Generator().manual_seed(3)
    anywhere = torch.randint(flat.numel(), (max(1, components // 2),), generator=generator).tolist()
    return list(dict.fromkeys([*largest, *anywhere]))


def _component(scalar: Any, plain: dict[int, Tensor], place: int, index: int, analytic: float, here: float) -> Slope:
    def at(distance: float) -> float:
        moved = plain[place].clone()
        moved.view(-1)[index] += distance
        with torch.no_grad():
            return float(scalar({**plain, place: moved}))

    size = max(abs(float(plain[place].reshape(-1)[index])), 0.1)
    return slope(at, analytic, here, STEP * size)
