"""A few steps with an optimiser of a probe's own, to see what a network can learn; for use on loan, so it is undone."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from lightning_rules.rule import NotApplicable
from lightning_rules.view import View


class Stepping(Protocol):
    """What a short training needs of an optimiser."""

    @property
    def param_groups(self) -> Any:
        """Groups of parameters, as torch's optimisers have them."""

    def step(self) -> Any:
        """Move the parameters by their gradients."""


def train(view: View, lent: list[Tensor], batches: Sequence[Any], optimizer: Stepping) -> Iterator[float]:
    """Train on these batches, in turns and without end, with this optimiser.

    The training step is the user's, in the modes its submodules are in; callbacks, schedulers, clipping and logging
    are left out. Gradients are asked for, not accumulated, so that DDP's hooks see nothing: each rank trains by
    itself.

    Args:
        view: The run.
        lent: What ``view.on_loan()`` gave: the iterator is used up within that block, which undoes all of it.
        batches: Batches on the host.
        optimizer: Made on the module's parameters, by the probe.

    Yields:
        The loss before each step; take as many as are wanted. NaN or infinity where it is not finite.

    Raises:
        NotApplicable: The step gives no loss, or several, so that what one step of training is stays unknown.
    """
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    for index, batch in enumerate(itertools.cycle(batches)):
        loss = loss_of(view, lent, batch, index % len(batches))
        gradients = torch.autograd.grad(loss, parameters, allow_unused=True)
        value = float(loss.detach())
        yield value
        for parameter, gradient in zip(parameters, gradients, strict=True):
            parameter.grad = gradient
        optimizer.step()


def loss_of(view: View, lent: list[Tensor], batch: Any, batch_idx: int) -> Tensor:
    """The one loss of the user's training step, returned or given to ``manual_backward``, summed where it has a shape.

    Raises:
        NotApplicable: There is none, there are several, or nothing can be learned from it.
    """
    lent.clear()
    with torch.compiler.set_stance("force_eager"):
        returned = view.loss(batch, batch_idx)
    losses = [returned] if returned is not None and view.module.automatic_optimization else list(lent)
    if len(losses) != 1:
        raise NotApplicable(f"training_step gave {len(losses) or 'no'} losses where one is needed.")
    if losses[0].grad_fn is None:
        raise NotApplicable("the loss of training_step has no gradient.")
    return losses[0].sum()


def calm(module: nn.Module) -> None:
    """Switch off what makes training noisy: all is set to evaluation mode, but batch norms that were in training mode.

    For use on loan. On a GPU recurrent layers stay in training mode, since cuDNN asks for it, and lose their dropout.
    """
    norms = [part for part in module.modules() if isinstance(part, nn.modules.batchnorm._NormBase) and part.training]
    module.eval()
    for norm in norms:
        norm.training = True
    for part in module.modules():
        if isinstance(part, nn.RNNBase) and any(parameter.is_cuda for parameter in part.parameters()):
            part.training, part.dropout = True, 0.0


def learned_parameters(view: View) -> list[torch.nn.Parameter]:
    """The parameters that the run trains: those of its optimisers that require gradients, each once.

    Raises:
        NotApplicable: There are several optimisers, each with an aim of its own, or none.
    """
    if len(view.trainer.optimizers) != 1:
        count = len(view.trainer.optimizers)
        raise NotApplicable(f"the run has {count or 'no'} optimisers, and no single aim to train for.")
    groups = view.trainer.optimizers[0].param_groups
    return [parameter for group in groups for parameter in group["params"] if parameter.requires_grad]


def parameters_of_one_aim(view: View) -> list[torch.nn.Parameter]:
    """The parameters that the run trains, of all its optimisers; for steps whose one loss trains them together.

    :func:`loss_of` refuses a step of several losses.

    Raises:
        NotApplicable: There is nothing to train.
    """
    groups = [group for optimizer in view.trainer.optimizers for group in optimizer.param_groups]
    found = dict.fromkeys(parameter for group in groups for parameter in group["params"] if parameter.requires_grad)
    if not found:
        raise NotApplicable("the run has no optimiser that trains a parameter.")
    return list(found)
