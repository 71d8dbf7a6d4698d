"""Segmentors: network and loss, each usable alone."""

from effdense.models.segmentation.families import SegmentorConfig, segmentor_config, segmentor_names
from effdense.models.segmentation.losses import segmentation_loss
from effdense.models.segmentation.segmentor import Segmentor, create_segmentor

__all__ = [
    "Segmentor",
    "SegmentorConfig",
    "create_segmentor",
    "segmentation_loss",
    "segmentor_config",
    "segmentor_names",
]
