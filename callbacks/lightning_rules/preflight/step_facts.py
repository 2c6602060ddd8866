"""What one training step does with each parameter, registered, hidden or foreign, and in which modes layers run."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, Literal
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from lightning_rules.hidden_parts import contained, named_parts, sensitive
from lightning_rules.preflight.mentions import mentions
from lightning_rules.preflight.model_seen import ModelSeen
from lightning_rules.rule import NotApplicable
from lightning_rules.view import View

Gradient = Literal["none", "zero", "some", "not finite"]
TRIES = 5  # steps at most, of other batches and batch indices, before a parameter counts as without gradient
_facts: WeakKeyDictionary[Any, Facts] = WeakKeyDictionary()


@dataclass(frozen=True)
class ParameterSeen:
    """One parameter.

    Attributes:
        name: Where it is; for one in no submodule with the container and position: ``"net.layers[0].weight"``.
        elements: How many numbers it holds.
        matrix: Whether it has two dimensions or more.
        trained: Whether it requires a gradient.
        optimised: Whether an optimiser holds it.
        hidden: Whether it stands in a list, tuple, set or dict, where torch does not look.
        foreign: Whether an optimiser holds it and the module does not.
        gradient: What the step gives it.
        ran: The place of its layer in the order in which layers ran; None if it did not run.
        linked: Whether what its layer put out had a graph.
        evaluation: Whether its layer is in evaluation mode.
        zero: Whether all of it is zero.
        norm: The norm of its gradient.
        peak: The largest absolute value of its gradient.
    """

    name: str
    elements: int = 1
    matrix: bool = True
    trained: bool = True
    optimised: bool = True
    hidden: bool = False
    foreign: bool = False
    gradient: Gradient = "some"
    ran: int | None = 0
    linked: bool = True
    evaluation: bool = False
    zero: bool = False
    norm: float = 1.0
    peak: float = 1.0


@dataclass(frozen=True)
class LayerMode:
    """A layer that does another thing in training than in evaluation.

    Attributes:
        name: Where it is.
        kind: Its class.
        training: Whether it ever ran in training mode.
        evaluation: Whether it ever ran in evaluation mode, with gradients on.
        around: Whether the module that holds it is in evaluation mode too.
        trained: Whether that module holds parameters that are trained.
    """

    name: str
    kind: str
    training: bool
    evaluation: bool
    around: bool
    trained: bool


@dataclass(frozen=True)
class Facts:
    """What a training step does.

    Attributes:
        parameters: Each parameter, once.
        modes: Each layer that ran and does another thing in training.
        fed: By place in the order of layers: whether a layer was given a tensor that has a graph.
        silently: Places of layers that were given what a layer with trained parameters, in training mode, put out while
            gradients were off.
        manual: Whether the module optimises manually.
    """

    parameters: tuple[ParameterSeen, ...]
    modes: tuple[LayerMode, ...] = ()
    fed: dict[int, bool] = field(default_factory=dict)
    silently: frozenset[int] = frozenset()
    manual: bool = False


def facts_of(seen: ModelSeen) -> Facts:
    """The facts of a run's first training step, read once for all parts that ask.

    Where optimised parameters get no gradient, further batches and batch indices are tried, since steps may take turns
    (a critic trained five times as often) or an example may leave all units of a layer at zero.

    Raises:
        NotApplicable: The step cannot be run beside the training, or gives no gradient at all.
    """
    if seen not in _facts:
        _facts[seen] = _read(seen)
    return _facts[seen]


def _read(seen: ModelSeen) -> Facts:
    facts = read_step(seen.view, seen.batch, 0)
    if any(_doubtful(one) for one in facts.parameters):
        batches: list[Any] = seen.view.batches(TRIES)
        for index in range(1, TRIES):
            facts = _merged(facts, read_step(seen.view, batches[index % len(batches)], index))
    if all(one.gradient == "none" for one in facts.parameters):
        raise NotApplicable("the training step gives no parameter a gradient that can be seen from outside.")
    return facts


def _doubtful(one: ParameterSeen) -> bool:
    """Whether a layer ran, and its parameter might well get a gradient in another step."""
    return one.optimised and one.trained and (one.gradient == "zero" or (one.gradient == "none" and one.linked))


def _merged(one: Facts, other: Facts) -> Facts:
    """The first, with the gradients that only the second saw."""
    rank = ("none", "zero", "some", "not finite")
    pairs = zip(one.parameters, other.parameters, strict=True)
    return replace(one, parameters=tuple(max(pair, key=lambda part: rank.index(part.gradient)) for pair in pairs))


def read_step(view: View, batch: Any, batch_idx: int) -> Facts:
    """Run one training step, in the modes that the modules are in, and look at every parameter.

    Raises:
        NotApplicable: The step cannot be run beside the training.
    """
    places = {id(parameter): place for place in _places(view) for parameter in (place.parameter,)}
    tensors = [place.parameter for place in places.values() if place.parameter.requires_grad]
    kept = [(tensor, tensor.grad) for tensor in tensors]
    parts = dict(named_parts(view.module))
    with _watched(parts) as runs:
        try:
            with view.step(batch, batch_idx, begin=partial(_begin, view.module, batch, batch_idx)) as step:
                gradients = dict(zip(map(id, tensors), _gradients(step.losses, tensors), strict=True))
                parameters = tuple(_seen(place, gradients.get(id(place.parameter)), runs) for place in places.values())
                modes = tuple(_modes(view, parts, runs))
        finally:
            for tensor, gradient in kept:  # those of foreign tensors, which `untouched` does not know
                tensor.grad = gradient
    fed = {run.place: run.fed for run in runs.values()}
    silently = frozenset(run.place for run in runs.values() if run.silently)
    return Facts(parameters, modes, fed, silently, not view.module.automatic_optimization)


def _begin(module: Any, batch: Any, batch_idx: int) -> None:
    """What the module's own hooks do to its modes before a training step; other hooks are left alone."""
    for name in ("on_train_start", "on_train_epoch_start", "on_train_batch_start"):
        own = getattr(type(module), name, None)
        if mentions(own, "eval", module) or mentions(own, "train", module):
            arguments = (batch, batch_idx) if name == "on_train_batch_start" else ()
            getattr(module, name)(*arguments)


