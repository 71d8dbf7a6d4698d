"""What the numbers of a box say about their order: each form by hand, and that good boxes are never called wrong."""

import numpy as np

from effdense.data.checks.box_forms import likely_order, look_like_corners, look_relative

LIMIT = np.array([[100.0, 80.0]])


def corners(boxes, areas, limit=LIMIT):
    boxes = np.array(boxes, float)
    return look_like_corners(boxes, np.array(areas, float), np.repeat(limit, len(boxes), 0)).tolist()


def test_by_area_where_areas_are_box_areas():
    boxes = [[10, 20, 30, 50], [10, 20, 30, 50], [1, 1, 9, 9]]
    assert corners(boxes, [20 * 30, 30 * 50, 81]) == [True, False, False]


def test_a_mask_area_that_fits_by_chance_is_no_evidence():
    boxes = [[10, 20, 30, 50], [5, 5, 30, 30], [1, 1, 9, 9]]
    assert corners(boxes, [20 * 30, 700, 60]) == [False, False, False]


def test_by_leaving_the_picture():
    assert corners([[60, 40, 80, 70]], [np.nan]) == [True]
    assert corners([[60, 40, 50, 70]], [np.nan]) == [False]  # 50 < 60: no corners
    assert corners([[60, 40, 43, 45]], [np.nan]) == [False]  # ends 3 px beyond: a matter of rounding


def test_good_boxes_with_noise_are_never_corners():
    rng = np.random.default_rng(0)
    low = rng.uniform(0, 1, (5000, 2)) * LIMIT
    size = rng.uniform(0, 1, (5000, 2)) * (LIMIT - low)
    boxes = np.concatenate([low, size], 1)
    assert not any(corners(boxes, size.prod(1)))
    assert not any(corners(boxes, size.prod(1) * rng.uniform(0.3, 0.9, 5000)))


def test_fractions():
    boxes = np.array([[0.1, 0.2, 0.3, 0.4], [0, 0, 1, 1], [0, 0, 1, 0.5], [0.5, 0.5, 1.5, 0.5]])
    assert look_relative(boxes).tolist() == [True, False, True, False]


def test_order_of_all_boxes():
    rng = np.random.default_rng(1)
    limit = np.repeat([[100.0, 40.0]], 200, 0)  # a wide picture: rows written first leave it below
    low = rng.uniform(0, 0.6, (200, 2)) * limit
    size = rng.uniform(0.1, 0.39, (200, 2)) * limit
    forms = {
        "corners": np.concatenate([low, low + size], 1),
        "swapped": np.concatenate([low[:, ::-1], size[:, ::-1]], 1),
        "swapped corners": np.concatenate([low[:, ::-1], (low + size)[:, ::-1]], 1),
        "": np.concatenate([low, size], 1) + 200,
    }
    assert {name: likely_order(boxes, limit) for name, boxes in forms.items()} == {name: name for name in forms}
