"""What a network's outputs mean, so that networks of any kind can be averaged, compared and taught by one another."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map_only

from lightning_rules.batches import fields_of, split_batch
from lightning_rules.losses import LossCall, seen_losses
from lightning_rules.untouched import untouched

Task = Literal["multiclass", "multilabel", "regression"]
Scale = Literal["logits", "probabilities"]

_TASKS: dict[str, Task] = {
    "softmax": "multiclass",
    "sigmoid": "multilabel",
    "mean": "regression",
    "median": "regression",
}
_STEPS = ("validation_step", "test_step", "training_step")
_SILENT = ("log", "log_dict", "print")


@dataclass(frozen=True)
class Reading:
    """How to read what ``forward`` returns.

    Attributes:
        task: "multiclass": one of C classes, outputs [N, C, ...]. "multilabel": each output says yes or no, outputs
            [N] or [N, L]; binary classification is the case of one. "regression": values [N] or [N, D].
        scale: Whether outputs are logits (any log probabilities up to a constant) or probabilities already; without
            meaning for regression.
    """

    task: Task
    scale: Scale = "logits"

    def __post_init__(self) -> None:
        for name, allowed in (("task", get_args(Task)), ("scale", get_args(Scale))):
            if getattr(self, name) not in allowed:
                raise ValueError(
                    f"Expected `{name}` to be one of {', '.join(allowed)}, but got {getattr(self, name)!r}."
                )

    def to_dict(self) -> dict[str, str]:
        """As keyword arguments, for a checkpoint."""
        return asdict(self)


@dataclass(frozen=True)
class Answer:
    """What a network says about a batch, in the form that all members of an ensemble share.

    Attributes:
        values: float32. Multiclass: logits [N, C, ...]. Multilabel: logits [N, L]. Regression: means [N, D].
        variances: For regression, the variances [N, D] that the network gives with its means; else None.
    """

    values: Tensor
    variances: Tensor | None = None


def call(module: nn.Module, batch: Any) -> Any:
    """What ``forward`` returns for the inputs of a batch."""
    arguments, named = arguments_of(module, batch)
    return module(*arguments, **named)


def arguments_of(module: nn.Module, batch: Any) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """The arguments of ``forward`` in a batch; targets are left out.

    Parts with names go to the parameters of these names. Otherwise the inputs that :func:`split_batch` finds are the
    first argument, or, where ``forward`` needs several and they are a tuple, the first ones.
    """
    wanted = _parameters(module)
    named = fields_of(batch)
    if named is not None and not callable(getattr(module, "unpack", None)):
        fitting = {name: named[name] for name in wanted if name in named and name not in _targets_in(batch, module)}
        if fitting and all(name in fitting for name, needed in wanted.items() if needed):
            return (), fitting
    inputs, _ = split_batch(batch, module)
    if isinstance(inputs, (tuple, list)) and sum(wanted.values()) > 1:
        return tuple(inputs), {}
    return (inputs,), {}


def targets_of(module: nn.Module, batch: Any) -> Any:
    """The targets in a batch, None where it has none."""
    return split_batch(batch, module)[1]


def _targets_in(batch: Any, module: nn.Module) -> list[str]:
    target = targets_of(module, batch)
    named = fields_of(batch) or {}
    return [name for name, value in named.items() if target is not None and value is target]


def _parameters(module: nn.Module) -> dict[str, bool]:
    """The parameters of ``forward`` that can be named, and whether each is needed."""
    known = inspect.signature(module.forward).parameters.values()
    variadic = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    return {
        parameter.name: parameter.default is parameter.empty for parameter in known if parameter.kind not in variadic
    }


def read(returned: Any, reading: Reading) -> Answer:
    """What ``forward`` returned, as an :class:`Answer`.

    Args:
        returned: A tensor; for regression also a pair or a mapping of means and variances ("mean", "variance"); or
            anything with a tensor ``logits``.
        reading: How to read it.

    Raises:
        TypeError: It is none of these.
    """
    value, variance = _parts(returned)
    value = value.float()
    if reading.task == "regression":
        value = value.reshape(len(value), -1)
        return Answer(value, None if variance is None else variance.float().reshape(value.shape))
    if reading.task == "multilabel":
        value = value.reshape(len(value), -1)
        return Answer(value if reading.scale == "logits" else torch.logit(value, eps=1e-7))
    return Answer(value if reading.scale == "logits" else value.clamp(min=1e-12).log())


def _parts(returned: Any) -> tuple[Tensor, Tensor | None]:
    if isinstance(returned, Tensor):
        return returned, None
    logits = returned.get("logits") if isinstance(returned, Mapping) else getattr(returned, "logits", None)
    if isinstance(logits, Tensor):
        return logits, None
    if isinstance(returned, Mapping):
        mean, variance = returned.get("mean"), returned.get("variance")
    else:
        mean, variance = returned if isinstance(returned, (tuple, list)) and len(returned) == 2 else (None, None)
    if isinstance(mean, Tensor) and isinstance(variance, Tensor) and mean.shape == variance.shape:
        return mean, variance
    raise TypeError(
        f"`forward` returned {type(returned).__name__}, but a tensor was expected, or means with their variances: "
        "give the module a `forward` that returns logits, probabilities or values."
    )


def probabilities(answer: Tensor, task: Task) -> Tensor:
    """Logits as probabilities; values of a regression as they are."""
    if task == "multiclass":
        return answer.softmax(dim=1)
    return answer.sigmoid() if task == "multilabel" else answer


def reading_of(module: nn.Module, batch: Any) -> Reading:
    """Find out how to read a module's outputs: from the loss that its own step computes, and from the outputs.

    Runs ``forward`` and ``validation_step`` (or ``test_step``, ``training_step``) once; everything is put back.

    Args:
        module: A LightningModule, on the device of the batch; its ``forward`` maps inputs to outputs.
        batch: A batch with targets, on the module's device.

    Raises:
        TypeError: ``forward`` returns nothing that can be read.
        ValueError: Neither the loss nor the targets tell the task; give ``task`` by hand.
    """
    with torch.inference_mode(False), untouched(module):  # also within an evaluation, which knows no gradients
        batch = tree_map_only(Tensor, torch.clone, batch)
        module.eval()
        with torch.no_grad():
            returned = call(module, batch)
        output, _ = _parts(returned)
        for parameter in module.parameters():  # the loss of frozen ones has no gradient, by which it is known
            parameter.requires_grad_(parameter.is_floating_point() and not parameter.is_inference())
        loss = _loss_call(module, batch)
    task = _TASKS[loss.kind] if loss is not None else _guessed(output, targets_of(module, batch))
    return Reading(task, _scale(output.detach().float(), task, loss))


def _loss_call(module: nn.Module, batch: Any) -> LossCall | None:
    """The last loss that a step of the module computes; None where torch's losses are not used."""
    for name in _STEPS:
        step = getattr(module, name, None)
        if step is None or step.__module__.startswith(("lightning.", "pytorch_lightning.")):
            continue  # the module has none of its own
        for silent in _SILENT:
            vars(module)[silent] = lambda *args, **kwargs: None
        try:
            with torch.enable_grad(), seen_losses(module) as calls:
                step(batch, 0)
        except Exception:  # a step that needs its Trainer, or several loaders
            continue
        finally:
            for silent in _SILENT:
                vars(module).pop(silent, None)
        if calls:
            return calls[-1]
    return None