@dataclass
class _Place:
    """Where a parameter is, and whose it is."""

    name: str
    parameter: Tensor
    owner: nn.Module | None
    hidden: bool
    optimised: bool


@dataclass
class _Run:
    """How a layer ran."""

    place: int
    training: bool = False
    evaluation: bool = False
    linked: bool = False
    fed: bool = False
    silently: bool = False


def _places(view: View) -> Iterator[_Place]:
    """Every parameter of the module, of what it hides, and of the optimisers, once."""
    held = {
        id(one) for optimizer in view.trainer.optimizers for group in optimizer.param_groups for one in group["params"]
    }
    registered = {id(parameter) for parameter in view.module.parameters()}
    met: set[int] = set()
    for path, part in named_parts(view.module):
        own = [(name, value) for name, value in part._parameters.items() if value is not None]
        own += [(name, value) for name, value in contained(part) if isinstance(value, nn.Parameter)]
        for name, parameter in own:
            if id(parameter) not in met:
                met.add(id(parameter))
                full = f"{path}.{name}".lstrip(".")
                yield _Place(full, parameter, part, id(parameter) not in registered, id(parameter) in held)
    for number, optimizer in enumerate(view.trainer.optimizers):
        for group in optimizer.param_groups:
            for parameter in group["params"]:
                if id(parameter) not in met:
                    met.add(id(parameter))
                    yield _Place(f"optimizer {number}: {list(parameter.shape)}", parameter, None, False, True)


@contextmanager
def _watched(parts: dict[str, nn.Module]) -> Iterator[dict[nn.Module, _Run]]:
    """How each part runs inside the block."""
    runs: dict[nn.Module, _Run] = {}
    silent: dict[int, Tensor] = {}  # by storage; the tensors are held, so that no other takes their place

    def hook(part: nn.Module, inputs: Any, output: Any) -> None:
        run = runs.setdefault(part, _Run(len(runs)))
        run.training |= part.training
        run.evaluation |= not part.training and torch.is_grad_enabled()
        run.linked |= any(isinstance(leaf, Tensor) and leaf.grad_fn is not None for leaf in tree_leaves(output))
        given = [leaf for leaf in tree_leaves(inputs) if isinstance(leaf, Tensor)]
        run.fed |= any(leaf.requires_grad for leaf in given)
        run.silently |= any(leaf.untyped_storage().data_ptr() in silent for leaf in given)
        if not torch.is_grad_enabled() and part.training and any(one.requires_grad for one in part.parameters()):
            silent.update({leaf.untyped_storage().data_ptr(): leaf for leaf in tree_leaves(output)
                           if isinstance(leaf, Tensor)})  # fmt: skip

    handles = [
        part.register_forward_hook(hook) for part in parts.values() if not isinstance(part, torch.jit.ScriptModule)
    ]
    try:
        yield runs
    finally:
        for handle in handles:
            handle.remove()


def _gradients(losses: Sequence[Tensor], tensors: Sequence[Tensor]) -> list[Tensor | None]:
    """Of the sum of all losses; what a backward of the step's own has left counts too."""
    wanted = [loss.sum() for loss in losses if loss.requires_grad]
    found: list[Tensor | None] = [None] * len(tensors)
    try:
        if wanted and tensors:
            found = list(torch.autograd.grad(wanted, tensors, allow_unused=True))
    except RuntimeError:  # the step has called backward itself, and its graph is gone
        pass
    return [tensor.grad if gradient is None else gradient for tensor, gradient in zip(tensors, found, strict=True)]


@torch.no_grad()
def _seen(place: _Place, gradient: Tensor | None, runs: dict[nn.Module, _Run]) -> ParameterSeen:
    run = runs.get(place.owner) if place.owner is not None else None
    values = gradient.coalesce().values() if gradient is not None and gradient.is_sparse else gradient
    finite = values is None or bool(values.isfinite().all())
    any_value = values is not None and bool(values.any())
    return ParameterSeen(
        name=place.name,
        elements=place.parameter.numel(),
        matrix=place.parameter.dim() > 1,
        trained=place.parameter.requires_grad,
        optimised=place.optimised,
        hidden=place.hidden and place.owner is not None,
        foreign=place.owner is None,
        gradient="none" if values is None else "not finite" if not finite else "some" if any_value else "zero",
        ran=None if run is None else run.place,
        linked=run is not None and run.linked,
        evaluation=place.owner is not None and not place.owner.training,
        zero=not bool(place.parameter.any()),
        norm=0.0 if values is None else float(values.float().norm()),
        peak=0.0 if values is None or not values.numel() else float(values.abs().max()),
    )


def _modes(view: View, parts: dict[str, nn.Module], runs: dict[nn.Module, _Run]) -> Iterator[LayerMode]:
    held = {
        id(one) for optimizer in view.trainer.optimizers for group in optimizer.param_groups for one in group["params"]
    }
    for name, part in parts.items():
        if part in runs and sensitive(part):
            above = parts.get(name.rpartition(".")[0], view.module)
            trained = any(one.requires_grad and id(one) in held for one in above.parameters())
            run = runs[part]
            yield LayerMode(name, type(part).__name__, run.training, run.evaluation, not above.training, trained)
