"""Precision, recall and F1 against the score: by hand, against a count anew at every threshold, and crowds left out."""

from __future__ import annotations

import json

import numpy as np
import pytest

from effdense.errors import ConfigError
from effdense.evaluation import Curves, Found, Truth, curves_of, evaluate_coco, match


def truth_of(rows: list[tuple[int, int, list[float], bool]], classes: int = 2) -> Truth:
    """Rows of image id, category id, box, is_crowd."""
    boxes = np.array([row[2] for row in rows], np.float64).reshape(-1, 4)
    return Truth(
        name="by hand",
        image_ids=np.arange(1, 6),
        category_ids=np.arange(1, classes + 1),
        class_names=("cat", "dog", "bird")[:classes],
        image=np.array([row[0] for row in rows], np.int64),
        category=np.array([row[1] for row in rows], np.int64),
        xywh=boxes,
        area=boxes[:, 2] * boxes[:, 3],
        is_crowd=np.array([row[3] for row in rows], bool),
    )


def found_of(rows: list[tuple[int, int, list[float], float]]) -> Found:
    return Found(
        image=np.array([row[0] for row in rows], np.int64),
        category=np.array([row[1] for row in rows], np.int64),
        xywh=np.array([row[2] for row in rows], np.float64).reshape(-1, 4),
        score=np.array([row[3] for row in rows], np.float64),
    )


A, B, C, FAR = [0.0, 0, 10, 10], [20.0, 0, 10, 10], [40.0, 0, 10, 10], [200.0, 200, 10, 10]
TRUTH = truth_of([(1, 1, A, False), (1, 1, B, False), (2, 1, C, False), (2, 2, A, False)])
FOUND = found_of([(1, 1, A, 0.9), (1, 1, FAR, 0.8), (1, 1, B, 0.6), (2, 1, FAR, 0.6), (2, 1, FAR, 0.1)])


def random_columns(seed: int) -> tuple[Truth, Found]:
    rng = np.random.default_rng(seed)
    number, detections = 60, 200
    place = rng.uniform(0, 60, (number, 2))
    boxes = np.column_stack([place, rng.uniform(5, 40, (number, 2))])
    rows = [(int(rng.integers(1, 6)), int(rng.integers(1, 3)), box, bool(rng.random() < 0.1)) for box in boxes.tolist()]
    found = []
    for _ in range(detections):
        image, category, box, _ = rows[int(rng.integers(number))]
        moved = (np.array(box) + rng.normal(0, 2, 4)).clip(0.1).tolist()
        found.append((image, category, moved, float(rng.integers(0, 20)) / 20))
    return truth_of(rows, classes=3), found_of(found)


def test_by_hand() -> None:
    """cat: hit, false alarm, hit and false alarm at one score, false alarm; of 3. At .6: P 2/4, R 2/3, F1 4/7."""
    curves = Curves.of(match(TRUTH, FOUND))
    cat = curves.classes["cat"]
    assert cat.score.tolist() == [0.9, 0.8, 0.6, 0.1]
    assert cat.hits.tolist() == [1, 1, 2, 2] and cat.false_alarms.tolist() == [0, 1, 2, 3]
    assert cat.positives == 3
    best = curves.best("cat")
    assert (best.score, best.precision, best.recall) == (0.6, 0.5, pytest.approx(2 / 3))
    assert best.f1 == pytest.approx(4 / 7) and (best.hits, best.false_alarms, best.missed) == (2, 2, 1)
    assert curves.overall.positives == 4 and curves.best().f1 == pytest.approx(2 * 2 / (2 * 2 + 2 + 2))
    assert curves.best().sentence() == "best F1 0.500 at score 0.600: precision 0.500, recall 0.500 (IoU 0.50)"


def test_what_a_threshold_keeps() -> None:
    cat = Curves.of(match(TRUTH, FOUND)).curve("cat")
    assert (cat.at(0.6).hits, cat.at(0.6).false_alarms) == (2, 2), "scores equal to the threshold stay"
    assert (cat.at(0.61).hits, cat.at(0.61).false_alarms, cat.at(0.61).missed) == (1, 1, 2)
    assert cat.at(0.95).hits == 0 and cat.at(0.95).missed == 3 and cat.at(0.95).f1 == 0.0
    assert cat.at(0.7).score == 0.7