def _guessed(output: Tensor, target: Any) -> Task:
    """The task as outputs and targets show it."""
    if isinstance(target, Tensor) and not target.is_floating_point() and output.dim() == target.dim() + 1:
        return "multiclass"
    if isinstance(target, Tensor) and target.is_floating_point() and target.numel() == output.numel():
        return "multilabel" if bool(((target == 0) | (target == 1)).all()) else "regression"
    shape = tuple(target.shape) if isinstance(target, Tensor) else type(target).__name__
    raise ValueError(
        f"Outputs of shape {tuple(output.shape)} for targets of shape {shape} may mean anything, and no loss of "
        "torch.nn.functional was seen: name the `task`, one of multiclass, multilabel, regression."
    )


def _scale(output: Tensor, task: Task, loss: LossCall | None) -> Scale:
    """Probabilities, if the numbers look like nothing else, or, for single yes and no, if the loss expects them."""
    inside = bool(((output >= 0) & (output <= 1)).all())
    if task == "multiclass":
        sums = output.sum(dim=1) if output.dim() > 1 else output.sum()
        return "probabilities" if inside and bool((sums - 1).abs().max() < 1e-3) else "logits"
    if task == "multilabel" and loss is not None:
        given = loss.output.detach().float().reshape(-1)
        same = given.numel() == output.numel() and torch.allclose(given, output.reshape(-1), atol=1e-4)
        inside = inside and not (same and loss.name != "binary_cross_entropy")
    return "probabilities" if task == "multilabel" and inside else "logits"
