"""LightningModules: images on timm backbones, sequences on recurrent networks, tables on a small one."""

from lightning_recipe.models.image_classifier import ImageClassifier
from lightning_recipe.models.sequence_classifier import SequenceClassifier
from lightning_recipe.models.table_classifier import TableClassifier

__all__ = ["ImageClassifier", "SequenceClassifier", "TableClassifier"]