def test_classes_without_objects_or_without_detections() -> None:
    curves = Curves.of(match(truth_of([(1, 1, A, False)], classes=3), found_of([(1, 2, A, 0.5)])))
    assert (curves.best("cat").f1, curves.best("cat").score, curves.best("cat").missed) == (0.0, -1.0, 1)
    assert curves.best("dog").f1 == -1.0 and curves.best("dog").false_alarms == 1
    assert curves.best("bird").f1 == -1.0
    assert curves.classes["bird"].precision_at().sum() == 0
    nothing = Curves.of(match(truth_of([]), found_of([])))
    assert nothing.best().f1 == -1.0
    assert Curves.of(match(truth_of([(1, 1, A, False)]), found_of([]))).best().sentence().startswith("best F1: no det")


def test_what_a_crowd_excuses_is_neither_right_nor_wrong() -> None:
    truth = truth_of([(1, 1, A, False), (1, 1, [100.0, 100, 200, 200], True)])
    found = found_of([(1, 1, [110.0, 110, 20, 20], 0.95), (1, 1, A, 0.9), (1, 1, [150.0, 150, 20, 20], 0.3)])
    cat = curves_of(truth, found).classes["cat"]
    assert cat.hits.tolist() == [0, 1, 1] and cat.false_alarms.tolist() == [0, 0, 0] and cat.positives == 1
    assert cat.best().f1 == 1.0 and cat.best().score == 0.9


@pytest.mark.parametrize("seed", range(4))
def test_every_point_is_what_matching_only_those_detections_gives(seed: int) -> None:
    truth, found = random_columns(seed)
    curves = Curves.of(match(truth, found), 0.6)
    for name in ("cat", "dog"):
        curve = curves.classes[name]
        for i in range(0, len(curve.score), 3):
            kept = curves_of(truth, found.take(found.score >= curve.score[i]), iou=0.6).classes[name]
            assert (kept.hits[-1], kept.false_alarms[-1]) == (curve.hits[i], curve.false_alarms[i])
    assert curves.best("cat").f1 == curves.classes["cat"].f1.max() > 0.3
    names = ("cat", "dog", "bird")
    assert curves.overall.hits[-1] == sum(int(curves.classes[name].hits[-1:].sum()) for name in names)


@pytest.mark.parametrize("seed", range(3))
def test_interpolated_precision_is_cocos(seed: int) -> None:
    """Without equal scores, where COCO counts one detection at a time and a threshold cannot."""
    truth, found = random_columns(seed)
    rng = np.random.default_rng(seed)
    found = Found(found.image, found.category, found.xywh, rng.random(len(found)))
    scores = evaluate_coco(truth, found)
    assert scores.arrays is not None and scores.matches is not None
    curves = Curves.of(scores.matches)
    for k, name in enumerate(("cat", "dog")):
        np.testing.assert_allclose(
            curves.classes[name].precision_at(), scores.arrays.precision[0, :, k, 0, 2], atol=1e-12
        )


def test_as_json() -> None:
    content = json.loads(json.dumps(curves_of(TRUTH, FOUND).to_dict(points=11)))
    assert content["thresholds"] == [round(0.1 * i, 6) for i in range(11)]
    cat = content["classes"]["cat"]
    assert cat["recall"][6] == pytest.approx(2 / 3, abs=1e-6) and cat["precision"][6] == 0.5
    assert cat["precision"][10] == cat["recall"][10] == cat["f1"][10] == 0.0
    assert len(cat["precision_at_recall"]) == len(content["recalls"]) == 101
    logits = Found(FOUND.image, FOUND.category, FOUND.xywh, FOUND.score * 10 - 3)
    assert curves_of(TRUTH, logits).to_dict(points=3)["thresholds"] == [-2.0, 2.0, 6.0]


def test_what_cannot_be_drawn_is_named() -> None:
    matches = match(TRUTH, FOUND)
    with pytest.raises(ConfigError, match=r"curves at IoU 0.3: the matches were made at 0.50, .*curves_of"):
        Curves.of(matches, 0.3)
    with pytest.raises(ConfigError, match=r"no class 'cta'. Did you mean 'cat'"):
        Curves.of(matches).curve("cta")
    with pytest.raises(ConfigError, match=r"iou is 0; expected a number above 0"):
        curves_of(TRUTH, FOUND, iou=0)
    assert curves_of(TRUTH, FOUND, iou=0.3).best("cat").iou == 0.3
