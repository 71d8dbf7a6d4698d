"""EfficientDet: network, anchors, assignment, loss and post-processing, each usable alone."""

from effdense.models.detection.efficientdet import DetectorOutput, EfficientDet, create_detector
from effdense.models.detection.families import EfficientDetConfig, detector_config, detector_names

__all__ = [
    "DetectorOutput",
    "EfficientDet",
    "EfficientDetConfig",
    "create_detector",
    "detector_config",
    "detector_names",
]
