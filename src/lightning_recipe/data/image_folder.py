"""Images in one folder a class."""

from pathlib import Path
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torchvision.transforms import v2

from lightning_recipe.data import normalisation
from lightning_recipe.data.examples import Examples
from lightning_recipe.data.groups import check_groups_apart, check_pattern, groups_of
from lightning_recipe.data.image_files import (
    ImageFiles,
    class_folders,
    find_images,
    find_labelled_images,
    known_label,
)
from lightning_recipe.data.labelled import LabelledDataModule
from lightning_recipe.data.shares import Given
from lightning_recipe.data.splits import split

Split = Literal["train", "val", "test"]
Listed = tuple[list[Path], list[int]]  # files and labels


class ImageFolderDataModule(LabelledDataModule):
    r"""Images in one folder a class, either under train/, val/ and test/, or all in one place.

    Where val/ or test/ is missing, that part is held out from the training images: by class, and the same
    whatever the order of the file system. Validation and test images are never augmented.

    Args:
        root: The folder, with train/val/test sub-folders or with one sub-folder a class.
        image_size: Height and width of the images that the model gets.
        batch_size: Images a batch and process, at least 1.
        num_workers: Worker processes for loading; 0 loads in the main process.
        val_fraction: Share held out for validation where there is no val/.
        test_fraction: Share held out for the test where there is no test/.
        split_seed: Seed of that split.
        augment: Random crops and horizontal flips in training; off in the baseline (Karpathy 2019).
        normalise_for: Name of the pretrained backbone whose mean and std to use; null measures them on the
            training images, once, and keeps them in a file.
        in_chans: 3 reads images as RGB, 1 as grey.
        predict_folder: Images to predict, in any sub-folders; null predicts the test images.
        group_pattern: A regular expression, searched in each file's path below `root`; what its first group matches, or
            all of it, names whom or what the image shows, such as the patient in `(patient\d+)_`. Neither the split nor
            a fold has images of one group on two sides.

    Raises:
        FileNotFoundError: In `setup`, if the folder is missing or empty.
        ValueError: In `setup`, if a class has too few images to be split, a file does not match `group_pattern`, or a
            group is in two of the folders train/, val/ and test/; while loading, if an image is corrupt.
    """

    def __init__(
        self,
        root: str,
        image_size: int = 224,
        batch_size: int = 32,
        num_workers: int = 4,
        val_fraction: float = 0.2,
        test_fraction: float = 0.1,
        split_seed: int = 0,
        augment: bool = False,
        normalise_for: str | None = None,
        in_chans: Literal[1, 3] = 3,
        predict_folder: str | None = None,
        group_pattern: str | None = None,
    ) -> None:
        super().__init__(batch_size, num_workers)
        if group_pattern is not None:
            check_pattern(group_pattern)
        self.root = Path(root)
        self.image_size = image_size
        self.fractions = {"val": val_fraction, "test": test_fraction}
        self.split_seed = split_seed
        self.augment = augment
        self.normalise_for = normalise_for
        self.in_chans = in_chans
        self.predict_folder = predict_folder
        self.group_pattern = group_pattern

    @property
    def num_classes(self) -> int:
        """Number of classes, after `setup`."""
        return len(self.class_names)

    def prepare_data(self) -> None:
        """Measure and cache the statistics once a node, before the other processes read them."""
        self._statistics(*self._find())

    def setup(self, stage: str) -> None:
        """List the files of each split; reads no image if the statistics are cached."""
        if self.datasets:
            return
        images, given = self._find()
        self.normalisation = statistics = self._statistics(images, given)
        normalise = v2.Normalize(list(statistics.mean), list(statistics.std))
        found = {name: _chosen(images, part) for name, part in given.parts.items()}
        if self.predict_folder is not None and "predict" not in found:
            paths = find_images(Path(self.predict_folder))
            found["predict"] = paths, [known_label(path, self.class_names) for path in paths]
        for name, (paths, targets) in found.items():
            crop = self._augmenting_crop() if self.augment and name == "train" else self._plain_crop()
            transform = v2.Compose([*crop, *self._to_tensor(), normalise])
            self.datasets[name] = ImageFiles(paths, targets, transform, self.in_chans)

    def labels(self, split: Split) -> NDArray[np.int64]:
        """Return the labels [N] of a split, after `setup`, without reading an image."""
        return np.asarray(self.datasets[split].targets, dtype=np.int64)

    def _find(self) -> tuple[Listed, Given]:
        """Return the paths and labels of all images, and which of them this run gets for what."""
        train = self.root / "train" if (self.root / "train").is_dir() else self.root
        self.class_names = class_folders(train)
        paths, targets = find_labelled_images(train, self.class_names)
        missing = [name for name in self.fractions if train == self.root or not (self.root / name).is_dir()]
        parts = split(self._examples(paths, targets), {name: self.fractions[name] for name in missing}, self.split_seed)
        for name in [name for name in self.fractions if name not in missing]:
            more, labels = find_labelled_images(self.root / name, self.class_names)
            parts[name] = np.arange(len(paths), len(paths) + len(more))
            paths, targets = paths + more, targets + labels
        examples = self._examples(paths, targets)
        check_groups_apart(parts, examples.groups)
        return (paths, targets), self._given(parts, examples)

    def _examples(self, paths: list[Path], targets: list[int]) -> Examples:
        groups = None if self.group_pattern is None else groups_of(paths, self.root, self.group_pattern)
        return Examples(len(paths), np.asarray(targets, dtype=np.int64), groups, class_names=self.class_names)

    def _statistics(self, listed: Listed, given: Given) -> normalisation.Normalisation:
        if self.normalise_for is not None:
            return normalisation.of_backbone(self.normalise_for, self.in_chans)
        plain = v2.Compose([*self._plain_crop(), *self._to_tensor()])
        images = ImageFiles(*_chosen(listed, given.fitted_on), plain, self.in_chans)
        key = normalisation.cache_key(images, self.root, self.image_size)
        statistics = normalisation.read_cache(key, self.root)
        if statistics is None:
            statistics = normalisation.of_images(images, num_workers=self.num_workers)
            normalisation.write_cache(key, self.root, statistics)
        return statistics

    def _plain_crop(self) -> list[v2.Transform]:
        return [v2.Resize(self.image_size), v2.CenterCrop(self.image_size)]

    def _augmenting_crop(self) -> list[v2.Transform]:
        return [v2.RandomResizedCrop(self.image_size, scale=(0.5, 1.0)), v2.RandomHorizontalFlip()]

    def _to_tensor(self) -> list[v2.Transform]:
        return [v2.ToImage(), v2.ToDtype(torch.float32, scale=True), v2.ToPureTensor()]


def _chosen(listed: Listed, part: NDArray[np.int64]) -> Listed:
    """The images with these numbers."""
    paths, targets = listed
    return [paths[i] for i in part], [targets[i] for i in part]
