"""LightningDataModules: scikit-learn's digits, folders of images."""

from lightning_recipe.data.digits import DigitsDataModule
from lightning_recipe.data.image_folder import ImageFolderDataModule

__all__ = ["DigitsDataModule", "ImageFolderDataModule"]
