"""What a program is, what a case is, and the clean metric, which is taken past everything that the program says."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal

import lightning as L
import torch
from torch import Tensor


def answer(module: Any, inputs: Tensor) -> Tensor:
    """What the module's forward says, or its network in a module that has none.

    Logits [N, C], one logit [N] or [N, 1], or predictions [N] or [N, 1].
    """
    return module.net(inputs) if type(module).forward is L.LightningModule.forward else module(inputs)


@dataclass(frozen=True)
class Program:
    """One training run, ready for ``Trainer(**options).fit(module, train, validation)``.

    Attributes:
        module: The LightningModule.
        train: Loader of training batches, or a LightningDataModule.
        validation: Loader of validation batches; None where a data module has it, or where there is none.
        test: Clean inputs and targets that the program never sees.
        options: Of the Trainer.
    """

    module: L.LightningModule
    train: Any
    validation: Any
    test: tuple[Tensor, Tensor]
    options: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Case:
    """A bug and its healthy twin.

    Attributes:
        name: The pattern, in kebab case.
        theme: Where the bug sits: data, labels, pipeline, model, initialisation, loss, optimiser, loop, distributed or
            numerics.
        make: Builds the program of a seed, with the bug or without.
        metric: What the bug has to spoil: ``"accuracy"`` or ``"r2"`` on the clean test set, or ``"gap"``, the distance
            of the program's own ``val_acc`` from the accuracy on the clean test set.
        names: Rules or aspects of the right diagnosis.
        words: Regular expressions, in lower case; an alarm whose text holds one is the right diagnosis too.
        ranks: Processes that the program needs.
    """

    name: str
    theme: str
    make: Callable[[int, bool], Program]
    metric: Literal["accuracy", "r2", "gap"]
    names: tuple[str, ...]
    words: tuple[str, ...]
    ranks: int = 1

    def build(self, seed: int, buggy: bool) -> Program:
        """The program, seeded as a user's script is seeded: at its top."""
        return seeded(self.make, seed, buggy)


def seeded(make: Callable[..., Program], seed: int, *arguments: Any) -> Program:
    """A program whose script begins with ``seed_everything``."""
    os.environ.pop("PL_SEED_WORKERS", None)
    L.seed_everything(seed, verbose=False)
    return make(seed, *arguments)


def collection(theme: str) -> tuple[list[Case], Callable[..., Any]]:
    """An empty list of cases, and the decorator that adds a function to it under its own name."""
    cases: list[Case] = []

    def case(metric: str, names: str, words: tuple[str, ...], ranks: int = 1) -> Any:
        def add(make: Any) -> Any:
            name = make.__name__.replace("_", "-")
            cases.append(Case(name, theme, make, metric, tuple(names.split()), words, ranks))
            return make

        return add

    return cases, case


@torch.no_grad()
def outputs(program: Program, batch: int = 64) -> Tensor:
    """The trained module's outputs on the clean test inputs, in evaluation mode."""
    program.module.eval()
    return torch.cat([answer(program.module, inputs) for inputs in program.test[0].split(batch)]).float()


def accuracy(program: Program) -> float:
    """Share of clean test examples that are right, in [0, 1]."""
    said, targets = outputs(program), program.test[1]
    labels = said.argmax(1) if said.dim() == 2 and said.shape[1] > 1 else (said.flatten() > 0).long()
    return (labels == targets.flatten()).float().mean().item()


def r2(program: Program) -> float:
    """Share of the clean test targets' variance that is explained, in [-1, 1]; not finite, or worse, counts as -1."""
    said, targets = outputs(program).flatten(), program.test[1].flatten()
    explained = 1 - (said - targets).square().mean() / targets.var(correction=0)
    return float(explained.clamp(-1, 1).nan_to_num(-1.0))


def clean_metric(metric: str, program: Program, reported: float | None) -> float:
    """The metric of a finished run, the higher the better.

    Raises:
        ValueError: A gap is asked for and the program reported no ``val_acc``.
    """
    if metric == "r2":
        return r2(program)
    if metric == "accuracy":
        return accuracy(program)
    if reported is None:
        raise ValueError("Expected the program to log `val_acc`, from which the gap is taken, but it did not.")
    return -abs(reported - accuracy(program))
