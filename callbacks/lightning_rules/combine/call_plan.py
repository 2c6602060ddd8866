"""How members of one architecture are called: which of the ways that give the same numbers is the fastest."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_flatten, tree_unflatten

from lightning_rules.combine.member_graph import CannotTrace
from lightning_rules.combine.stacked_weights import CannotStack, StackedWeights
from lightning_rules.combine.vectorised import vectorise

MOST_SIGNATURES = 8
SLOW = 0.1  # s: where one turn of the loop takes longer, its operations do, and not what is between them
TURNS, BUDGET = 10, 0.3  # how often each candidate is timed, and how many seconds that may take
MUCH = 0.95  # a candidate that takes more than this share of the loop's time is not worth it
TOLERANCE = {torch.float64: (1e-7, 1e-9), torch.float32: (1e-4, 1e-5)}
COARSE = (2e-2, 2e-2)  # of half precision
NAMES = ("vectorised", "vectorised, channels last")

_log = logging.getLogger(__name__)


@dataclass
class Plan:
    """How members of one architecture are called for inputs of one kind.

    Attributes:
        chosen: "loop", "vectorised" or "vectorised, channels last".
        seconds: The best time of each candidate that was measured.
        refused: Why each of the others was not.
    """

    chosen: str = "loop"
    seconds: dict[str, float] = field(default_factory=dict)
    refused: dict[str, str] = field(default_factory=dict)
    call: Callable[..., Any] | None = field(default=None, repr=False)

    def __str__(self) -> str:
        times = [f"{name} {seconds * 1e3:.3g} ms" for name, seconds in self.seconds.items()]
        return f"{self.chosen} ({'; '.join([*times, *(f'{name}: {why}' for name, why in self.refused.items())])})"


class Team:
    """Members of one architecture on one device."""

    def __init__(self, members: Sequence[nn.Module], places: Sequence[int], device: torch.device | None) -> None:
        self.members, self.places, self.device = list(members), list(places), device
        self.weights = StackedWeights(self.members)
        self.forget()

    def forget(self) -> None:
        """Forget all plans; members have their own weights again."""
        self.plans: dict[Hashable, Plan] = {}
        self.seen: set[Hashable] = set()
        self.plan = Plan()
        self.weights.separate()

    def __call__(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """What the members return, stacked."""
        signature = self._signature(args, kwargs)
        plan = self.plans.get(signature)
        if plan is None:
            return self._first(signature, args, kwargs)
        self.plan = plan
        if plan.call is None:
            return self._loop(args, kwargs)
        if not self.weights.holds():  # moved, or separated
            self.forget()
            return self._first(signature, args, kwargs)
        return plan.call(*args, **kwargs)

    def _loop(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        return stacked([member(*args, **kwargs) for member in self.members])

    def _signature(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Hashable:
        """What a plan depends on; None where members are called in a loop without one."""
        if torch.is_grad_enabled() or True in [member.training for member in self.members]:
            return None
        try:
            kinds = (_kind(args), _kind(kwargs) if kwargs else None)
            hash(kinds)
        except TypeError:  # an argument that cannot be compared
            return None
        return kinds, _autocast()

    def _first(self, signature: Hashable, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        self.plan = Plan(refused=dict.fromkeys(NAMES, "gradients, training mode or inputs that cannot be compared"))
        if signature is None:
            return self._loop(args, kwargs)
        if self.plans and signature not in self.seen:
            self.plan.refused = dict.fromkeys(NAMES, "such inputs came for the first time")
            if len(self.seen) < 100 * MOST_SIGNATURES:
                self.seen.add(signature)
            return self._loop(args, kwargs)
        if len(self.plans) >= MOST_SIGNATURES:
            self.plan.refused = dict.fromkeys(NAMES, f"inputs of {MOST_SIGNATURES} other kinds came before")
            return self._loop(args, kwargs)
        self.plan = self.plans[signature] = Plan()
        return self._measure(self.plan, args, kwargs)

    def _measure(self, plan: Plan, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Fill in a plan, and return what the loop returns."""
        started = self._now(args)
        wanted = self._loop(args, kwargs)
        seconds = self._now(args) - started
        if seconds > SLOW and seconds < 3 * SLOW:  # the first pass pays for what later ones find ready
            started = self._now(args)
            self._loop(args, kwargs)
            seconds = self._now(args) - started
        plan.seconds = {"loop": seconds}
        if len(self.members) == 1:
            plan.refused = dict.fromkeys(NAMES, "there is one member only")
        elif seconds > SLOW:
            plan.refused = dict.fromkeys(NAMES, f"the loop takes {seconds:.2g} s: its operations are large")
        else:
            self._choose(plan, wanted, args, kwargs)
        _log.debug("%d x %s: %s", len(self.members), type(self.members[0]).__name__, plan)
        return wanted

    def _choose(self, plan: Plan, wanted: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        candidates = self._candidates(plan, wanted, args, kwargs)
        if candidates:
            loop = {"loop": lambda *args, **kwargs: self._loop(args, kwargs)}
            plan.seconds = self._times({**loop, **candidates}, args, kwargs)
            best = min(plan.seconds, key=plan.seconds.__getitem__)
            if plan.seconds[best] <= MUCH * plan.seconds["loop"]:
                plan.chosen, plan.call = best, candidates[best]
        if all(other.call is None for other in self.plans.values()):
            self.weights.separate()

    def _candidates(
        self, plan: Plan, wanted: Any, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> dict[str, Callable[..., Any]]:
        """Those that return the same as the loop."""
        try:
            if not self.weights.holds():
                self.weights.stack()
            made = vectorise(self.members[0], self.weights.tensors, args, kwargs)
        except Exception as error:
            expected = isinstance(error, (CannotTrace, CannotStack))
            why = str(error) if expected else f"{type(error).__name__}: {str(error).partition(chr(10))[0][:200]}"
            plan.refused = dict.fromkeys(NAMES, why)
            _log.info("%s members are called one after the other: %s.", type(self.members[0]).__name__, why)
            return {}
        candidates = {}
        for name, call in zip(NAMES, made, strict=False):
            different = _difference(call, wanted, args, kwargs)
            if different:
                plan.refused[name] = different
            else:
                candidates[name] = call
        return candidates

    def _times(
        self, candidates: dict[str, Callable[..., Any]], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> dict[str, float]:
        """The best time of each, in turns."""
        best = dict.fromkeys(candidates, float("inf"))
        began = time.perf_counter()
        for turn in range(TURNS):
            if turn >= 2 and time.perf_counter() - began > BUDGET:
                break
            for name, call in candidates.items():
                started = self._now(args)
                call(*args, **kwargs)
                best[name] = min(best[name], self._now(args) - started)
        return best

    def _now(self, args: Any) -> float:
        """The time when the device has done what it was given."""
        device = next((tensor.device for tensor in tensors_of(args)), torch.device("cpu"))
        if device.type not in ("cpu", "meta"):
            torch.get_device_module(device).synchronize(device)
        return time.perf_counter()


def stacked(returned: Sequence[Any]) -> Any:
    """What several calls returned as one: tensors stacked along a new first dimension, structures kept.

    Raises:
        TypeError: There is something else than tensors, or nested tuples, lists or dicts of them.
        ValueError: Structures or shapes differ.
    """
    if isinstance(returned[0], Tensor):
        first = returned[0].shape
        if all(isinstance(each, Tensor) and each.shape == first for each in returned):
            return torch.stack(list(returned))
    flat = [tree_flatten(each) for each in returned]
    for leaf in flat[0][0]:
        if not isinstance(leaf, Tensor):
            raise TypeError(
                f"A member's `forward` returned {type(leaf).__name__}, but members can be stacked only if it returns "
                "tensors, or nested tuples, lists or dicts of them: wrap them in a module whose `forward` does."
            )
    shapes = [[tuple(getattr(leaf, "shape", ())) for leaf in leaves] for leaves, _ in flat]
    if any(spec != flat[0][1] or shape != shapes[0] for (_, spec), shape in zip(flat, shapes, strict=True)):
        raise ValueError(
            f"Members return tensors of different shapes ({shapes}) for the same inputs: leave out those that answer "
            "another question."
        )
    return tree_unflatten([torch.stack(leaves) for leaves in zip(*(leaves for leaves, _ in flat), strict=True)],
                          flat[0][1])  # fmt: skip


def _difference(call: Callable[..., Any], wanted: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> str | None:
    """How a candidate's results differ from the loop's, None if they do not."""
    try:
        found, structure = tree_flatten(call(*args, **kwargs))
    except Exception as error:
        return f"it fails: {type(error).__name__}: {str(error).partition(chr(10))[0][:200]}"
    expected, spec = tree_flatten(wanted)
    if structure != spec:
        return "it returns another structure"
    for one, other in zip(found, expected, strict=True):
        if one.shape != other.shape or one.dtype != other.dtype or one.device != other.device:
            return f"it returns {one.dtype} {tuple(one.shape)} instead of {other.dtype} {tuple(other.shape)}"
        if not other.is_floating_point():
            same = torch.equal(one, other)
        else:
            rtol, atol = TOLERANCE.get(other.dtype, COARSE)
            same = torch.allclose(one, other, rtol=rtol, atol=atol, equal_nan=True)
        if not same:
            return f"its numbers differ from the loop's by up to {(one - other).abs().max().item():.2g}"
    return None


def _kind(value: Any) -> Hashable:
    """What a traced call depends on: everything but the values of tensors."""
    if isinstance(value, Tensor):
        if type(value) is not Tensor and type(value) is not nn.Parameter:
            raise TypeError("a tensor of a class of its own")
        return value.shape, value.stride(), value.dtype, value.device
    if isinstance(value, dict):
        return type(value), tuple((key, _kind(part)) for key, part in value.items())
    if isinstance(value, (tuple, list)):
        return type(value), *[_kind(part) for part in value]
    return type(value), value


def _autocast() -> Hashable:
    if not torch.is_autocast_enabled("cpu") and not torch.is_autocast_enabled("cuda"):
        return None
    return tuple(torch.is_autocast_enabled(kind) and torch.get_autocast_dtype(kind) for kind in ("cpu", "cuda"))


def tensors_of(value: Any) -> list[Tensor]:
    """The tensors in any structure."""
    return [leaf for leaf in tree_flatten(value)[0] if isinstance(leaf, Tensor)]
