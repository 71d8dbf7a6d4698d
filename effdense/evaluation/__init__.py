"""Scores of predictions against ground truth, without mmengine: COCO average precision, IoU of class maps, top-k."""

from __future__ import annotations

from effdense.evaluation.boundary import boundary_counts
from effdense.evaluation.coco_ap import evaluate_coco
from effdense.evaluation.coco_scores import CocoScores
from effdense.evaluation.confusion import confusion_matrix
from effdense.evaluation.segmentation_scores import SegmentationScores
from effdense.evaluation.top_k import TopKScores, correct_at

__all__ = [
    "CocoScores",
    "SegmentationScores",
    "TopKScores",
    "boundary_counts",
    "confusion_matrix",
    "correct_at",
    "evaluate_coco",
]
