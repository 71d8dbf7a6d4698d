"""The ranking of pictures, recall by size and shape, and calibration, by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest

from effdense.errors import ShapeError
from effdense.evaluation.columns import Found, Truth
from effdense.evaluation.error_matching import match_errors
from effdense.evaluation.size_recall import (
    calibration_error,
    recall_by_coco_size,
    recall_by_shape,
    recall_by_size,
    score_bins,
)
from effdense.evaluation.worst_images import rank_images

# Picture 1: found. Picture 2: one found weakly, one missed, one false. Picture 4: a crowd. Picture 5: nothing.
BOXES = np.array([[0, 0, 10, 10], [0, 0, 10, 10], [40, 0, 40, 20], [0, 0, 100, 100]], np.float64)
TRUTH = Truth(
    name="by hand",
    image_ids=np.array([1, 2, 4, 5]),
    category_ids=np.array([1]),
    class_names=("cell",),
    image=np.array([1, 2, 2, 4]),
    category=np.ones(4, np.int64),
    xywh=BOXES,
    area=BOXES[:, 2] * BOXES[:, 3],
    is_crowd=np.array([False, False, False, True]),
)
FOUND = Found(
    image=np.array([1, 2, 2, 4]),
    category=np.ones(4, np.int64),
    xywh=np.array([[0, 0, 10, 10], [0, 0, 10, 10], [90, 90, 5, 5], [10, 10, 5, 5]], np.float64),
    score=np.array([0.9, 0.3, 0.6, 0.8]),
)
MATCHING = match_errors(TRUTH, FOUND)


def test_ranking() -> None:
    ranking = rank_images(TRUTH, FOUND, MATCHING, 0.2)
    assert ranking.lost.tolist() == pytest.approx([0, 1.6, 0, 0])
    assert (ranking.false.tolist(), ranking.missed.tolist(), ranking.right.tolist()) == (
        [0, 1, 0, 0],
        [0, 1, 0, 0],
        [1, 1, 0, 0],
    )
    assert ranking.worst.tolist() == [1, 0, 2, 3]
    assert ranking.best.tolist() == [0, 1]  # pictures without objects are no good examples


def test_a_threshold_hides_weak_ones() -> None:
    ranking = rank_images(TRUTH, FOUND, MATCHING, np.array([0.5]))
    assert ranking.lost.tolist() == pytest.approx([0, 2.6, 0, 0]) and ranking.missed.tolist() == [0, 2, 0, 0]
    assert ranking.taken.tolist() == [True, False, False, False]
    with pytest.raises(ShapeError, match="thresholds"):
        rank_images(TRUTH, FOUND, MATCHING, np.array([0.5, 0.5]))


def test_recall_by_size_and_shape() -> None:
    taken = rank_images(TRUTH, FOUND, MATCHING, 0.5).taken
    sizes = {one.name: one for one in recall_by_coco_size(TRUTH, MATCHING, taken)}
    assert [one.instances for one in sizes.values()] == [3, 0, 0]  # 800 px is small, the crowd is left out
    assert sizes["small"].recall == pytest.approx(2 / 3) and sizes["small"].recall_shown == pytest.approx(1 / 3)
    assert math.isnan(sizes["large"].recall)
    finer = {one.name: one.instances for one in recall_by_size(TRUTH, MATCHING, taken) if one.instances}
    assert finer == {"8-16 px": 2, "16-32 px": 1}
    shapes = {one.name: one.instances for one in recall_by_shape(TRUTH, MATCHING, taken) if one.instances}
    assert shapes == {"0.75-1.3": 2, "2-3": 1}


def test_calibration() -> None:
    """0.9 and 0.3 are right, 0.6 is false, 0.8 is excused: (0.1 + 0.7 + 0.6) / 3."""
    bins = score_bins(MATCHING, FOUND.score, bins=10)
    assert [(one.right, one.false) for one in bins if one.right + one.false] == [(1, 0), (0, 1), (1, 0)]
    assert calibration_error(bins) == pytest.approx(1.4 / 3)
    assert math.isnan(calibration_error([]))
