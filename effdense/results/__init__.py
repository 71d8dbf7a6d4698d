"""Typed results of every task, each with ``plot``, ``save``, ``to_dict`` and ``to_json``."""

from effdense.results.classification import Classification
from effdense.results.detections import Detections
from effdense.results.segmentation import SegmentationMap

__all__ = ["Classification", "Detections", "SegmentationMap"]
