"""Folders of images as lists of files and labels: found, checked and read."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset
from torchvision.datasets.folder import IMG_EXTENSIONS


class ImageFiles(Dataset[tuple[Tensor, int]]):
    """Images on disk as tuples (transformed image, label).

    Args:
        paths: The files.
        targets: The label of each, from 0; -1 where it is unknown.
        transform: What makes a tensor of a PIL image.
        in_chans: 3 reads images as RGB, 1 as grey.
    """

    def __init__(
        self,
        paths: Sequence[Path],
        targets: Sequence[int],
        transform: Callable[[Image.Image], Tensor],
        in_chans: int = 3,
    ) -> None:
        self.paths = list(paths)
        self.targets = list(targets)
        self.transform = transform
        self.mode = "L" if in_chans == 1 else "RGB"

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return self.transform(read_image(self.paths[index], self.mode)), self.targets[index]


def read_image(path: Path, mode: str = "RGB") -> Image.Image:
    """Read a whole image file.

    Raises:
        ValueError: If it cannot be decoded; the message names the file.
    """
    try:
        with Image.open(path) as image:
            return image.convert(mode)
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise ValueError(f"{path} cannot be read as an image ({error}): repair the file or remove it.") from error


def class_folders(folder: Path) -> list[str]:
    """Return the sorted names of a folder's sub-folders, hidden ones left out.

    Raises:
        FileNotFoundError: If there is no such folder, or it has no sub-folder.
    """
    if not folder.is_dir():
        raise FileNotFoundError(f"There is no image folder {folder}: give a folder with one sub-folder a class.")
    names = sorted(entry.name for entry in folder.iterdir() if entry.is_dir() and not entry.name.startswith("."))
    if not names:
        raise FileNotFoundError(
            f"The image folder {folder} has no sub-folders: put the images of each class into one of its own."
        )
    return names


def find_images(folder: Path) -> list[Path]:
    """Return the image files under a folder, in an order that does not depend on the file system.

    Raises:
        FileNotFoundError: If there is none.
    """
    paths = [
        path
        for path in folder.rglob("*")
        if path.suffix.lower() in IMG_EXTENSIONS
        and path.is_file()
        and not any(part.startswith(".") for part in path.relative_to(folder).parts)
    ]
    if not paths:
        raise FileNotFoundError(
            f"The image folder {folder} has no images: put files of these types there: {', '.join(IMG_EXTENSIONS)}."
        )
    return sorted(paths, key=lambda path: path.relative_to(folder).as_posix())


def find_labelled_images(folder: Path, class_names: Sequence[str]) -> tuple[list[Path], list[int]]:
    """Return the images of a folder with one sub-folder a class, and their labels.

    Args:
        folder: The folder.
        class_names: The classes in the order of their labels; the folder may lack some, but has no others.

    Raises:
        FileNotFoundError: If a class folder holds no image, or there is no class folder.
        ValueError: If the folder has a class that is none of `class_names`.
    """
    paths: list[Path] = []
    targets: list[int] = []
    for name in class_folders(folder):
        if name not in class_names:
            raise ValueError(
                f"{folder} has a class {name!r} that training does not have ({', '.join(class_names)}): "
                "rename the folder or remove it."
            )
        found = find_images(folder / name)
        paths += found
        targets += [list(class_names).index(name)] * len(found)
    return paths, targets


def known_label(path: Path, class_names: Sequence[str]) -> int:
    """Return the label that the file's folder names, or -1."""
    parent: Any = path.parent.name
    return list(class_names).index(parent) if parent in class_names else -1
