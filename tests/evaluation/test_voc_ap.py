"""PASCAL VOC average precision: by hand, and against the devkit's procedure written as a loop."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest

from effdense.errors import ConfigError
from effdense.evaluation import Found, Truth, voc_ap
from tests.evaluation.test_detection_curves import FAR, A, B, C, found_of, random_columns, truth_of


def by_loop(truth: Truth, found: Found, category: int, year: int, limit: float) -> float:
    """VOCevaldet, detection by detection, in fractions."""
    positives = sum(1 for j in range(len(truth)) if truth.category[j] == category and not truth.is_crowd[j])
    if not positives:
        return -1.0
    dets = [i for i in range(len(found)) if found.category[i] == category]
    dets.sort(key=lambda i: (-found.score[i], found.image[i], i))
    taken: set[int] = set()
    marks = []
    for i in dets:
        best, which = -np.inf, -1
        d = found.xywh[i]
        for j in range(len(truth)):
            if truth.image[j] != found.image[i] or truth.category[j] != category:
                continue
            g = truth.xywh[j]
            w, h = (min(d[k] + d[k + 2], g[k] + g[k + 2]) - max(d[k], g[k]) for k in (0, 1))
            if w > 0 and h > 0:
                overlap = w * h / (d[2] * d[3] + g[2] * g[3] - w * h)
                if overlap > best:
                    best, which = overlap, j
        if best >= limit and truth.is_crowd[which]:
            continue
        marks.append(best >= limit and which not in taken)
        if marks[-1]:
            taken.add(which)
    curve, hits = [], 0
    for n, mark in enumerate(marks, start=1):
        hits += mark
        curve.append((Fraction(hits, positives), Fraction(hits, n)))
    if year == 2007:
        tenths = [Fraction(t, 10) for t in range(11)]
        return float(sum(max((p for r, p in curve if r >= t), default=Fraction(0)) for t in tenths) / 11)
    area, last = Fraction(0), Fraction(0)
    for n, (recall, _) in enumerate(curve):
        area += (recall - last) * max(p for _, p in curve[n:])
        last = recall
    return float(area)


def test_by_hand() -> None:
    """Hit, false alarm, hit, of 3: precision 1 up to recall 1/3, 2/3 up to 2/3; eleven points: 4 at 1, 3 at 2/3."""
    truth = truth_of([(1, 1, A, False), (1, 1, B, False), (2, 1, C, False)])
    found = found_of([(1, 1, A, 0.9), (1, 1, FAR, 0.8), (1, 1, B, 0.7)])
    scores = voc_ap(truth, found)
    assert scores.per_class_ap["cat"] == pytest.approx((1 + 2 / 3) / 3)
    assert scores.per_class_ap["dog"] == -1.0 and scores.mean == scores.per_class_ap["cat"]
    assert voc_ap(truth, found, year=2007).per_class_ap["cat"] == pytest.approx((4 + 3 * 2 / 3) / 11)
    assert scores.to_dict()["rule"] == "VOC2010"


def test_a_second_detection_of_what_is_found_is_a_false_alarm_even_beside_a_free_object() -> None:
    """It overlaps a taken object most: COCO would give it the other one, VOC does not."""
    truth = truth_of([(1, 1, A, False), (1, 1, [4.0, 0, 10, 10], False)])
    found = found_of([(1, 1, A, 0.9), (1, 1, [1.0, 0, 10, 10], 0.8)])
    assert voc_ap(truth, found).per_class_ap["cat"] == 0.5


def test_difficult_objects_are_neither_found_nor_missed() -> None:
    truth = truth_of([(1, 1, A, False), (1, 1, B, True)])
    assert voc_ap(truth, found_of([(1, 1, B, 0.9), (1, 1, B, 0.85), (1, 1, A, 0.8)])).mean == 1.0


def test_recall_of_three_tenths_is_reached() -> None:
    """3 of 10 found: recall points 0, .1, .2 and .3; in floats 0.3 >= 3 * 0.1 would fail."""
    boxes = [[20.0 * i, 0, 10, 10] for i in range(10)]
    truth = truth_of([(1, 1, box, False) for box in boxes])
    found = found_of([(1, 1, box, 0.9) for box in boxes[:3]])
    assert voc_ap(truth, found, year=2007).mean == pytest.approx(4 / 11)


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("year", [2007, 2010])
def test_equal_to_the_devkit_as_a_loop(seed: int, year: int) -> None:
    truth, found = random_columns(seed)
    for limit in (0.5, 0.7):
        scores = voc_ap(truth, found, iou=limit, year=year)  # type: ignore[arg-type]
        expected = [by_loop(truth, found, category, year, limit) for category in (1, 2, 3)]
        assert list(scores.per_class_ap.values()) == pytest.approx(expected, abs=1e-12)
        assert scores.mean == pytest.approx(np.mean(expected[:2]), abs=1e-12)


def test_nothing_and_wrong_options() -> None:
    assert voc_ap(truth_of([]), found_of([])).mean == -1.0
    assert voc_ap(truth_of([(1, 1, A, False)]), found_of([])).mean == 0.0
    with pytest.raises(ConfigError, match="iou is 2"):
        voc_ap(truth_of([]), found_of([]), iou=2)
    with pytest.raises(ConfigError, match="year is 2012; expected 2007"):
        voc_ap(truth_of([]), found_of([]), year=2012)  # type: ignore[arg-type]
