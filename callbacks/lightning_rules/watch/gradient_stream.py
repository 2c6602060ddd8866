"""The norms of an optimiser's gradients at its steps: taken on the device, handed over in blocks."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from statistics import median
from typing import Any

import torch
from torch import Tensor, nn

from lightning_rules.gradient_norms import HALF, norms_of, parameters_of

BLOCK = 64  # rows until they become one tensor
TIMED = 8  # rows of which one is timed
CHEAP = 5e-5  # seconds that a row may take whatever the batch takes
MISSING = -1.0  # in place of a norm: the parameter has no gradient


class GradientStream:
    """Takes one row of norms at each step of an optimiser, or at every n-th where a row is dear.

    Args:
        optimizer: The optimiser; parameters it gets later are not seen.
        scaler: A GradScaler that leaves unscaling to this optimiser's fused step; else None.
    """

    def __init__(self, optimizer: torch.optim.Optimizer, scaler: Any = None) -> None:
        self.parameters = [one for one in parameters_of(optimizer) if one.requires_grad]
        self.every = 1
        self.stepped = False
        self._scaler = scaler
        kinds = {(one.device, one.dtype) for one in self.parameters}
        self._alike = len(kinds) == 1 and scaler is None
        self._type = torch.float32 if any(dtype in HALF for _, dtype in kinds) else None
        self._hand_over()
        self._wait = 0

    def _hand_over(self) -> None:
        self._rows: list[Sequence[Tensor]] = []
        self._blocks: list[Tensor] = []
        self._places: list[tuple[int, int, int]] = []
        self._seconds: list[float] = []
        self.step: int | None = None  # the last that was seen since then

    def add(self, step: int, batch: int) -> None:
        """Measure the gradients as they are.

        Args:
            step: The run's ``global_step``.
            batch: How many batches have ended since the last look.
        """
        self.stepped = True
        self.step = step
        self._wait -= 1
        if self._wait > 0:
            return
        self._wait = self.every
        began = time.perf_counter() if len(self._rows) % TIMED == 0 else 0.0
        gradients = [gradient for one in self.parameters if (gradient := one.grad) is not None]
        if self._alike and len(gradients) == len(self.parameters) and not gradients[0].requires_grad:
            self._rows.append(torch._foreach_norm(gradients, 2, self._type))
        else:
            self._rows.append(self._slow_row())
        self._places.append((step, batch, self.every))
        if began:
            self._seconds.append(time.perf_counter() - began)
        if len(self._rows) == BLOCK:
            self._pack()

    @torch.no_grad()
    def _slow_row(self) -> list[Tensor]:
        """Where some have no gradient, or a sparse one, or parameters differ in type or device."""
        device = self.parameters[0].device
        if all(one.grad is None for one in self.parameters):
            return [torch.full((), MISSING, device=device)] * len(self.parameters)
        gradients = [None if one.grad is None else _dense(one.grad) for one in self.parameters]
        norms = norms_of([None if one is None else one.detach() for one in gradients], device)
        if self._scaler is not None:
            norms = norms / self._scaler.scale(torch.ones((), device=device))
        missing = [place for place, gradient in enumerate(gradients) if gradient is None]
        row = list(norms.unbind())
        if missing:
            nothing = torch.full((), MISSING, device=device, dtype=norms.dtype)
            for place in missing:
                row[place] = nothing
        return row

    def _pack(self) -> None:
        if self._rows:
            numbers = [norm for row in self._rows for norm in row]
            if not self._alike:
                numbers = [norm.to(numbers[0].device, torch.float64) for norm in numbers]
            self._blocks.append(torch.stack(numbers).view(len(self._rows), -1))
            self._rows = []

    def readings(self) -> tuple[Tensor, list[Tensor], list[Tensor]]:
        """What was measured since the last look.

        Returns:
            For each row its step, its batch, and of how many steps it is the one that is looked at, ``[rows, 3]``; the
            rows in blocks, ``[rows, parameters]``; the weights' norms now.
        """
        self._pack()
        handed = torch.tensor(self._places).view(-1, 3), self._blocks, self._weight_norms()
        self._hand_over()
        return handed

    @torch.no_grad()
    def _weight_norms(self) -> list[Tensor]:
        kind = torch.float64 if any(one.dtype == torch.float64 for one in self.parameters) else torch.float32
        weights: list[Tensor | None] = [_dense(one.detach()) for one in self.parameters]
        return [norms_of(weights, self.parameters[0].device).to(kind)] if self._places else []

    def adapt(self, batch_seconds: float, share: float) -> None:
        """Take rows so seldom that they keep within a share of the time of batches; each step where a row is cheap.

        Every n-th with an odd n: two parts that are trained in turns are both seen.
        """
        if self._seconds and batch_seconds:
            allowed = max(CHEAP, batch_seconds * share)
            self.every = math.ceil(median(self._seconds) / allowed) | 1


def _dense(tensor: Tensor) -> Tensor:
    """A sparse gradient's values, which norms may count twice where a row has come twice; others as they are."""
    return tensor._values() if tensor.is_sparse else tensor


def names_of(module: nn.Module, parameters: Sequence[Tensor]) -> list[str]:
    """What the module calls these parameters."""
    known = {id(parameter): name.replace("_orig_mod.", "") for name, parameter in module.named_parameters()}
    return [known.get(id(parameter), f"parameter {place}") for place, parameter in enumerate(parameters)]


def looked_up(module: nn.Module) -> set[int]:
    """The ids of tables from which rows are looked up: those that no batch names have no gradient."""
    tables = (part for part in module.modules() if isinstance(part, (nn.Embedding, nn.EmbeddingBag)))
    return {id(parameter) for table in tables for parameter in table.parameters(recurse=False)}
