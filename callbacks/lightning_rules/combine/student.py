"""A student while it trains: where its outputs leave it, and what they mean."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from lightning_rules.combine.reading import Reading, read, reading_of
from lightning_rules.losses import LossCall
from lightning_rules.rule import NotApplicable
from lightning_rules.view import View

_TASKS = {"softmax": "multiclass", "sigmoid": "multilabel", "mean": "regression", "median": "regression"}


@dataclass
class Heard:
    """What a layer, or the module as a whole, was called with and returned, call by call.

    Attributes:
        calls: Arguments, named arguments, and what was returned.
        on: Whether calls are kept: DDP runs the training step itself as a call of the module.
    """

    calls: list[tuple[tuple[Any, ...], dict[str, Any], Any]] = field(default_factory=list)
    on: bool = True


@dataclass(frozen=True)
class Student:
    """How a student's outputs are had in its own training step.

    Attributes:
        layer: The name of the layer that makes them; "" is the module itself, by its ``forward``.
        reading: How to read them.
        answers: The shape of one example's outputs.
        as_given: Whether ``forward`` gets the batch's inputs as they are; training steps may mix or distort them.
    """

    layer: str
    reading: Reading
    answers: tuple[int, ...]
    as_given: bool


@dataclass(frozen=True)
class Plan:
    """What one rank found out about teacher and student before the first step.

    Attributes:
        student: How the student's outputs are had.
        teacher: How to read the teacher's.
        row: The shape of the teacher's answer to one example.
        data: The fingerprint of the training data; "" where answers are not kept.
        repeatable: Whether two readings of an example agree.
    """

    student: Student
    teacher: Reading
    row: tuple[int, ...]
    data: str
    repeatable: bool


@contextmanager
def listening(layer: nn.Module) -> Iterator[Heard]:
    """Hear the calls of a layer whose outputs have a gradient to give."""
    heard = Heard()

    def hook(layer: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
        if heard.on and any(isinstance(leaf, Tensor) and leaf.requires_grad for leaf in _tensors(output)):
            heard.calls.append((args, kwargs, output))

    handle = layer.register_forward_hook(hook, with_kwargs=True)
    try:
        yield heard
    finally:
        handle.remove()


def _tensors(output: Any) -> list[Any]:
    return [*tree_leaves(output), getattr(output, "logits", None)]


def look_at(view: View, batch: Any) -> Student:
    """Run one training step and see where outputs come from; everything is put back.

    Args:
        view: Of the run.
        batch: A training batch on the host.

    Raises:
        NotApplicable: Neither ``forward`` nor a layer that feeds a loss is called.
    """
    with listening(view.module) as heard, view.step(batch) as step:
        calls, losses = list(heard.calls), list(step.calls)
        if calls:
            inputs, output = (*calls[-1][0], *calls[-1][1].values()), calls[-1][2]
            as_given = _is_part_of(inputs[0] if inputs else None, view.to_device(batch))
        else:
            layer, reading, shape = _head(losses)
            return Student(layer, reading, shape, as_given=True)
    with view.on_loan():
        reading = reading_of(view.module, view.to_device(batch))
    return Student("", reading, tuple(read(output, reading).values.shape[1:]), as_given)


def _head(losses: list[LossCall]) -> tuple[str, Reading, tuple[int, ...]]:
    head = losses[-1].head if losses else None
    if head is None or not set(head.passes) <= {"LogSoftmax", "Sigmoid", "Squeeze", "ToCopy"}:
        raise NotApplicable(
            "training_step neither calls the module's forward nor gives a layer's output to a loss of "
            "torch.nn.functional, so that the student's outputs are not seen."
        )
    task: Any = _TASKS[losses[-1].kind]
    reading = Reading(task)
    return head.name, reading, tuple(read(losses[-1].output, reading).values.shape[1:])


def _is_part_of(value: Any, batch: Any) -> bool:
    """Whether the first tensor of an input is, number by number, one of the batch."""
    first = next((leaf for leaf in tree_leaves(value) if isinstance(leaf, Tensor)), None)
    if first is None:
        return True
    same = [leaf for leaf in tree_leaves(batch) if isinstance(leaf, Tensor) and leaf.shape == first.shape]
    return not same or any(torch.equal(leaf.to(first), first) for leaf in same)


@contextmanager
def in_place_of(module: Any, taught: Callable[..., Any]) -> Iterator[None]:
    """Let a function that is given the training step take its place."""
    before, step = vars(module).get("training_step"), module.training_step

    @functools.wraps(step)
    def training_step(*args: Any, **kwargs: Any) -> Any:
        return taught(step, *args, **kwargs)

    vars(module)["training_step"] = training_step
    try:
        yield
    finally:
        vars(module).pop("training_step", None)
        if before is not None:
            vars(module)["training_step"] = before


def refuse_another_question(plan: Plan, teacher: str) -> None:
    """Refuse a teacher that answers something else than the student; the same on all ranks.

    Raises:
        ValueError: Tasks or numbers of outputs differ.
    """
    taught, learned = plan.teacher.task, plan.student.reading.task
    if taught != learned:
        raise ValueError(f"The teacher {teacher} is for {taught}, but the student learns {learned}: name another one.")
    if plan.row != plan.student.answers:
        raise ValueError(
            f"The teacher {teacher} answers with {list(plan.row)} outputs an example and the student with "
            f"{list(plan.student.answers)}: both need the same classes, in the same order."
        )
