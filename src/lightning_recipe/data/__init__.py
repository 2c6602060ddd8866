"""LightningDataModules: scikit-learn's digits, folders of images, tables."""

from lightning_recipe.data.digits import DigitsDataModule
from lightning_recipe.data.image_folder import ImageFolderDataModule
from lightning_recipe.data.table import TableDataModule

__all__ = ["DigitsDataModule", "ImageFolderDataModule", "TableDataModule"]
