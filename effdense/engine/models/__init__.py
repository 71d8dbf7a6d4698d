"""mmengine shells around plain-torch networks; importing this package registers them."""

from effdense.engine.models.classification import ClassificationModel
from effdense.engine.models.detection import DetectionModel
from effdense.engine.models.segmentation import SegmentationModel
from effdense.engine.models.shell import NetworkModel, Normalize

__all__ = ["ClassificationModel", "DetectionModel", "NetworkModel", "Normalize", "SegmentationModel"]
