"""Which class is taken for which: a (K + 1, K + 1) matrix of counts with a row and a column for the background.

The rule: detections with a score of at least ``score_threshold`` and ground truths of the same image, whatever their
classes, are paired from the largest overlap down (each at most once, overlap >= ``iou_threshold``); of equal overlaps
those of one class come first, then the higher score, then the earlier in the input. A ground truth left over counts as
taken for background, a detection left over as background taken for its class, unless at least ``iou_threshold`` of it
lies in a crowd region. Crowd regions themselves are not counted.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from effdense.errors import ConfigError
from effdense.evaluation.columns import Found, Truth
from effdense.evaluation.overlaps import Pairs, overlapping_pairs

BACKGROUND = "background"


@dataclass(frozen=True, eq=False)
class DetectionConfusion:
    """Counts; row = truth, column = prediction, the last of each is the background (nothing there, nothing found)."""

    class_names: tuple[str, ...]
    counts: NDArray[np.int64] = field(repr=False)  # (K + 1, K + 1); the last cell is 0
    score_threshold: float
    iou_threshold: float

    def normalised(self) -> NDArray[np.float64]:
        """Shares of each row: (K + 1, K + 1); rows sum to 1, or are 0 where there was nothing."""
        return self.counts / np.maximum(self.counts.sum(1, keepdims=True), 1)

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON: ``classes`` (with the background), ``counts``, ``score_threshold``, ``iou_threshold``."""
        return {
            "classes": [*self.class_names, BACKGROUND],
            "counts": self.counts.tolist(),
            "score_threshold": self.score_threshold,
            "iou_threshold": self.iou_threshold,
        }


def detection_confusion(
    truth: Truth,
    found: Found,
    *,
    score_threshold: float = 0.25,
    iou_threshold: float = 0.5,
    masks: bool = False,
) -> DetectionConfusion:
    """The matrix of checked columns; the rule is that of this module.

    Raises: ConfigError for an IoU threshold outside (0, 1] or a score threshold that is no number.
    """
    if not 0 < iou_threshold <= 1:
        raise ConfigError(f"confusion: iou_threshold is {iou_threshold}; expected a number above 0 and up to 1.")
    if not np.isfinite(score_threshold):
        raise ConfigError(f"confusion: score_threshold is {score_threshold}; expected a finite number.")
    classes = len(truth.category_ids)
    found = found.take(found.score >= score_threshold)
    found_image, truth_image = (np.searchsorted(truth.image_ids, side.image) for side in (found, truth))
    found_class, truth_class = (np.searchsorted(truth.category_ids, side.category) for side in (found, truth))
    found_order, truth_order = np.argsort(found_image, kind="stable"), np.argsort(truth_image, kind="stable")
    crowd = truth.is_crowd[truth_order]
    pairs = overlapping_pairs(
        found_image[found_order],
        truth_image[truth_order],
        _ordered(found.rle, found_order) if masks else found.xywh[found_order],
        _ordered(truth.rle, truth_order) if masks else truth.xywh[truth_order],
        crowd,
        iou_threshold,
    )
    f_class, t_class = found_class[found_order], truth_class[truth_order]
    real = ~crowd[pairs.truth]
    chosen = _largest_first(
        Pairs(pairs.detection[real], pairs.truth[real], pairs.iou[real]), f_class, t_class, found.score[found_order]
    )
    detection, other = chosen
    counts = np.zeros((classes + 1, classes + 1), np.int64)
    np.add.at(counts, (t_class[other], f_class[detection]), 1)
    excused = np.zeros(len(found), bool)
    excused[pairs.detection[~real]] = True
    excused[detection] = True
    counts[classes, :classes] += np.bincount(f_class[~excused], minlength=classes)
    missed = ~crowd
    missed[other] = False
    counts[:classes, classes] += np.bincount(t_class[missed], minlength=classes)
    return DetectionConfusion(truth.class_names, counts, float(score_threshold), float(iou_threshold))


def _ordered(masks: Any, order: NDArray[np.int64]) -> list[Any]:
    return [masks[i] for i in order.tolist()]


def _largest_first(
    pairs: Pairs, found_class: NDArray[np.int64], truth_class: NDArray[np.int64], score: NDArray[np.float64]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """(n,) detections and (n,) ground truths, paired from the first in order down, each at most once.

    A pair that is the first of all for both its sides is taken whatever happens elsewhere, so all such pairs are taken
    together, round by round, until none is left.
    """
    differ = found_class[pairs.detection] != truth_class[pairs.truth]
    order = np.lexsort((pairs.truth, pairs.detection, -score[pairs.detection], differ, -pairs.iou))
    detection, other = pairs.detection[order], pairs.truth[order]
    taken: list[tuple[NDArray[np.int64], NDArray[np.int64]]] = []
    first_of_found = np.zeros(len(found_class), np.int64)
    first_of_truth = np.zeros(len(truth_class), np.int64)
    while len(detection):
        numbers = np.arange(len(detection))
        first_of_found[detection[::-1]] = numbers[::-1]  # the last written, which is the first pair, stays
        first_of_truth[other[::-1]] = numbers[::-1]
        mutual = (first_of_found[detection] == numbers) & (first_of_truth[other] == numbers)
        taken.append((detection[mutual], other[mutual]))
        used_found, used_truth = np.zeros(len(found_class), bool), np.zeros(len(truth_class), bool)
        used_found[detection[mutual]] = True
        used_truth[other[mutual]] = True
        left = ~(used_found[detection] | used_truth[other])
        detection, other = detection[left], other[left]
    empty = np.zeros(0, np.int64)
    return np.concatenate([empty, *(d for d, _ in taken)]), np.concatenate([empty, *(t for _, t in taken)])
