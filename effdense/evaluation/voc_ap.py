"""PASCAL VOC's average precision at one IoU: the area under the whole curve (2010 on), or eleven points of it (2007).

It differs from COCO's in more than the thresholds: a detection belongs to the ground truth it overlaps most, even if
that is taken (then it is a false alarm); there is no limit of detections per image. What is difficult (here
``is_crowd``) is neither found nor missed, and overlaps like any object. Boxes are continuous: the devkit's "+ 1 pixel"
belongs to its inclusive corners.
Sources: Everingham et al. 2010, section 4.2; VOCdevkit, VOCevaldet.m (matching, 11 points in 2007, VOCap.m after).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from effdense.errors import ConfigError
from effdense.evaluation.columns import Found, Truth
from effdense.evaluation.overlaps import overlapping_pairs


@dataclass(frozen=True)
class VocScores:
    """AP of each class and their mean; -1 where no ground truth counts, which the mean leaves out."""

    mean: float
    per_class_ap: dict[str, float] = field(default_factory=dict)
    iou: float = 0.5
    rule: str = "VOC2010"

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON: ``mean``, ``classes`` (name -> AP), ``iou``, ``rule``."""
        return {"mean": self.mean, "classes": self.per_class_ap, "iou": self.iou, "rule": self.rule}


def voc_ap(truth: Truth, found: Found, *, iou: float = 0.5, year: Literal[2007, 2010] = 2010) -> VocScores:
    """Score checked columns.

    Args:
        iou: a detection is right from this overlap on. year: 2010 for the area under the curve, 2007 for 11 points.

    Raises: ConfigError for an IoU outside (0, 1] or another year.
    """
    if not 0 < iou <= 1:
        raise ConfigError(f"voc_ap: iou is {iou}; expected a number above 0 and up to 1.")
    if year not in (2007, 2010):
        raise ConfigError(f"voc_ap: year is {year!r}; expected 2007 (11 points) or 2010 (whole curve).")
    classes = len(truth.category_ids)
    label = np.searchsorted(truth.category_ids, found.category)
    own, theirs = np.searchsorted(truth.category_ids, truth.category), np.searchsorted(truth.image_ids, found.image)
    # By class, then falling score; equal scores by image id, then as they came.
    order = np.lexsort((theirs, -found.score, label))
    hit, excused = _hits(truth, found, own, theirs * classes + label, order, iou)
    starts = np.searchsorted(label[order], np.arange(classes + 1))
    positives = np.bincount(own[~truth.is_crowd], minlength=classes)
    ap = {}
    for k, name in enumerate(truth.class_names):
        rows = slice(*starts[k : k + 2].tolist())
        valid = ~excused[rows]
        ap[name] = _average(hit[rows][valid], int(positives[k]), year)
    scored = [value for value in ap.values() if value >= 0]
    return VocScores(float(np.mean(scored)) if scored else -1.0, ap, float(iou), f"VOC{year}")


def _hits(
    truth: Truth,
    found: Found,
    own: NDArray[np.int64],
    cell: NDArray[np.int64],
    order: NDArray[np.int64],
    iou: float,
) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """(D,) hit and (D,) excused, of the detections in ``order``."""
    place = np.empty(len(order), np.int64)
    place[order] = np.arange(len(order))
    truth_cell = np.searchsorted(truth.image_ids, truth.image) * len(truth.category_ids) + own
    by_cell, truth_by_cell = np.argsort(cell, kind="stable"), np.argsort(truth_cell, kind="stable")
    nobody = np.zeros(len(truth), bool)
    pairs = overlapping_pairs(
        cell[by_cell],
        truth_cell[truth_by_cell],
        found.xywh[by_cell],
        truth.xywh[truth_by_cell],
        nobody,
        iou,
    )
    # Each detection and the ground truth it overlaps most, of equal ones the first.
    best_first = np.lexsort((pairs.truth, -pairs.iou, pairs.detection))
    detection, other = pairs.detection[best_first], pairs.truth[best_first]
    firsts = np.flatnonzero(np.diff(detection, prepend=-1))
    at, other = place[by_cell[detection[firsts]]], truth_by_cell[other[firsts]]
    hit, excused = np.zeros(len(order), bool), np.zeros(len(order), bool)
    difficult = truth.is_crowd[other]
    excused[at[difficult]] = True
    at, other = at[~difficult], other[~difficult]
    by_score = np.argsort(at, kind="stable")
    _, first = np.unique(other[by_score], return_index=True)  # the best-scored detection of each ground truth
    hit[at[by_score[first]]] = True
    return hit, excused


def _average(hit: NDArray[np.bool_], positives: int, year: int) -> float:
    if not positives:
        return -1.0
    hits = np.cumsum(hit)
    precision = hits / np.arange(1, len(hits) + 1)
    if year == 2007:
        # recall >= t / 10 in whole numbers: 3 / 10 >= 0.1 * 3 is false in floats.
        reached = [10 * hits >= tenth * positives for tenth in range(11)]
        return float(np.mean([precision[enough].max(initial=0.0) for enough in reached]))
    best = np.maximum.accumulate(precision[::-1])[::-1]
    return float(best[hit].sum() / positives)
