"""What a model says about each example of an evaluation, gathered from all ranks, each example once."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from lightning_rules.combine.positions import positions
from lightning_rules.ranks import gather


class Collector:
    """Keeps rows of tensors, batch by batch, on the host.

    A DistributedSampler fills the last batches up with examples that another rank has, or this one had; these are
    left out. With other samplers each example is taken to come once.
    """

    def __init__(self) -> None:
        self._parts: list[tuple[Tensor, ...]] = []
        self._seen: dict[int, int] = {}

    def add(self, loader: Any, loader_idx: int, *tensors: Tensor) -> None:
        """Keep the rows of a batch.

        Args:
            loader: The loader that gave it, or several in a list.
            loader_idx: Its number.
            tensors: Each with the batch's rows in dimension 0, in the order of the loader.
        """
        if isinstance(loader, (list, tuple)):
            loader = loader[loader_idx]
        first, rows = self._seen.get(loader_idx, 0), len(tensors[0])
        self._seen[loader_idx] = first + rows
        places = positions(loader, torch.arange(first, first + rows))
        kept = places >= 0
        number = torch.full((int(kept.sum()),), loader_idx)
        self._parts.append((number, places[kept], *(tensor.detach().cpu()[kept] for tensor in tensors)))

    def gathered(self, trainer: Any) -> tuple[Tensor, ...]:
        """What all ranks have kept, in the order of the data set; forgets it. A collective.

        Returns:
            One tensor for each that was added; none where there was no batch.
        """
        parts, self._parts, self._seen = self._parts, [], {}
        here = _joined(parts)
        number, place, *tensors = _joined([part for part in gather(trainer, here) if part]) or ((), ())
        if not tensors:
            return ()
        order = sorted(range(len(number)), key=list(zip(number.tolist(), place.tolist(), strict=True)).__getitem__)
        return tuple(tensor[order] for tensor in tensors)


def _joined(parts: list[tuple[Tensor, ...]]) -> tuple[Any, ...]:
    return tuple(torch.cat(columns) for columns in zip(*parts, strict=True))
