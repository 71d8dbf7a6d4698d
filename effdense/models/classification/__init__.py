"""Image classifiers: the encoders with their ImageNet head, for pretraining and for checks against published scores."""

from effdense.models.classification.classifier import EfficientNetClassifier, create_classifier, pixel_statistics
from effdense.models.classification.losses import soft_target_cross_entropy

__all__ = ["EfficientNetClassifier", "create_classifier", "pixel_statistics", "soft_target_cross_entropy"]
