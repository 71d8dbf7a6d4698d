"""Pictures of label statistics: they open, have something on them, and hold 1, 90 and very many classes."""

import cv2
import numpy as np
import pytest

from effdense.data.checks.label_statistics import LabelStatistics
from effdense.visualize.label_plots import draw_comparison, draw_labels


def statistics(classes, unit="boxes", boxes=500):
    rng = np.random.default_rng(classes)
    counts = np.sort(rng.zipf(1.5, classes).clip(max=50_000))[::-1].astype(np.int64)
    counts[classes // 2] = 0 if classes > 2 else counts[0]
    geometry = rng.uniform(0, 1, (boxes if unit == "boxes" else 0, 4)).astype(np.float32)
    return LabelStatistics(
        unit, tuple(f"class {i} $x_{i}$" for i in range(classes)), tuple(range(1, classes + 1)), counts, counts,
        sizes=(1, 2, 3), geometry=geometry, aspects=np.exp(rng.normal(size=len(geometry))).astype(np.float32),
        objects_per_image=rng.integers(0, 9, 50 if unit == "boxes" else 0),
    )  # fmt: skip


def opened(data):
    picture = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
    assert picture is not None
    return picture


@pytest.mark.parametrize("unit", ["boxes", "pixels", "pictures"])
@pytest.mark.parametrize("classes", [1, 90, 400])
def test_amounts(classes, unit):
    picture = opened(draw_labels("train", statistics(classes, unit)))
    assert 1300 < picture.shape[1] <= 2000 and picture.shape[0] < 1000
    blue = np.abs(picture.astype(int) - (164, 101, 52)).max(2) < 8  # the bars, BGR
    assert blue.mean() > 0.001


def test_a_split_without_boxes():
    empty = LabelStatistics("boxes", ("a",), (1,), np.zeros(1, np.int64), np.zeros(1, np.int64))
    assert opened(draw_labels("train", empty)).std() > 5


def test_comparison_shows_each_split_in_its_colour():
    picture = opened(draw_comparison({"train": statistics(20), "val": statistics(20, boxes=3)})).astype(int)
    for color in ((164, 101, 52), (57, 123, 224)):  # BGR
        assert (np.abs(picture - color).max(2) < 12).sum() > 100
