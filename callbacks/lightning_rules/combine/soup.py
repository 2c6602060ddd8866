"""Weight soups: one network whose weights are the mean of those of several."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import update_bn

from lightning_rules.combine.reading import call

State = Mapping[str, Tensor]


def same_architecture(states: Sequence[State]) -> bool:
    """Whether state dicts have the same names and shapes, so that their weights can be averaged."""
    shapes = [{name: value.shape for name, value in state.items()} for state in states]
    return all(each == shapes[0] for each in shapes[1:])


def soup_of(states: Sequence[State]) -> dict[str, Tensor]:
    """The uniform soup (Wortsman et al. 2022, section 2): the mean of each weight; counters are the first member's."""
    return {name: _mean([state[name] for state in states]) for name in states[0]}


def _mean(tensors: list[Tensor]) -> Tensor:
    first = tensors[0]
    if not first.is_floating_point():
        return first.clone()
    total = torch.zeros(first.shape, dtype=torch.double)
    for tensor in tensors:
        total += tensor.cpu()
    return (total / len(tensors)).to(first.dtype)


def greedy_soup(
    states: Sequence[State], losses: Sequence[float], loss_of: Callable[[dict[str, Tensor]], float]
) -> tuple[list[int], dict[str, Tensor]]:
    """The greedy soup (Wortsman et al. 2022, algorithm 1): members from the best on, each kept if it does not hurt.

    Args:
        states: The members' state dicts, of one architecture.
        losses: Their losses on validation, in the same order.
        loss_of: The loss of a soup on validation.

    Returns:
        Which members are in it, and their mean.
    """
    order = sorted(range(len(states)), key=losses.__getitem__)
    chosen, best, soup = [order[0]], losses[order[0]], dict(states[order[0]])
    for one in order[1:]:
        tried = soup_of([states[each] for each in [*chosen, one]])
        loss = loss_of(tried)
        if loss <= best:
            chosen, best, soup = [*chosen, one], loss, tried
    return chosen, soup


def has_batch_statistics(module: nn.Module) -> bool:
    """Whether a module has batch norm with running statistics, which no mean of weights makes right."""
    norms = torch.nn.modules.batchnorm._BatchNorm
    return any(isinstance(part, norms) and part.track_running_stats for part in module.modules())


def estimate_batch_statistics(module: nn.Module, batches: Iterable[Any]) -> None:
    """Estimate the running statistics of batch norm anew, over batches of training data on the module's device.

    Modes are put back. torch's ``update_bn`` does the work.
    """
    modes = {part: part.training for part in module.modules()}
    update_bn(([batch] for batch in batches), _Fed(module))
    for part, mode in modes.items():
        part.training = mode


class _Fed(nn.Module):
    """A module that takes whole batches, since ``update_bn`` takes the first part of a batch for the inputs."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module

    def forward(self, batch: Any) -> Any:
        return call(self.module, batch)
