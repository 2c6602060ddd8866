"""Shared by the tests of data: folders of small images."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image


@pytest.fixture
def make_folder(tmp_path: Path) -> Callable[..., Path]:
    """Return what writes a folder with `counts[name]` random images for each class."""

    def make(counts: dict[str, int], under: str = "images", seed: int = 0, size: int = 12) -> Path:
        generator = np.random.default_rng(seed)
        root = tmp_path / under
        for name, count in counts.items():
            (root / name).mkdir(parents=True, exist_ok=True)
            for i in range(count):
                pixels = generator.integers(0, 256, (size, size + 4, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(root / name / f"{i:02d}.png")
        return root

    return make
