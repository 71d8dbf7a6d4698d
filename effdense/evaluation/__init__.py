"""Scores of predictions against ground truth, without mmengine: COCO average precision on the annotation JSON."""

from __future__ import annotations

from effdense.evaluation.coco_ap import evaluate_coco
from effdense.evaluation.coco_scores import CocoScores

__all__ = ["CocoScores", "evaluate_coco"]
