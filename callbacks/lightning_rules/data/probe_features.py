"""What quick probes look at in place of raw inputs: a few hundred numbers an example, made without labels."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

NUMBERS = 768  # of an example that distances and linear probes look at
SIDE = 16  # images are averaged down to so many pixels a side for that
SCENE = 32  # and to so many for convolutions
PATCH = 5
FILTERS = 32
RANDOM_FEATURES = 256


def plain(inputs: Tensor) -> Tensor:
    """A row of at most a few hundred numbers an example, each with mean 0 and variance 1 over the examples.

    Images and signals are averaged down; other long inputs are hashed (each number is added, with a random sign, to
    one of a few sums).

    Args:
        inputs: ``[n, ...]``, float.

    Returns:
        ``[n, d]``; columns that do not vary are left out. Numbers that are not finite count as 0.
    """
    inputs = torch.nan_to_num(inputs, 0.0, 0.0, 0.0)
    if inputs[0].numel() > NUMBERS and inputs.dim() >= 3:
        scene = as_scene(inputs)
        inputs = F.adaptive_avg_pool2d(scene, (min(SIDE, scene.shape[2]), min(_along(scene), scene.shape[3])))
    rows = inputs.flatten(1)
    if rows.shape[1] > NUMBERS:
        generator = torch.Generator().manual_seed(0)
        place = torch.randint(NUMBERS, (rows.shape[1],), generator=generator)
        sign = torch.randint(2, (rows.shape[1],), generator=generator) * 2.0 - 1.0
        rows = torch.zeros(len(rows), NUMBERS).index_add_(1, place, rows * sign)
    return standardised(rows)


def _along(scene: Tensor) -> int:
    """Numbers kept along the last dimension: signals, which have no other, keep more of them."""
    return SIDE if scene.shape[2] > 1 else SIDE**2


def standardised(rows: Tensor) -> Tensor:
    """Columns with mean 0 and variance 1; those that do not vary are left out."""
    spread = rows.std(0)
    varies = spread > 1e-6 * (rows.abs().amax(0) + 1e-30)
    return (rows[:, varies] - rows[:, varies].mean(0)) / spread[varies]


def as_scene(inputs: Tensor) -> Tensor:
    """Images and signals as ``[n, channels, height, width]``; rows of numbers have one channel and height 1."""
    if inputs.dim() == 2:
        return inputs[:, None, None, :]
    if inputs.dim() == 3:  # [channels, time], [time, channels] or [height, width]
        return inputs[:, None]
    if inputs.dim() > 4:  # video, volumes: what comes first is put together
        inputs = inputs.flatten(1, inputs.dim() - 3)
    last = inputs.shape[3] in (1, 3, 4) and inputs.shape[1] > 4
    return inputs.permute(0, 3, 1, 2) if last else inputs


def pooled(inputs: Tensor) -> Tensor | None:
    """How strongly, and how often, small patterns occur anywhere in an image or a signal.

    The patterns are patches of the examples themselves (Coates, Ng (2012), "Learning Feature Representations with
    K-means"), the answers are rectified and pooled over all places: the mean, and the largest.

    Args:
        inputs: ``[n, ...]``, float.

    Returns:
        ``[n, 64]``, standardised; None where the inputs are too small to have places.
    """
    scene = torch.nan_to_num(as_scene(inputs), 0.0, 0.0, 0.0)
    height, width = min(PATCH, scene.shape[2]), PATCH if scene.shape[2] > 1 else 3 * PATCH
    if scene.shape[3] < 8 or width * 2 > scene.shape[3] or scene.shape[1] > 16:
        return None
    scene = F.adaptive_avg_pool2d(
        scene, (min(SCENE, scene.shape[2]), min(SCENE if height > 1 else SCENE**2, scene.shape[3]))
    )
    scene = (scene - scene.mean()) / (scene.std() + 1e-12)
    generator = torch.Generator().manual_seed(0)
    examples = torch.randint(len(scene), (FILTERS,), generator=generator).tolist()
    tops = torch.randint(scene.shape[2] - height + 1, (FILTERS,), generator=generator).tolist()
    lefts = torch.randint(scene.shape[3] - width + 1, (FILTERS,), generator=generator).tolist()
    places = zip(examples, tops, lefts, strict=True)
    patches = torch.stack([scene[e, :, t : t + height, left : left + width] for e, t, left in places])
    patches = patches - patches.mean((1, 2, 3), keepdim=True)
    patches = patches / (patches.flatten(1).norm(dim=1)[:, None, None, None] + 1e-3)
    answers = F.relu(F.conv2d(scene, patches) - 0.5)
    return standardised(torch.cat([answers.mean((2, 3)), answers.amax((2, 3))], 1))


def random_features(rows: Tensor) -> Tensor:
    """The rows, and cosines of random projections of them, which stand for a Gaussian kernel.

    Rahimi, Recht (2007), "Random Features for Large-Scale Kernel Machines", section 3.

    Args:
        rows: ``[n, d]``, standardised.

    Returns:
        ``[n, d + 256]``.
    """
    generator = torch.Generator().manual_seed(0)
    near = torch.cdist(rows[:200], rows[:200]).median().clamp(min=1e-6)
    directions = torch.randn(rows.shape[1], RANDOM_FEATURES, generator=generator) * (2.0 / near)
    shifts = torch.rand(RANDOM_FEATURES, generator=generator) * 2 * math.pi
    return torch.cat([rows, standardised(torch.cos(rows @ directions + shifts))], 1)
