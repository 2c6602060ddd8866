"""Mean and standard deviation of each channel: a pretrained backbone's, else of the training images."""

import hashlib
import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path

import timm
import torch
from lightning.pytorch.utilities import rank_zero_info
from timm.data.config import resolve_data_config
from torch.utils.data import DataLoader, Subset

from lightning_recipe.data.image_files import ImageFiles
from lightning_recipe.whole_file import whole_file

# More images would not move the statistics by what matters.
MAX_IMAGES = 10_000


@dataclass(frozen=True)
class Normalisation:
    """Mean and standard deviation of each channel, of pixels in [0, 1]."""

    mean: tuple[float, ...]
    std: tuple[float, ...]


def of_backbone(backbone: str, in_chans: int) -> Normalisation:
    """Return the statistics that a pretrained backbone was trained with, averaged for grey images.

    Raises:
        ValueError: If timm has no such backbone.
    """
    config = timm.get_pretrained_cfg(backbone) if timm.is_model(backbone.partition(".")[0]) else None
    if config is None:
        raise ValueError(
            f"normalise_for={backbone!r} is no backbone of timm: give the name that the model has, or null."
        )
    resolved = resolve_data_config(pretrained_cfg=asdict(config))  # type: ignore[no-untyped-call]
    mean, std = tuple(resolved["mean"]), tuple(resolved["std"])
    if in_chans != len(mean):
        return Normalisation((sum(mean) / len(mean),) * in_chans, (sum(std) / len(std),) * in_chans)
    return Normalisation(mean, std)


def of_images(images: ImageFiles, *, num_workers: int) -> Normalisation:
    """Measure the statistics of up to `MAX_IMAGES` evenly spaced images with pixels in [0, 1].

    Args:
        images: The training images.
        num_workers: Worker processes for reading.
    """
    step = max(1, -(-len(images) // MAX_IMAGES))
    loader = DataLoader(Subset(images, range(0, len(images), step)), batch_size=32, num_workers=num_workers)
    count, total, squares = 0, torch.zeros(1, dtype=torch.float64), torch.zeros(1, dtype=torch.float64)
    for batch, _ in loader:
        pixels = batch.double().transpose(0, 1).flatten(1)  # [C, N * H * W]
        count += pixels.shape[1]
        total = total + pixels.sum(dim=1)
        squares = squares + pixels.square().sum(dim=1)
    mean = total / count
    # A channel that never changes is only centred.
    std = (squares / count - mean.square()).clamp(min=0).sqrt()
    std = torch.where(std > 1e-6, std, torch.ones_like(std))
    return Normalisation(tuple(mean.tolist()), tuple(std.tolist()))


def cache_key(images: ImageFiles, root: Path, image_size: int) -> str:
    """Return a key of all that the statistics depend on: the files, their sizes, how they are read."""
    digest = hashlib.sha256(f"{images.mode} {image_size} {MAX_IMAGES}".encode())
    for path in images.paths:
        digest.update(f"\n{os.path.relpath(path, root)} {path.stat().st_size}".encode())
    return digest.hexdigest()[:16]


def read_cache(key: str, root: Path) -> Normalisation | None:
    """Return the cached statistics, or None if there are none that can be read."""
    for folder in _cache_folders(root):
        try:
            values = json.loads((folder / f"normalisation-{key}.json").read_text(encoding="utf-8"))
            return Normalisation(tuple(values["mean"]), tuple(values["std"]))
        except (OSError, ValueError, KeyError, TypeError):
            continue
    return None


def write_cache(key: str, root: Path, normalisation: Normalisation) -> None:
    """Write the statistics beside the images, or into the user's cache if that folder is read-only.

    The file appears whole, so that no other process reads half of it.
    """
    for folder in _cache_folders(root):
        try:
            with whole_file(folder / f"normalisation-{key}.json") as file:
                json.dump(asdict(normalisation), file)
        except OSError:
            continue
        else:
            return
    rank_zero_info(
        "The training images' mean and std could be cached nowhere, so each run measures them: make "
        f"{_cache_folders(root)[0]} writable to keep them."
    )


def _cache_folders(root: Path) -> list[Path]:
    user = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return [root / ".lightning-rules", user / "lightning-rules"]
