"""Scores of predictions against ground truth, without mmengine: COCO and VOC average precision, curves and confusion of
detections, IoU of class maps, top-k.
"""

from __future__ import annotations

from effdense.evaluation.accumulate import CocoArrays
from effdense.evaluation.boundary import boundary_counts
from effdense.evaluation.coco_ap import evaluate_coco
from effdense.evaluation.coco_dump import write_results
from effdense.evaluation.coco_scores import CocoScores
from effdense.evaluation.columns import Found, Truth
from effdense.evaluation.confusion import confusion_matrix
from effdense.evaluation.curves import Curve, Curves, OperatingPoint, curves_of
from effdense.evaluation.detection_confusion import DetectionConfusion, detection_confusion
from effdense.evaluation.error_types import ErrorTypes, tide_errors
from effdense.evaluation.matching import Matches, match
from effdense.evaluation.segmentation_scores import SegmentationScores
from effdense.evaluation.top_k import TopKScores, correct_at
from effdense.evaluation.voc_ap import VocScores, voc_ap
from effdense.evaluation.worst_images import ImageRanking, rank_images

__all__ = [
    "CocoArrays",
    "CocoScores",
    "Curve",
    "Curves",
    "DetectionConfusion",
    "ErrorTypes",
    "Found",
    "ImageRanking",
    "Matches",
    "OperatingPoint",
    "SegmentationScores",
    "TopKScores",
    "Truth",
    "VocScores",
    "boundary_counts",
    "confusion_matrix",
    "correct_at",
    "curves_of",
    "detection_confusion",
    "evaluate_coco",
    "match",
    "rank_images",
    "tide_errors",
    "voc_ap",
    "write_results",
]
