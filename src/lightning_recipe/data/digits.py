"""Handwritten digits, 8 x 8 pixels, which come with scikit-learn: a real task without a download."""

from typing import Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from sklearn.datasets import load_digits
from torch import Tensor
from torch.utils.data import Dataset

from lightning_recipe.data.examples import Examples
from lightning_recipe.data.labelled import LabelledDataModule
from lightning_recipe.data.normalisation import Normalisation
from lightning_recipe.data.splits import split

Split = Literal["train", "val", "test"]


class DigitsDataset(Dataset[Any]):
    """Digits as tuples (image, label), or as sequences in a dict with `x`, `length` and `y`."""

    def __init__(self, x: Tensor, targets: NDArray[np.int64], form: Literal["images", "rows"]) -> None:
        self.x = x
        self.targets: list[int] = targets.tolist()
        self.form = form

    def __len__(self) -> int:
        return len(self.targets)

    def __getitem__(self, index: int) -> Any:
        if self.form == "images":
            return self.x[index], self.targets[index]
        return {"x": self.x[index], "length": len(self.x[index]), "y": self.targets[index]}


class DigitsDataModule(LabelledDataModule):
    """scikit-learn's 1,797 digits, split 70/20/10 by class, normalised with training statistics only.

    The split depends on `split_seed` alone, so that every run is measured on the same examples.

    Args:
        form: "images" are float [1, 8, 8]; "rows" are sequences of 8 rows of 8 pixels for recurrent networks.
        image_size: Enlarge images to this height and width (most backbones halve them five times).
        batch_size: Examples a batch and process, at least 1.
        num_workers: Worker processes for loading; 0 is quickest here, all digits being in memory.
        split_seed: Seed of the split.
    """

    in_chans = 1
    num_classes = 10

    def __init__(
        self,
        form: Literal["images", "rows"] = "images",
        image_size: int = 8,
        batch_size: int = 32,
        num_workers: int = 0,
        split_seed: int = 0,
    ) -> None:
        super().__init__(batch_size, num_workers)
        if form not in ("images", "rows"):
            raise ValueError(f"form={form!r} was given, but digits come as images or rows: choose one of them.")
        self.form = form
        self.image_size = image_size
        self.split_seed = split_seed
        self.class_names = [str(digit) for digit in range(self.num_classes)]

    def setup(self, stage: str) -> None:
        """Split and normalise; the same on every rank."""
        if self.datasets:
            return
        digits = load_digits()
        targets = digits.target.astype(np.int64)
        examples = Examples(len(targets), targets, class_names=self.class_names)
        given = self._given(split(examples, {"val": 0.2, "test": 0.1}, self.split_seed), examples)
        pixels = torch.as_tensor(digits.images, dtype=torch.float32)
        fitted = pixels[given.fitted_on]
        self.normalisation = Normalisation((fitted.mean().item(),), (fitted.std().item(),))
        x = (pixels - fitted.mean()) / fitted.std()
        if self.form == "images":
            x = x[:, None]
            if self.image_size != x.shape[-1]:
                x = F.interpolate(x, size=self.image_size, mode="bilinear", antialias=True)
        self.datasets = {name: DigitsDataset(x[part], targets[part], self.form) for name, part in given.parts.items()}

    def labels(self, split: Split) -> NDArray[np.int64]:
        """Return the labels [N] of a split, after `setup`."""
        return np.asarray(self.datasets[split].targets, dtype=np.int64)
