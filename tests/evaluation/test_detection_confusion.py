"""Which class is taken for which: by hand, and against the rule written as a loop over all pairs."""

from __future__ import annotations

import numpy as np
import pytest

from effdense.errors import ConfigError
from effdense.evaluation import Found, Truth, detection_confusion
from tests.evaluation.test_detection_curves import FAR, A, B, C, found_of, random_columns, truth_of


def by_loop(truth: Truth, found: Found, score: float, iou: float) -> np.ndarray:
    """The rule of the module, pair by pair."""

    def overlap(d: np.ndarray, g: np.ndarray, crowd: bool) -> float:
        w = min(d[0] + d[2], g[0] + g[2]) - max(d[0], g[0])
        h = min(d[1] + d[3], g[1] + g[3]) - max(d[1], g[1])
        if w <= 0 or h <= 0:
            return 0.0
        return w * h / (d[2] * d[3] if crowd else d[2] * d[3] + g[2] * g[3] - w * h)

    counts = np.zeros((len(truth.category_ids) + 1,) * 2, int)
    for image in truth.image_ids:
        dets = [i for i in range(len(found)) if found.image[i] == image and found.score[i] >= score]
        gts = [j for j in range(len(truth)) if truth.image[j] == image]
        table = {(i, j): overlap(found.xywh[i], truth.xywh[j], bool(truth.is_crowd[j])) for i in dets for j in gts}
        pairs = [pair for pair, value in table.items() if value >= iou and not truth.is_crowd[pair[1]]]
        pairs.sort(key=lambda p: (-table[p], found.category[p[0]] != truth.category[p[1]], -found.score[p[0]], *p))
        took, given = set(), set()
        for i, j in pairs:
            if i not in took and j not in given:
                took.add(i)
                given.add(j)
                counts[truth.category[j] - 1, found.category[i] - 1] += 1
        for i in set(dets) - took:
            if not any(truth.is_crowd[j] and table[i, j] >= iou for j in gts):
                counts[-1, found.category[i] - 1] += 1
        for j in set(gts) - given:
            counts[truth.category[j] - 1, -1] += not truth.is_crowd[j]
    return counts


def test_by_hand() -> None:
    """A cat taken for a dog, a cat found twice, a cat missed, a dog out of nothing, a cat below the threshold."""
    truth = truth_of([(1, 1, A, False), (1, 1, B, False), (2, 1, C, False), (3, 2, A, False)])
    found = found_of([(1, 2, A, 0.9), (1, 1, B, 0.8), (1, 1, B, 0.7), (2, 2, FAR, 0.6), (2, 1, C, 0.2), (3, 2, A, 0.5)])
    confusion = detection_confusion(truth, found, score_threshold=0.25)
    assert confusion.counts.tolist() == [[1, 1, 1], [0, 1, 0], [1, 1, 0]]
    assert confusion.normalised()[0].tolist() == pytest.approx([1 / 3] * 3)
    assert confusion.to_dict()["classes"] == ["cat", "dog", "background"]
    assert detection_confusion(truth, found, score_threshold=0.2).counts[0].tolist() == [2, 1, 0]


def test_the_larger_overlap_wins_and_of_equal_ones_the_right_class() -> None:
    truth = truth_of([(1, 1, A, False)])
    near = [1.0, 0, 10, 10]
    assert detection_confusion(truth, found_of([(1, 1, near, 0.9), (1, 2, A, 0.3)])).counts[0].tolist() == [0, 1, 0]
    assert detection_confusion(truth, found_of([(1, 2, A, 0.9), (1, 1, A, 0.3)])).counts[0].tolist() == [1, 0, 0]


def test_crowds_excuse_detections_of_any_class() -> None:
    truth = truth_of([(1, 1, [0.0, 0, 100, 100], True), (1, 2, [10.0, 10, 20, 20], False)])
    found = found_of([(1, 2, [10.0, 10, 20, 20], 0.9), (1, 2, [50.0, 50, 20, 20], 0.8), (1, 1, FAR, 0.7)])
    assert detection_confusion(truth, found).counts.tolist() == [[0, 0, 0], [0, 1, 0], [1, 0, 0]]


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize(("score", "iou"), [(0.25, 0.5), (0.0, 0.3), (0.6, 0.75)])
def test_equal_to_the_rule_as_a_loop(seed: int, score: float, iou: float) -> None:
    truth, found = random_columns(seed)
    confusion = detection_confusion(truth, found, score_threshold=score, iou_threshold=iou)
    assert confusion.counts.tolist() == by_loop(truth, found, score, iou).tolist()
    assert confusion.counts[:-1].sum() == (~truth.is_crowd).sum() and confusion.counts[-1, -1] == 0


def test_nothing_at_all_and_wrong_options() -> None:
    empty = detection_confusion(truth_of([]), found_of([]))
    assert empty.counts.sum() == 0 and empty.normalised().sum() == 0
    with pytest.raises(ConfigError, match=r"iou_threshold is 0"):
        detection_confusion(truth_of([]), found_of([]), iou_threshold=0)
    with pytest.raises(ConfigError, match=r"score_threshold is nan"):
        detection_confusion(truth_of([]), found_of([]), score_threshold=float("nan"))
