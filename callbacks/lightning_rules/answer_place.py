"""Where a network's answers are made and where in a batch their targets stand, found by one step on one batch."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import wraps
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from lightning_rules.batches import leaves
from lightning_rules.compiled_code import is_compiled, is_compiled_function
from lightning_rules.losses import SQUASHED, Kind, LossCall
from lightning_rules.rule import NotApplicable, attempt
from lightning_rules.view import View

FAILED = "the measurement failed"
CLOSE = 1e-2  # a squashing function computed twice, in half precision too
# How what the layer gives became what the loss was given; the first that agrees counts.
SHAPES: dict[str, Callable[[Tensor, tuple[int, ...]], Tensor]] = {
    "as it is": lambda given, shape: given,
    "reshaped": lambda given, shape: given.reshape(-1, *shape[1:]),
    "classes moved to the second dimension": lambda given, shape: given.movedim(-1, 1),
    "classes moved to the last dimension": lambda given, shape: given.movedim(1, -1).reshape(-1, *shape[1:]),
    "last step": lambda given, shape: given[:, -1],
    "first step": lambda given, shape: given[:, 0],
    "first output": lambda given, shape: given[..., 0],
    "first output, kept": lambda given, shape: given[..., :1],
}


@dataclass(frozen=True)
class AnswerPlace:
    """Where answers and targets stand, in plain values, so that it holds nothing of the run."""

    head: str
    kind: Kind
    shaping: str
    shape: tuple[int, ...]  # of what the loss was given
    path: tuple[Any, ...] | None  # of the targets in a training batch; None where split_batch tells
    target_shape: tuple[int, ...]
    one_hot: bool  # targets are columns, made of class indices by the step
    floating: bool
    ignored: int


_known: WeakKeyDictionary[Any, tuple[Any, Any, AnswerPlace | str]] = WeakKeyDictionary()


def rows(values: Tensor, kind: Kind) -> Tensor:
    """Outputs, or targets of their shape, as a matrix: [N] as [N, 1], [N, C, ...] with each place a row.

    A regression keeps one row an example, with all values of it as columns.
    """
    if values.dim() < 2:
        return values.reshape(-1, 1)
    if kind in ("mean", "median"):
        return values.flatten(1)
    return values.movedim(1, -1).reshape(-1, values.shape[1])


def find_once(view: View) -> AnswerPlace:
    """Look at the first batch once for all rules of a Trainer; what was found, or the refusal, is remembered."""
    loop = getattr(view.trainer.fit_loop, "_combined_loader", None)
    known = _known.get(view.trainer)
    if known is None or known[0]() is not view.module or known[1]() is not loop:
        try:
            found: AnswerPlace | str = _find(view)
        except NotApplicable as refusal:
            found = str(refusal)
        known = (weakref.ref(view.module), (lambda: None) if loop is None else weakref.ref(loop), found)
        _known[view.trainer] = known
    if isinstance(known[2], str):
        raise NotApplicable(known[2])
    return known[2]


def _find(view: View) -> AnswerPlace:
    """As in validation first, without dropout and mixing; where the step does otherwise then, as in training."""
    batches: list[Any] = view.batches(1)
    if not batches:
        raise NotApplicable("the run has no training batch.")
    found, refusal = attempt(lambda: _find_in(view, batches[0], evaluation=True))
    if found is None and not any(isinstance(part, nn.SyncBatchNorm) for part in view.module.modules()):
        # In training mode a synchronised batch norm would wait for the other ranks.
        found, refusal = attempt(lambda: _find_in(view, batches[0], evaluation=False))
    if found is None:
        raise NotApplicable(refusal.removeprefix(NotApplicable.prefix).replace(FAILED, "a step before the run failed"))
    return found


def _find_in(view: View, batch: Any, evaluation: bool) -> AnswerPlace:
    heard: dict[nn.Module, list[Tensor]] = {}
    parts: list[tuple[tuple[Any, ...], Tensor]] = []

    def listen() -> None:  # the module is on loan: hooks and the shadow go with it
        for part in view.module.modules():
            if part._parameters:
                part.register_forward_hook(_keep(heard))
        view.module.training_step = _noting(view.module.training_step, parts)

    with view.step(batch, evaluation=evaluation, begin=listen) as step:
        if not step.calls:
            raise NotApplicable("the step's loss comes from none of torch's loss functions.")
        call = max(step.calls, key=lambda one: one.output.numel())
        if call.head is None:
            raise NotApplicable(f"no layer feeds {call.name} directly: more than a change of shape lies between.")
        given = heard.get(call.head.layer, [])
        if len(given) != 1:
            raise NotApplicable(f"the layer before the loss, {call.head.name or 'the module'}, runs several times.")
        _refuse_compiled(view.module, call.head.name)
        return _found(view, call, given[0], parts)


def _found(view: View, call: LossCall, given: Tensor, parts: list[tuple[tuple[Any, ...], Tensor]]) -> AnswerPlace:
    if call.kind == "softmax" and call.output.dim() < 2:
        raise NotApplicable(f"{call.name} is given a single example without a batch dimension.")
    if call.head is None or call.target.dim() == 0:
        raise NotApplicable(f"{call.name} is given no targets of a batch.")
    found = AnswerPlace(
        head=call.head.name,
        kind=call.kind,
        shaping=_shaping(call, given),
        shape=tuple(call.output.shape),
        path=None,
        target_shape=tuple(call.target.shape),
        one_hot=False,
        floating=call.target.is_floating_point(),
        ignored=int(call.arguments.get("ignore_index", -100)),
    )
    path, leaf = next(((path, leaf) for path, leaf in parts if call.is_target(leaf)), (None, None))
    if leaf is not None:
        return replace(found, path=path, one_hot=call.is_one_hot_of(leaf))
    return _mixed(view, call, found, parts)


def _mixed(view: View, call: LossCall, found: AnswerPlace, parts: list[tuple[tuple[Any, ...], Tensor]]) -> AnswerPlace:
    """Targets that the step makes soft (mixed, smoothed): the labels in the batch stand for them, if they fit."""
    soft = call.target.detach()
    if call.kind == "softmax" and soft.is_floating_point() and soft.dim() == 2:
        for path, leaf in parts:
            if (
                leaf.is_floating_point()
                or leaf.shape != soft.shape[:1]
                or not 0 <= leaf.min() <= leaf.max() < soft.shape[1]
            ):
                continue
            if bool((soft.gather(1, leaf[:, None].long())[:, 0] > soft.amin(1)).all()):
                return replace(found, path=path, one_hot=True)
    raise NotApplicable(f"the targets that {call.name} is given are not found in the batch.")


def _shaping(call: LossCall, given: Tensor) -> str:
    """Which change of shape turns what the layer gave into what the loss was given.

    Raises:
        NotApplicable: None that is known.
    """
    output = call.output.detach()
    agreeing: list[tuple[bool, str]] = []
    for name, shaping in SHAPES.items():
        try:
            shaped = shaping(given, tuple(output.shape))
        except (RuntimeError, IndexError):
            continue
        if shaped.shape == output.shape and _agree(call, shaped, output):
            agreeing.append((shaped.data_ptr() == output.data_ptr(), name))
    if not agreeing:
        raise NotApplicable(f"what lies between the last layer and {call.name} is no simple change of shape.")
    return max(agreeing, key=lambda one: one[0])[1]


def _agree(call: LossCall, shaped: Tensor, output: Tensor) -> bool:
    squashed = SQUASHED.get(call.function)
    if squashed is None:
        return torch.equal(shaped.to(output.dtype), output)
    values = shaped.float()
    values = values.log_softmax(1) if squashed == "LogSoftmax" else values.sigmoid()
    return torch.allclose(values, output.float(), rtol=CLOSE, atol=CLOSE)


def _keep(heard: dict[nn.Module, list[Tensor]]) -> Callable[..., None]:
    def hook(layer: nn.Module, inputs: Any, output: Any) -> None:
        if isinstance(output, Tensor):
            heard.setdefault(layer, []).append(output.detach())

    return hook


def _noting(step: Callable[..., Any], parts: list[tuple[tuple[Any, ...], Tensor]]) -> Callable[..., Any]:
    """The step, noting first what tensors its batch holds: a step may take things out of its batch."""

    @wraps(step)
    def noting(batch: Any, *args: Any, **kwargs: Any) -> Any:
        parts.extend(leaves(batch))
        return step(batch, *args, **kwargs)

    return noting


def _refuse_compiled(module: Any, head: str) -> None:
    """Raise where the layer runs within compiled code, which calls no hooks."""
    path = [module]
    for name in head.split(".") if head else ():
        path.append(path[-1].get_submodule(name))
    compiled = any(is_compiled(part) or is_compiled_function(part.forward) for part in path)
    steps = (getattr(module, name, None) for name in ("training_step", "validation_step"))
    if compiled or any(map(is_compiled_function, steps)):
        raise NotApplicable(f"the layer before the loss, {head or 'the module'}, runs within compiled code.")
