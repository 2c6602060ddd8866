"""LightningModules: images on timm backbones, sequences on recurrent networks."""

from lightning_recipe.models.image_classifier import ImageClassifier
from lightning_recipe.models.sequence_classifier import SequenceClassifier

__all__ = ["ImageClassifier", "SequenceClassifier"]
