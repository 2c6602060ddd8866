"""Norms of gradients and their scaling, on the device they are on: nothing here waits for it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.distributed
from torch import Tensor

HALF = (torch.float16, torch.bfloat16)
SMALLEST_WEIGHT = 1e-3  # Brock et al. (2021), section 4.1: a unit of zeros can still move
SMALLEST_GRADIENT = 1e-6


def parameters_of(optimizer: torch.optim.Optimizer) -> list[Tensor]:
    """The parameters of all groups, in order."""
    return [parameter for group in optimizer.param_groups for parameter in group["params"]]


def gradients_of(parameters: Sequence[Tensor]) -> list[Tensor | None]:
    """The gradients as dense tensors that share memory with them: this rank's shard, the values of a sparse one.

    A sparse gradient is coalesced first: the entries of one row count together.
    """
    return [None if parameter.grad is None else _dense(parameter) for parameter in parameters]


def _dense(parameter: Tensor) -> Tensor:
    gradient: Any = parameter.grad
    if hasattr(gradient, "to_local"):  # a DTensor, which is slow to import
        gradient = gradient.to_local()
    elif gradient.is_sparse:
        parameter.grad = gradient.coalesce()
        gradient = parameter.grad._values()
    dense: Tensor = gradient
    return dense


def norms_of(gradients: Sequence[Tensor | None], device: torch.device) -> Tensor:
    """The Euclidean norm of each gradient, ``[len(gradients)]``; 0 where there is none.

    Computed in float32 or more: the squares of half-precision gradients overflow.
    """
    present = [(place, gradient) for place, gradient in enumerate(gradients) if gradient is not None]
    norms: list[Tensor | None] = [None] * len(gradients)
    for places in _alike([gradient for _, gradient in present]):
        tensors = [present[place][1] for place in places]
        dtype = torch.float32 if tensors[0].dtype in HALF else None
        for place, norm in zip(places, torch._foreach_norm(tensors, 2, dtype=dtype), strict=True):
            norms[present[place][0]] = norm
    known = [norm for norm in norms if norm is not None]
    double = any(norm.dtype == torch.float64 for norm in known)
    nothing = torch.zeros((), device=device, dtype=torch.float64 if double else torch.float32)
    return torch.stack([nothing if norm is None else norm.to(nothing) for norm in norms])


def _alike(tensors: Sequence[Tensor]) -> list[list[int]]:
    """Places of tensors on the same device and of the same type: those can be worked on at once."""
    groups: dict[tuple[torch.device, torch.dtype], list[int]] = {}
    for place, tensor in enumerate(tensors):
        groups.setdefault((tensor.device, tensor.dtype), []).append(place)
    return list(groups.values())


def total_norm(parameters: Sequence[Tensor], norms: Tensor, flat_shards: bool) -> Tensor:
    """The norm of all gradients as one vector, over all shards; the same on every rank that shares the model.

    A collective where parameters are sharded.

    Args:
        parameters: Those whose gradients were measured; they say how they are sharded (``DTensor``).
        norms: This rank's norm of each gradient.
        flat_shards: Every parameter is cut over all ranks without telling so (FSDP's first version).
    """
    shards: dict[Any, list[Tensor]] = {}
    for parameter, norm in zip(parameters, norms.unbind(), strict=True):
        shards.setdefault(_layout(parameter), []).append(norm)
    if set(shards) == {None} and not flat_shards:
        return _norm(norms)
    squares = []
    for layout, parts in shards.items():
        square = torch.stack(parts).square().sum()
        if layout is None and flat_shards:
            torch.distributed.all_reduce(square)
        for dimension, placement in enumerate(layout[1] if layout else ()):
            if layout and placement.is_shard():
                torch.distributed.all_reduce(square, group=layout[0].get_group(dimension))
        squares.append(square)
    return torch.stack(squares).sum().sqrt()


def _layout(parameter: Any) -> tuple[Any, Any] | None:
    """The mesh of ranks that a DTensor lives on, and how it is cut over each of its dimensions; None for others."""
    return (parameter.device_mesh, parameter.placements) if hasattr(parameter, "device_mesh") else None


def _norm(tensor: Tensor, **options: Any) -> Tensor:
    norm: Tensor = torch.linalg.vector_norm(tensor, **options)
    return norm


def clip_coefficient(norm: Tensor, max_norm: Tensor | float) -> Tensor:
    """What gradients of this norm are multiplied by so that it is at most ``max_norm``; as torch computes it."""
    return torch.clamp(max_norm / (norm + 1e-6), max=1.0)


def scale_all(gradients: Sequence[Tensor | None], coefficient: Tensor) -> None:
    """Multiply all gradients by one number, in place."""
    present = [gradient for gradient in gradients if gradient is not None]
    for places in _alike(present):
        tensors = [present[place] for place in places]
        torch._foreach_mul_(tensors, coefficient.to(tensors[0].device))


def unit_norms(tensor: Tensor) -> Tensor:
    """The norm of each unit's weights: each row of a matrix, each filter, ``[units, 1, ...]``; of a vector its own."""
    if tensor.dim() <= 1:
        return _norm(tensor)
    return _norm(tensor, dim=tuple(range(1, tensor.dim())), keepdim=True)


def unit_coefficients(weights: Sequence[Tensor], gradients: Sequence[Tensor], factor: Tensor | float) -> list[Tensor]:
    """What the gradient of each unit is multiplied by so that it is at most ``factor`` times the unit's weights.

    Source: Brock et al. (2021), "High-Performance Large-Scale Image Recognition Without Normalization", section 4.1.
    """
    ceilings = [unit_norms(weight).clamp(min=SMALLEST_WEIGHT) * factor for weight in weights]
    seen = [unit_norms(gradient).clamp(min=SMALLEST_GRADIENT) for gradient in gradients]
    return [(ceiling / norm).clamp(max=1.0) for ceiling, norm in zip(ceilings, seen, strict=True)]
