"""A recurrent layer as steps of plain operations, which can be run for several members at once."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

Layer = tuple[Tensor, Tensor, Tensor | None]  # weights of inputs and of states, the sum of both biases


class Stepwise(TorchFunctionMode):
    """Inside the block, LSTM layers are computed step by step."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """One call of a function of torch."""
        if func is torch.lstm and len(args) == 9 and isinstance(args[1], (tuple, list)) and not kwargs:
            done = lstm_steps(*args)
            if done is not NotImplemented:
                return done
        return func(*args, **(kwargs or {}))


def lstm_steps(
    values: Tensor,
    start: Sequence[Tensor],
    weights: Sequence[Tensor],
    has_biases: bool,
    num_layers: int,
    dropout: float,
    train: bool,
    bidirectional: bool,
    batch_first: bool,
) -> Any:
    """What ``aten::lstm.input`` computes in evaluation mode, with its arguments; projections are left to it."""
    directions = 2 if bidirectional else 1
    layers = _layers(list(weights), has_biases)
    if train or len(layers) != num_layers * directions or start[0].shape[-1] != start[1].shape[-1]:
        return NotImplemented
    values = values.transpose(0, 1) if batch_first else values
    ends = []
    for number in range(num_layers):
        sides = []
        for place in range(number * directions, (number + 1) * directions):
            backward = place % directions == 1
            side, end = _direction(values, start[0][place], start[1][place], layers[place], backward)
            sides.append(side)
            ends.append(end)
        values = torch.cat(sides, dim=-1) if bidirectional else sides[0]
    hidden, cells = (torch.stack([end[which] for end in ends]) for which in (0, 1))
    return (values.transpose(0, 1) if batch_first else values), hidden, cells


def _layers(weights: list[Tensor], has_biases: bool) -> list[Layer]:
    count = 4 if has_biases else 2
    groups = [weights[place : place + count] for place in range(0, len(weights), count)]
    return [(group[0], group[1], group[2] + group[3] if has_biases else None) for group in groups]


def _direction(
    values: Tensor, hidden: Tensor, cell: Tensor, layer: Layer, backward: bool
) -> tuple[Tensor, tuple[Tensor, Tensor]]:
    """One layer in one direction over values [T, N, F]: outputs [T, N, H], and the last hidden state and cell.

    CPUs take much longer for tanh(x) than for the sigmoid s(x), so it is computed as 2 s(2x) - 1, and the hidden states
    are kept with the opposite sign, h = o - 2 o s(2c), which saves an operation a step.
    """
    of_input, of_state, bias = layer
    ones = torch.ones(hidden.shape[-1], dtype=of_input.dtype, device=of_input.device)
    doubled = torch.cat([ones, ones, ones + ones, ones])  # the third gate is the one with tanh
    of_input, of_state = ((weights * doubled.unsqueeze(1)).t() for weights in (of_input, of_state))
    rows = values.reshape(-1, values.shape[-1])
    gates = rows @ of_input if bias is None else torch.addmm(bias * doubled, rows, of_input)
    steps = list(gates.reshape(*values.shape[:2], gates.shape[-1]).unbind(0))
    opposite, states = -hidden, []
    for step in reversed(steps) if backward else steps:
        into, keep, new, out = torch.addmm(step, opposite, of_state, alpha=-1).sigmoid().chunk(4, dim=1)
        cell = torch.addcmul(keep * cell - into, into, new, value=2)
        opposite = torch.addcmul(out, out, (cell + cell).sigmoid(), value=-2)
        states.append(opposite)
    return -torch.stack(states[::-1] if backward else states), (-opposite, cell)
