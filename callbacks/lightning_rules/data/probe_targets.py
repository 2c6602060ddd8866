"""Targets as quick probes take them: classes counted from 0, or numbers."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from lightning_rules.rule import NotApplicable

PER_CLASS = 5  # examples; smaller classes are left out
MOST_CLASSES = 0.1  # of the examples; more distinct whole numbers than that are numbers or names, not classes
IGNORED = -100  # the label that torch's losses leave out


@dataclass(frozen=True)
class Labels:
    """Targets as probes take them.

    Attributes:
        values: For each split ``[n]``: classes counted from 0, or numbers.
        rows: For each split, which of its examples they belong to.
        names: The classes as the data has them, in order; empty for numbers.
    """

    values: list[Tensor]
    rows: list[Tensor]
    names: list[str]


def labels_from(splits: list[Tensor]) -> Labels:
    """Targets of splits as classes or numbers.

    Raises:
        NotApplicable: They are neither, or there are too few.
    """
    flat = [_flat(targets) for targets in splits]
    known = [targets.isfinite() & (targets != IGNORED) for targets in (part.double() for part in flat)]
    together = torch.cat([part[rows].double() for part, rows in zip(flat, known, strict=True)])
    kinds, counts = torch.unique(together, return_counts=True)
    whole = all(not part.is_floating_point() for part in flat)
    if len(kinds) < 2:
        raise NotApplicable("all labels are the same.")
    if len(kinds) > 2 and (not whole or len(kinds) > MOST_CLASSES * len(together)):
        return Labels([p[k].float() for p, k in zip(flat, known, strict=True)], [k.nonzero()[:, 0] for k in known], [])
    kinds = kinds[counts >= PER_CLASS]
    if len(kinds) < 2:
        raise NotApplicable(f"no two classes have {PER_CLASS} examples.")
    rows = [(torch.isin(part.double(), kinds) & some).nonzero()[:, 0] for part, some in zip(flat, known, strict=True)]
    values = [torch.searchsorted(kinds, part[row].double()) for part, row in zip(flat, rows, strict=True)]
    return Labels(values, rows, [f"{kind:g}" for kind in kinds.tolist()])


def _flat(targets: Tensor) -> Tensor:
    if targets.dim() == 2 and targets.shape[1] > 1:
        one_hot = bool(((targets == 0) | (targets == 1)).all()) and bool((targets.sum(1) == 1).all())
        targets = targets.argmax(1) if one_hot else targets
    if targets.dim() > 1 and targets[0].numel() > 1:
        raise NotApplicable("the targets are neither classes nor single numbers.")
    return targets.flatten()
