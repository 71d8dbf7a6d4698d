"""EfficientUNet: network and loss, each usable alone."""

from effdense.models.segmentation.efficientunet import EfficientUNet, create_segmentor
from effdense.models.segmentation.families import EfficientUNetConfig, segmentor_config, segmentor_names
from effdense.models.segmentation.losses import segmentation_loss

__all__ = [
    "EfficientUNet",
    "EfficientUNetConfig",
    "create_segmentor",
    "segmentation_loss",
    "segmentor_config",
    "segmentor_names",
]
