"""Whether a step changes the tensors that it should only read."""

from __future__ import annotations

from collections import defaultdict

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from lightning_rules.hidden_parts import named_parts

BATCH_STATISTICS = ("running_mean", "running_var")


class Unchanged:
    """Norms of parameters and batch statistics before and after a step, on their device; nothing is copied.

    Args:
        module: The LightningModule.
        statistics: Whether batch statistics are compared too. DDP overwrites those of all ranks but the first with the
            first one's before each forward pass.
    """

    def __init__(self, module: nn.Module, statistics: bool = True) -> None:
        found: dict[str, Tensor] = {name: one for name, one in module.named_parameters() if _plain(one)}
        for path, part in named_parts(module):
            if statistics and isinstance(part, nn.modules.batchnorm._NormBase):
                buffers = {f"{path}.{name}".lstrip("."): part._buffers.get(name) for name in BATCH_STATISTICS}
                found |= {name: one for name, one in buffers.items() if one is not None and _plain(one)}
        groups: dict[torch.device, dict[str, Tensor]] = defaultdict(dict)
        for name, tensor in found.items():
            groups[tensor.device][name] = tensor
        self._groups = list(groups.values())
        self._before = self._norms()

    @property
    def names(self) -> list[str]:
        """Of the tensors, in the order of :meth:`changed`."""
        return [name for group in self._groups for name in group]

    def changed(self) -> list[Tensor]:
        """For each device which of its tensors are not what they were, ``[tensors]``."""
        pairs = zip(self._before, self._norms(), strict=True)
        return [(before != after) & ~(before.isnan() & after.isnan()) for before, after in pairs]

    def _norms(self) -> list[Tensor]:
        with torch.no_grad():
            return [torch.stack(torch._foreach_norm(list(group.values()), 2, torch.float32)) for group in self._groups]


def _plain(tensor: Tensor) -> bool:
    """Dense real numbers that are all here: no shard, no subclass that computes in its own way."""
    kind = type(tensor) in (Tensor, nn.Parameter, nn.Buffer)
    return kind and not is_lazy(tensor) and tensor.is_floating_point() and not tensor.is_sparse and not tensor.is_meta
